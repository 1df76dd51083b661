"""What the end of the journal tells of the last minutes: rates per table, batches, how old a commit is in its topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from instep.journal import JournalEntry
from instep.settings import KafkaSettings
from instep.topics import journal_topic
from instep_connectors.kafka import RangeReader, end_offsets, start_offsets
from instep_schemas.records import decode_journal, unframe
from instep_streams.capture.batch import COUNTED

_ENTRIES: Final = 2_000
"""Entries looked at; each is two offsets, its own and its transaction's end."""
WINDOW_S: Final = 300.0


class Written(NamedTuple):
    """A journal entry, and when it was produced, in seconds since the Unix epoch."""

    at: float
    entry: JournalEntry


def recent(kafka: KafkaSettings, source: str) -> list[Written]:
    """The newest entries, oldest first.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused, or no such journal.
    """
    at = (journal_topic(source), 0)
    start, end = start_offsets(kafka, [at])[at], end_offsets(kafka, [at])[at]
    reader = RangeReader(kafka)
    try:
        records = reader.read({at: (max(start, end - 2 * _ENTRIES), end)})
        return [
            Written(record.timestamp_ms / 1000, decode_journal(unframe(record.value)[1]))
            for record in records
            if record.value is not None
        ]
    finally:
        reader.close()


@dataclass(frozen=True, slots=True)
class Recent:
    """The last five minutes, or what of them the newest entries cover.

    Attributes:
        seconds: how long that is.
        tables: per table, changes per second and changes by operation.
        batches: how many had changes; `changes`: least, median and most of one.
        latency_ms: from a transaction's commit in the store to its batch's production: median, 99th percentile, most.
        wal_rate: bytes per second that the store wrote; None: not known.
    """

    seconds: float
    tables: dict[str, dict[str, float]]
    batches: dict[str, float]
    latency_ms: dict[str, float]
    wal_rate: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "seconds": round(self.seconds, 1),
            "tables": self.tables,
            "batches": self.batches,
            "commit_to_topic_ms": self.latency_ms,
            "wal_bytes_per_second": self.wal_rate,
        }


def summed(written: Sequence[Written], now: float, current: int) -> Recent:
    """Sum the newest entries up.

    Args:
        written: oldest first.
        now: seconds since the Unix epoch.
        current: the store's WAL position now.
    """
    within = [each for each in written if each.at >= now - WINDOW_S]
    seconds = max(now - within[0].at, 1.0) if within else WINDOW_S
    changed = [each for each in within if each.entry.changes]
    streamed = [each for each in changed if not each.entry.snapshot]
    return Recent(
        seconds,
        _tables(changed, seconds),
        {"count": len(changed), **_spread([each.entry.changes for each in changed], "changes_")},
        _spread([max(0.0, each.at * 1000 - each.entry.last_commit_us / 1000) for each in streamed], ""),
        _wal_rate(written, now, current),
    )


def _tables(written: Sequence[Written], seconds: float) -> dict[str, dict[str, float]]:
    sums: dict[str, Counter[str]] = {}
    for _, entry in written:
        for table, counts in entry.counts.items():
            sums.setdefault(table, Counter()).update({op: getattr(counts, op) for op in COUNTED})
    return {
        table: {"per_second": round(counts.total() / seconds, 2), **{op: n for op, n in counts.items() if n}}
        for table, counts in sorted(sums.items())
    }


def _spread(values: Sequence[float], prefix: str) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {
        f"{prefix}median": round(ordered[len(ordered) // 2], 1),
        f"{prefix}p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
        f"{prefix}most": round(ordered[-1], 1),
    }


def _wal_rate(written: Sequence[Written], now: float, current: int) -> float | None:
    """How fast the store writes, by a position of some minutes ago; a snapshot's positions carry no such time."""
    for _, entry in written:
        ago = now - entry.last_commit_us / 1e6
        if not entry.snapshot and 30 <= ago <= WINDOW_S * 2 and entry.last.lsn <= current:
            return round((current - entry.last.lsn) / ago, 1)
    return None
