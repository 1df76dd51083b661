"""Rows of whole tables, all at one place of the log, written batch by batch: a first copy, a recovery."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from typing import Final

from instep.change import Op, Position
from instep.journal import JournalEntry
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.snapshot import TextRow
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import Batch
from instep_streams.capture.framing import add_change, add_truncate
from instep_streams.capture.lanes import CopyLane
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts

_MAX_SEQ: Final = 0xFFFFFFFF


class Bulk:
    """Makes batches of rows and hands them to the publishing thread.

    Args:
        parts: of the session.
        position: where the rows stand; each gets a number of its own there.

    Attributes:
        batch: the one under construction.
        position: of the last row.
        taken_us: when the rows were taken, as their commit time.
        last: the last entry in the journal, None before the first.
    """

    def __init__(self, parts: Parts, position: Position) -> None:
        self._parts = parts
        self.batch = Batch()
        self.position = position
        self.taken_us = time.time_ns() // 1000
        self.last: JournalEntry | None = None
        self._seq = 0
        self._lanes: dict[str, CopyLane] = {}
        self._stamp = time_stamp(time.time_ns())

    def truncate(self, table: CapturedTable, source: SourceBlock, lsn: int | None) -> None:
        """Clear a table before its rows."""
        value = table.encoder.envelope(Op.TRUNCATE, None, None, source, lsn, self._stamp)
        add_truncate(self.batch, table, value, self._next(), self._parts.headers)

    def add(
        self, table: CapturedTable, op: Op, old: RawRow | None, new: RawRow | None, source: SourceBlock,
        lsn: int | None, key: bytes | None = None,
    ) -> bool:  # fmt: skip
        """Add a READ or a DELETE; gives whether it could be encoded: else it is a dead letter in the same batch.

        Args:
            table: whose row it is.
            op: what is written.
            old: for a DELETE.
            new: for a READ.
            source: its envelope's source.
            lsn: for the source block.
            key: the Kafka key; None: as the row gives it.
        """
        batch, position = self.batch, self._next()
        try:
            encoded = table.encoder.records(op, old, new, source, lsn, self._stamp)
            if key is not None:
                encoded = [each._replace(key=key) for each in encoded]
            add_change(batch, table, op, encoded, position, self._parts.largest, self._parts.headers)
        except Unencodable as fault:
            self._parts.dead_letters.add(batch, table, position, op, old, new, fault)
            return False
        return True

    def copy(self, table: CapturedTable, rows: Sequence[TextRow], source: SourceBlock, lsn: int) -> int:
        """Add READs; gives how many could be encoded, see `add`.

        Args:
            table: whose rows they are.
            rows: columns in its relation's order.
            source: their envelopes' source.
            lsn: for the source block.
        """
        lane = self._lanes.get(table.name)
        if lane is None or lane.table is not table:
            lane = self._lanes[table.name] = CopyLane(table, self._parts.headers, self._parts.largest)
        at = written = 0
        while at < len(rows):
            taken = self._copy_straight(lane, rows[at:], source, lsn)
            at, written = at + taken, written + taken
            if at < len(rows):
                written += self.add(table, Op.READ, None, rows[at], source, lsn)
                at += 1
        return written

    def _copy_straight(self, lane: CopyLane, rows: Sequence[TextRow], source: SourceBlock, lsn: int) -> int:
        """Add READs for as long as they are ordinary ones; gives how many."""
        if self._seq + len(rows) > _MAX_SEQ or not lane.table.encoder.goes_straight(Op.READ):
            return 0
        first = self.position._replace(seq=self._seq)
        taken = lane.take(self.batch, rows, source, lsn, self._stamp, first)
        if taken:
            self.batch.reach(first, self.taken_us)
            self._seq += taken - 1
            self._next()
        return taken

    def _next(self) -> Position:
        position = self.position = self.position._replace(seq=min(self._seq, _MAX_SEQ))
        self._seq += 1
        self.batch.reach(position, self.taken_us)
        return position

    def hand(self, *, more: bool, state: str = "", snapshot: bool = False) -> None:
        """Hand the batch over; the one before it must be `settled`."""
        batch, self.batch = self.batch, Batch()
        self._stamp = time_stamp(time.time_ns())
        if batch.last is None:
            batch.pass_by(self.position, self.taken_us)
        batch.snapshot, batch.more, batch.snapshot_state = snapshot, more, state
        self._parts.publishing.hand(batch)

    def settled(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nothing is being published; False: we were told to stop before that.

        Raises:
            BaseException: what publishing failed with.
        """
        publishing = self._parts.publishing
        while publishing.busy:
            select.select([publishing], [], [], 0.25)
            for _, entry in publishing.done():
                self.last = entry
            if stopping():
                return False
        return True
