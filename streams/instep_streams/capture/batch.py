"""A batch: what one Kafka transaction will hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from instep.change import Position
from instep.journal import Counts, JournalEntry, TopicPartition

Headers = list[tuple[str, bytes]]

MAX_BATCH_BYTES: Final = 8 << 20
"""A batch of so many bytes of keys and values is full."""


class Record(NamedTuple):
    """One Kafka record to produce, in the publisher's own order; `partition` -1: by the key; `timestamp_ms` 0: now."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int
    headers: Headers
    timestamp_ms: int = 0


COUNTED = ("read", "create", "update", "delete", "truncate", "rejected")
READ, CREATE, UPDATE, DELETE, TRUNCATE, REJECTED = range(len(COUNTED))


@dataclass(slots=True)
class Batch:
    """Changes of whole source transactions, or of a part of one huge transaction (`more`).

    Attributes:
        records: in the order of the changes.
        counts: per table, in the order of `COUNTED`.
        schema_ids: registry ids that the records use.
        first: position of the first change, None while there is none.
        last: everything up to here is in this batch or an earlier one; None: the batch says nothing yet.
        first_commit_us: commit time of the first transaction.
        last_commit_us: commit time of the last transaction.
        more: the last transaction, or the snapshot, goes on in the next batch.
        snapshot: it belongs to a snapshot.
        snapshot_state: how far the snapshot is, empty when it is complete.
        size: bytes of keys and values.
        changes: how many changes.
    """

    records: list[Record] = field(default_factory=list)
    counts: dict[str, list[int]] = field(default_factory=dict)
    schema_ids: set[int] = field(default_factory=set)
    first: Position | None = None
    last: Position | None = None
    first_commit_us: int = 0
    last_commit_us: int = 0
    more: bool = False
    snapshot: bool = False
    snapshot_state: str = ""
    size: int = 0
    changes: int = 0

    def count(self, table: str, kind: int) -> None:
        """Count one change of a table."""
        counts = self.counts.get(table)
        if counts is None:
            counts = self.counts[table] = [0] * len(COUNTED)
        counts[kind] += 1
        self.changes += 1

    def reach(self, position: Position, committed_us: int) -> None:
        """A change at this position is in the batch now."""
        if self.first is None:
            self.first, self.first_commit_us = position, committed_us
        self.last, self.last_commit_us = position, committed_us

    def pass_by(self, position: Position, committed_us: int) -> None:
        """Nothing more comes up to this position."""
        self.last, self.last_commit_us = position, committed_us


@dataclass(frozen=True, slots=True)
class Origin:
    """Where entries come from: the source's name, epoch, and server."""

    source: str
    epoch: int
    system: str
    timeline: int

    def entry(
        self,
        number: int,
        batch: Batch,
        starts: Mapping[TopicPartition, int],
        ends: Mapping[TopicPartition, int],
    ) -> JournalEntry:
        """The journal entry of a batch whose records are in Kafka."""
        assert batch.last is not None
        return JournalEntry(
            source=self.source,
            batch=number,
            epoch=self.epoch,
            system=self.system,
            timeline=self.timeline,
            first=batch.first or batch.last,
            last=batch.last,
            first_commit_us=batch.first_commit_us or batch.last_commit_us,
            last_commit_us=batch.last_commit_us,
            ends=dict(ends),
            starts=dict(starts),
            counts={table: Counts(*numbers) for table, numbers in batch.counts.items()},
            schema_ids=tuple(sorted(batch.schema_ids)),
            more=batch.more,
            snapshot=batch.snapshot,
            snapshot_state=batch.snapshot_state,
        )


def captured_lsn(entry: JournalEntry) -> int:
    """The first LSN that the journal does not cover: where the slot may stand, and where streaming goes on.

    Commit LSNs are multiples of 8, so `last.lsn + 1` means "behind that transaction" without naming its end. A
    transaction of which only a part is in (`more`) must be sent again; a snapshot holds whole ones only.
    """
    return entry.last.lsn if entry.more and not entry.snapshot else entry.last.lsn + 1


def dropped_prefix(entry: JournalEntry | None) -> Callable[[int], int]:
    """How much of a re-sent transaction is in Kafka already.

    Returns:
        A function from a transaction's commit LSN to the number of its leading changes to drop: 0 for none, -1 for
        the whole transaction.
    """
    if entry is None:
        return lambda lsn: 0
    last, more = entry.last, entry.more

    def dropped(lsn: int) -> int:
        if lsn > last.lsn:
            return 0
        return last.seq + 1 if more and lsn == last.lsn else -1

    return dropped
