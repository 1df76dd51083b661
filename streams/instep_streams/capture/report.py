"""All that `instep capture status` shows of one source."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from instep.change import format_lsn
from instep.journal import JournalEntry
from instep.settings import Settings
from instep.topics import journal_topic
from instep_connectors.kafka import partitions
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.guard import Health, judge
from instep_connectors.postgres.session import connect, store_failure
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.control import progressing
from instep_streams.capture.gap import Gap
from instep_streams.capture.history import recent, summed
from instep_streams.capture.status import lag
from instep_streams.capture.withheld import waiting


def report(settings: Settings, source: str) -> dict[str, Any]:
    """Look at store, slot and journal.

    Returns:
        `state`: one sentence. `steps`: per step its position and how far it is behind the one before, in bytes of WAL
        and in seconds (None: not known). `slot`: health with `level`, `retained_bytes`, `limit_bytes`,
        `full_in_minutes`, `cause`, `remedy`; None without a slot. `snapshot`: per table how far its copy is
        (`TableProgress`), its `rate` in rows/s and `left_s`, while one is under way. `recent`: see `Recent`. `stopped`:
        tables that wait for the registry, with how many changes and why.

    Raises:
        InstepError, ConnectionError, TimeoutError: store or broker.
    """
    own = settings.sources[source]
    with connect(own.dsn.reveal(), f"instep status {source}") as store:
        try:
            slot, current = slots.read_slot(store, own.slot), slots.current_lsn(store)
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
    written = recent(settings.kafka, source) if partitions(settings.kafka, journal_topic(source)) else []
    entry = written[-1].entry if written else None
    found = summed(written, time.time(), current)
    idle = slot is None or slot.active_pid is None
    health = None if slot is None else judge(slot, own.wal_budget, found.wal_rate if idle else None, source)
    return {
        "source": source,
        "state": _state(slot, entry),
        "steps": _steps(entry, slot, current),
        "slot": None if slot is None or health is None else _slot(slot, health),
        "snapshot": progressing([(each.at, each.entry.snapshot_state) for each in written]),
        "recent": found.to_dict(),
        "stopped": [
            {"table": table, "changes": each.changes, "reason": each.reason}
            for table, each in waiting(settings.kafka, source, settled=False).items()
        ],
    }


def _state(slot: slots.Slot | None, entry: JournalEntry | None) -> str:
    if entry is None:
        return "nothing was ever captured" if slot is None else "the slot exists, but there is no journal"
    if entry.more and Gap.of(entry) is not None:
        return "a recovery is under way, or was cut off: `instep capture recover` does it again"
    if slot is None:
        return "the slot is gone"
    if slot.wal_status == "lost" or slot.invalidation:
        return "the slot is lost"
    doing = "copying the tables" if entry.snapshot and entry.more else "streaming"
    return doing if slot.active_pid is not None else f"not running (was {doing})"


def _steps(entry: JournalEntry | None, slot: slots.Slot | None, current: int) -> list[dict[str, Any]]:
    behind = lag(entry, slot, current)
    steps: list[dict[str, Any]] = [{"step": "store", "position": format_lsn(current), "bytes": 0, "seconds": 0.0}]
    if entry is not None:
        steps.append(
            {"step": "journal", "position": str(entry.last), "bytes": behind["lag_bytes"],
             "seconds": behind["lag_seconds"]}
        )  # fmt: skip
    if slot is not None:
        confirmed = max(0, captured_lsn(entry) - slot.confirmed) if entry is not None else None
        steps += [
            {"step": "slot confirmed", "position": format_lsn(slot.confirmed), "bytes": confirmed, "seconds": None},
            {"step": "slot restart", "position": format_lsn(slot.restart),
             "bytes": max(0, slot.confirmed - slot.restart), "seconds": None},
        ]  # fmt: skip
    return steps


def _slot(slot: slots.Slot, health: Health) -> dict[str, Any]:
    return {
        "name": slot.name,
        "active_pid": slot.active_pid,
        "wal_status": slot.wal_status,
        "level": health.level.name.lower(),
        "retained_bytes": health.retained,
        "limit_bytes": health.limit,
        "full_in_minutes": None if health.minutes is None else round(health.minutes, 1),
        "cause": health.cause,
        "remedy": health.remedy,
    }
