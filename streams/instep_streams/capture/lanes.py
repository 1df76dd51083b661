"""The short way from a row message to its record: per table and kind of message one generated function.

It is for what nearly all changes are: a row of a described table, without an old row but a deleted one's key, in a
transaction of which nothing is in Kafka, while no copy runs. Anything else goes through `Transactions.feed`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from instep.change import POSITION_HEADER, Op, Position, pack
from instep_connectors.postgres.replication import Frames, Keepalive
from instep_connectors.postgres.rowreading import HEAD, NAMES, reading, row_head, unpacking
from instep_connectors.postgres.snapshot import TextRow
from instep_schemas.envelope import SourceBlock
from instep_schemas.straight import Reading
from instep_streams.capture.batch import COUNTED, CREATE, DELETE, READ, UPDATE, Batch, Headers, Record
from instep_streams.capture.tables import CapturedTable

_READING: Final = Reading(reading, NAMES, HEAD)
_COPIED: Final = Reading(unpacking, {}, None)
_KINDS: Final = (
    (b"I", b"N", Op.CREATE, CREATE),
    (b"U", b"N", Op.UPDATE, UPDATE),
    (b"D", b"K", Op.DELETE, DELETE),
    (b"D", b"O", Op.DELETE, DELETE),
)

_new = tuple.__new__
"""Makes a Record at a third of the cost of calling it."""


class Lane:
    """The messages of one kind of one table.

    Args:
        table: whose rows they are.
        op: what happens to the rows.
        kind: what the batch counts.
        reading: of a message.

    Attributes:
        write: gives a message's key and envelope, see `Straight`; it raises when the message is not ordinary.
        topic: of the records.
        tombstone: whether a record without a value follows.
        batch: the one that `counts` belongs to.
        counts: the table's changes in that batch.
    """

    __slots__ = ("_op", "_reading", "batch", "counts", "kind", "table", "tombstone", "topic", "write")

    def __init__(self, table: CapturedTable, op: Op, kind: int, reading: Reading = _READING) -> None:
        self.table, self._op, self._reading = table, op, reading
        self.kind, self.topic = kind, table.topic
        keyed = b"" if table.encoder.schemas.key_fields else None
        self.tombstone = op is Op.DELETE and table.encoder.tombstone(keyed)
        self.batch: Batch | None = None
        self.counts: list[int] = []
        self.write: Any = self._first

    def join(self, batch: Batch) -> None:
        """The changes from here on belong to this batch."""
        self.batch = batch
        batch.schema_ids |= self.table.ids
        self.counts = batch.counts.setdefault(self.table.name, [0] * len(COUNTED))

    def _first(self, data: Any, lsn: int, source: SourceBlock, stamp: bytes) -> Any:
        """Compile only now: most tables of a large schema never have some of their lanes used."""
        self.compile()
        return self.write(data, lsn, source, stamp)

    def compile(self) -> None:
        """Make the function."""
        self.write = self.table.encoder.straight(self._op, self._reading)


class CopyLane(Lane):
    """The rows of one table as COPY gives them.

    Args:
        table: whose rows they are.
        headers: of every record; None: each has its position instead.
        largest: the most bytes a record's value may have.
    """

    __slots__ = ("_headers", "_largest")

    def __init__(self, table: CapturedTable, headers: Headers | None, largest: int) -> None:
        super().__init__(table, Op.READ, READ, _COPIED)
        self._headers, self._largest = headers, largest
        self.compile()

    def take(
        self, batch: Batch, rows: Iterable[TextRow], source: SourceBlock, lsn: int, stamp: bytes, position: Position
    ) -> int:  # fmt: skip
        """Add READs to a batch for as long as they are ordinary ones. Hot.

        Args:
            batch: gets records and counts; its positions are the caller's.
            rows: to add.
            source: their block.
            lsn: in it.
            stamp: from `envelope.time_stamp`.
            position: of the first row.

        Returns:
            How many were added.
        """
        write, headers, largest, topic, append = (
            self.write,
            self._headers,
            self._largest,
            self.topic,
            batch.records.append,
        )
        epoch, commit, begun = position
        seq, size = begun, batch.size
        for row in rows:
            try:
                key, value = write(row, lsn, source, stamp)
            except Exception:  # nothing has happened yet: the long way finds out what it is
                break
            if len(value) > largest:
                break
            told = [(POSITION_HEADER, pack(epoch, commit, seq))] if headers is None else headers
            append(_new(Record, (topic, key, value, -1, told, 0)))
            size += len(value) if key is None else len(key) + len(value)
            seq += 1
        if seq > begun:
            self.join(batch)
            self.counts[READ] += seq - begun
            batch.changes, batch.size = batch.changes + seq - begun, size
        return seq - begun


class Lanes:
    """The lanes of all tables.

    Args:
        epoch: of the positions.
        headers: of every record; None: each has its position instead.
        largest: the most bytes a record's value may have.
        skipped: operations that are not written.
    """

    def __init__(self, epoch: int, headers: Headers | None, largest: int, skipped: frozenset[Op]) -> None:
        self._epoch, self._headers, self._largest, self._skipped = epoch, headers, largest, skipped
        self._lanes: dict[bytes, Lane] = {}
        self._heads: dict[int, list[bytes]] = {}

    def put(self, oid: int, table: CapturedTable | None) -> None:
        """From here on a table's changes are written so; None: each one of them needs a closer look."""
        for head in self._heads.pop(oid, ()):
            del self._lanes[head]
        if table is None:
            return
        width = len(table.encoder.relation.columns)
        made = {
            row_head(kind, oid, part, width): Lane(table, op, count)
            for kind, part, op, count in _KINDS
            if op not in self._skipped and table.encoder.goes_straight(op)
        }
        self._heads[oid] = list(made)
        self._lanes |= made

    def take(
        self, frames: Frames, batch: Batch, transaction: tuple[SourceBlock, bytes, int, int], room: int, most_bytes: int
    ) -> tuple[int, bytes | Keepalive | None]:
        """Add the changes that arrive to a batch for as long as they are ordinary ones. Hot.

        Args:
            frames: gives what has arrived.
            batch: gets records and counts; its `changes` and positions are the caller's.
            transaction: its source block, time stamp and commit LSN, and the number of its next change.
            room: for so many changes.
            most_bytes: the batch is full then.

        Returns:
            The number of the transaction's next change, and the first frame that is something else; None: nothing is
            there, or the batch is full.
        """
        source, stamp, commit, seq = transaction
        lanes, epoch, headers, largest = self._lanes, self._epoch, self._headers, self._largest
        receive, append, size, full = frames.receive, batch.records.append, batch.size, seq + room
        frame = receive()
        while type(frame) is bytes and (lane := lanes.get(frame[:8])) is not None:
            try:
                key, value = lane.write(frame, frames.frame_lsn, source, stamp)
            except Exception:  # nothing has happened yet: the long way finds out what it is
                break
            if len(value) > largest:
                break
            if lane.batch is not batch:
                lane.join(batch)
            lane.counts[lane.kind] += 1
            told = [(POSITION_HEADER, pack(epoch, commit, seq))] if headers is None else headers
            append(_new(Record, (lane.topic, key, value, -1, told, 0)))
            size += len(value) if key is None else len(key) + len(value)
            if lane.tombstone:
                append(_new(Record, (lane.topic, key, None, -1, told, 0)))
                size += len(key or b"")
            seq += 1
            frame = None if seq >= full or size >= most_bytes else receive()
        batch.size = size
        return seq, frame
