"""How near a slot is to filling the store's disk, or to being lost. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from instep_connectors.postgres.slot import Slot

_NEAR: Final = 0.8
"""Of the limit, from which on a warning is due."""
_SOON_MIN: Final = 60.0
_WINDOW_S: Final = 300.0
_OWN: Final = 64 << 20
"""Less retained WAL than this is an ordinary day, however fast it comes."""


class Level(IntEnum):
    """How bad it is; the number is the metric's value."""

    FINE = 0
    SOON = 1
    """Near the limit, by what is retained or within the hour at this rate."""
    FULL = 2
    """Past the limit: the disk may fill, or the store drop the slot at its next checkpoint."""
    LOST = 3


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the slot says.

    Attributes:
        level: how bad it is.
        retained: bytes of WAL the store keeps for the slot.
        limit: bytes it may keep; None: no limit is set, neither here nor in the store.
        minutes: until the limit is reached at the present rate; None: not known, or it does not grow.
        cause: one sentence; empty when all is fine.
        remedy: what to do.
    """

    level: Level
    retained: int
    limit: int | None
    minutes: float | None
    cause: str = ""
    remedy: str = ""


def judge(slot: Slot, budget: int, growth: float | None, source: str) -> Health:
    """Judge one look at a slot.

    Args:
        slot: as the store shows it.
        budget: bytes of WAL that the settings allow; 0: no budget.
        growth: bytes per second by which the retained WAL grows; None: not known.
        source: the source's name, for the remedy.
    """
    retained = slot.retained_bytes
    limits = [(budget, "wal_budget")] if budget else []
    if slot.safe_bytes is not None:
        limits.append((max(0, retained + slot.safe_bytes), "the store's max_slot_wal_keep_size"))
    limit, by = min(limits, default=(None, ""))
    if slot.wal_status == "lost" or slot.invalidation:
        cause = f"The slot {slot.name} is lost ({slot.invalidation or 'its WAL was removed'})."
        return Health(Level.LOST, retained, limit, 0.0, cause, f"`instep capture recover {source}`.")
    minutes = None
    if limit is not None and growth is not None and growth > 0:
        minutes = max(0.0, limit - retained) / growth / 60
    level = _level(slot, retained, limit, minutes)
    if level is Level.FINE:
        return Health(level, retained, limit, minutes)
    when = "" if minutes is None or level is Level.FULL else f", reached in {minutes:.0f} min at this rate"
    cause = (
        f"The store keeps {shown(retained)} of WAL for the slot {slot.name}; the limit is "
        f"{'unknown' if limit is None else shown(limit)} ({by or slot.wal_status}){when}."
    )
    return Health(level, retained, limit, minutes, cause, _remedy(slot, source))


def _level(slot: Slot, retained: int, limit: int | None, minutes: float | None) -> Level:
    if slot.wal_status == "unreserved" or (limit is not None and retained >= limit):
        return Level.FULL
    near = limit is not None and retained >= _NEAR * limit
    soon = minutes is not None and minutes <= _SOON_MIN and retained >= _OWN
    return Level.SOON if near or soon else Level.FINE


def _remedy(slot: Slot, source: str) -> str:
    if slot.active_pid is None:
        return (
            f"Nobody reads it: run `instep capture {source}`, or, if it is not needed any more, "
            f"SELECT pg_drop_replication_slot('{slot.name}');"
        )
    if slot.lag_bytes > slot.retained_bytes // 2:
        return f"Capture is behind: `instep capture status {source}` shows which step is slow."
    return (
        "A long transaction in the store holds it: SELECT pid, xact_start FROM pg_stat_activity "
        "WHERE backend_xid IS NOT NULL ORDER BY xact_start;"
    )


def shown(size: float) -> str:
    """Bytes as a person reads them: `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


class Growth:
    """The rate at which something grows, over the last five minutes."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, now: float, size: int) -> float | None:
        """Take a look (seconds of any clock, bytes); bytes per second, None after the first look."""
        seen = self._seen
        seen.append((now, size))
        while len(seen) > 2 and seen[0][0] < now - _WINDOW_S:
            seen.popleft()
        elapsed = now - seen[0][0]
        return (size - seen[0][1]) / elapsed if elapsed > 0 else None
