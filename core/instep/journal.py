"""The journal: one entry per captured batch, the last record of the batch's Kafka transaction.

Five uses of one structure: where capture resumes; the barrier that makes flows transaction-consistent; the counts that
completeness is proven against; the LSN and time → offset index that replay needs; lag.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from instep.change import Position

TopicPartition = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """Changes of one table in one batch, by operation."""

    read: int = 0
    create: int = 0
    update: int = 0
    delete: int = 0
    truncate: int = 0
    rejected: int = 0
    """Changes that went to capture's dead letters instead of the data topic."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.read + self.create + self.update + self.delete + self.truncate + self.rejected


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What one batch holds and where it ends.

    Attributes:
        source: the source's name.
        batch: number of the entry, dense, from 1.
        epoch: see `Position.epoch`.
        system: the database system identifier, as decimal text.
        timeline: the server's timeline.
        first: position of the first change (equal to `last` in an entry without changes).
        last: position of the last change: capture resumes behind it.
        first_commit_us: commit time of the first transaction, microseconds since the Unix epoch.
        last_commit_us: commit time of the last transaction.
        ends: per data topic-partition that this batch touched, the offset behind its last record.
        starts: per data topic-partition that this batch touched, the offset of its first record.
        counts: per `schema.table`, the changes by operation.
        schema_ids: registry ids used by the batch's keys and values.
        more: the last transaction goes on in the next entry: not a place to show documents.
        snapshot: the batch holds snapshot rows; `more` is true in all of them but the last.
        snapshot_state: opaque resume state of a snapshot that is under way, empty otherwise.
    """

    source: str
    batch: int
    epoch: int
    system: str
    timeline: int
    first: Position
    last: Position
    first_commit_us: int
    last_commit_us: int
    ends: Mapping[TopicPartition, int]
    starts: Mapping[TopicPartition, int]
    counts: Mapping[str, Counts] = field(default_factory=dict)
    schema_ids: tuple[int, ...] = ()
    more: bool = False
    snapshot: bool = False
    snapshot_state: str = ""

    @property
    def whole(self) -> bool:
        """Whether all that is captured up to here is a state that the store once had: a place to show documents.

        It is not within a transaction or a snapshot, nor while a first snapshot that was cut off is being finished
        beside the stream.
        """
        return not self.more and not (self.snapshot_state and json.loads(self.snapshot_state).get("initial", False))

    @property
    def changes(self) -> int:
        """Changes in this batch."""
        return sum(counts.total for counts in self.counts.values())
