"""From decoded messages to batches of whole source transactions. No I/O but what `Tables` does for a new relation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from instep.change import ABSENT, Op, Position
from instep.journal import JournalEntry
from instep_connectors.postgres import pgoutput
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.replication import Frames, Keepalive
from instep_schemas.encode import NEW_KEY
from instep_schemas.encode import Record as Encoded
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable, UnknownLabel
from instep_streams.capture.batch import Batch, dropped_prefix
from instep_streams.capture.beside import Beside
from instep_streams.capture.chunking import with_key
from instep_streams.capture.commands import Command
from instep_streams.capture.copies import Due, Standstill
from instep_streams.capture.framing import add_change, add_truncate
from instep_streams.capture.lanes import Lanes
from instep_streams.capture.sidetopics import SideTopics, TransactionCounter
from instep_streams.capture.tables import CapturedTable, Describe
from instep_streams.capture.task import Parts
from instep_streams.capture.watermarks import MESSAGE_PREFIX


class Transactions:
    """Collects the changes of committed transactions into the batch under construction.

    Args:
        parts: of the session.
        describe: gives the captured table of a RELATION message, None when the settings leave it out.
        relax: gives a table again with a column that may be null.
        last: the journal's last entry: what it holds is dropped.
        beside: what runs beside the stream.
    """

    def __init__(
        self,
        parts: Parts,
        describe: Describe,
        relax: Callable[[CapturedTable, str], CapturedTable],
        last: JournalEntry | None,
        beside: Beside | None = None,
    ) -> None:
        self._options = options = parts.options
        self._epoch = parts.epoch
        self._largest = parts.largest
        self._dead_letters = parts.dead_letters
        self._describe = describe
        self._relax = relax
        self._dropped = dropped_prefix(last)
        self._beside = beside
        self._unfinished = last.last.lsn if last is not None and last.more else None
        self._tables: dict[int, CapturedTable | None] = {}
        self._described: dict[int, pgoutput.RelationMessage] = {}
        self._undescribed: set[int] = set()
        self._headers = parts.headers
        self._side = parts.side
        compatible = parts.compatible
        self._skipped = compatible.skipped if compatible else frozenset()
        self._lanes = Lanes(self._epoch, self._headers, self._largest, self._skipped)
        self._straight = False
        self._skip_unchanged = compatible is not None and compatible.skip_unchanged
        counted = parts.side is not None and compatible is not None and compatible.transaction_topic is not None
        self._counter = TransactionCounter(parts.side) if counted and parts.side is not None else None
        self._skip = 0
        self._seq = 0
        self._lsn = 0
        self._committed_us = 0
        self._last_commit: int | None = None
        self._source = SourceBlock(options, committed_us=0, transaction=None)
        self._begin = pgoutput.Begin(0, 0, 0)
        self._ours = False
        self._stamp = b""
        self._feeders: dict[type, Callable[[Any, int], None]] = {
            pgoutput.Insert: self._insert,
            pgoutput.Update: self._update,
            pgoutput.Delete: self._delete,
            pgoutput.Begin: self._start,
            pgoutput.Commit: self._end,
            pgoutput.RelationMessage: self._relation,
            pgoutput.Truncate: self._truncate,
            pgoutput.Origin: self._origin,
            pgoutput.LogicalMessage: self._message,
            pgoutput.TypeMessage: lambda message, lsn: None,
            pgoutput.StreamAbort: lambda message, lsn: None,  # PostgreSQL 18: of a savepoint of which nothing was sent
        }
        self.open = False
        self.due = False
        self.batch = Batch()

    def feed(self, message: pgoutput.Message, lsn: int) -> None:
        """Take one message; `lsn` is its WAL position.

        Raises:
            pgoutput.DecodeError: rows of a table that was never described.
            InstepError, ConnectionError, TimeoutError: see `Tables.captured`.
        """
        self._feeders[type(message)](message, lsn)

    def rows(self, frames: Frames, most_changes: int, most_bytes: int) -> bytes | Keepalive | None:
        """Take what arrives for as long as it is ordinary changes of the running transaction.

        Args:
            frames: gives what has arrived.
            most_changes: the batch is full then.
            most_bytes: or then.

        Returns:
            The first frame that is something else, for `feed`; None: nothing is there, or the batch is full.
        """
        if not self._straight:
            return frames.receive()
        batch, begun = self.batch, self._seq
        transaction = self._source, self._stamp, self._lsn, begun
        seq, frame = self._lanes.take(frames, batch, transaction, most_changes - batch.changes, most_bytes)
        if seq > begun:
            batch.changes, self._seq = batch.changes + seq - begun, seq
            for reached in (begun, seq - 1):
                batch.reach(Position(self._epoch, self._lsn, reached), self._committed_us)
        return frame

    def tick(self) -> None:
        """Between two transactions: what runs beside the stream goes on."""
        if self._beside is not None and not self.open:
            self._beside.tick()

    def take(self) -> Batch:
        """The batch so far, and begin a new one. In the middle of a transaction it is marked to go on (`more`)."""
        batch, self.batch, self.due = self.batch, Batch(), False
        if self._beside is not None:
            batch.snapshot_state = self._beside.state
            batch.records += self._beside.records()
        batch.more = self.open and batch.last is not None and batch.last.lsn == self._lsn
        if batch.last is not None:
            self._unfinished = self._lsn if batch.more else None
        return batch

    def _start(self, begin: pgoutput.Begin, lsn: int) -> None:
        self.open = True
        self._begin, self._lsn, self._committed_us = begin, begin.lsn, begin.committed_us
        self._seq = 0
        self._ours = False
        self._skip = self._dropped(begin.lsn)
        if self._counter is not None:
            self._counter.start(begin.xid, begin.committed_us)
        if self._beside is not None:
            self._beside.begin(begin.xid)
        self._stamp = time_stamp(time.time_ns())
        self._source = SourceBlock(
            self._options, committed_us=begin.committed_us, transaction=begin.xid, last_commit=self._last_commit
        )
        self._choose()

    def _origin(self, origin: pgoutput.Origin, lsn: int) -> None:
        self._source = SourceBlock(
            self._options, committed_us=self._committed_us, transaction=self._begin.xid,
            last_commit=self._last_commit, origin=origin.name, origin_lsn=origin.lsn,
        )  # fmt: skip

    def _choose(self) -> None:
        """Whether changes may go the short way, or each one has to be looked at."""
        looked_at = self._skip or self._counter is not None or (self._beside is not None and not self._beside.idle)
        self._straight = self.open and not looked_at

    def _end(self, commit: pgoutput.Commit, lsn: int) -> None:
        self.open = self._straight = False
        self._last_commit = commit.end_lsn
        if self._skip == -1:
            return
        if self._counter is not None and self._counter.begun:
            self.batch.records += self._counter.end(commit.end_lsn)
            self.batch.pass_by(Position(self._epoch, self._lsn, max(self._seq - 1, 0)), self._committed_us)
        # ours asks for an entry; or all of it is in the journal, which does not know yet that it ends there
        if self._ours or (self._unfinished == self._lsn and self.batch.last is None):
            self.due = True
            self.batch.pass_by(Position(self._epoch, self._lsn, max(self._seq - 1, 0)), self._committed_us)

    def _relation(self, message: pgoutput.RelationMessage, lsn: int) -> None:
        self._described[message.oid] = message
        if self._side is None:
            self._captured(message.oid, self._describe(message))
        else:  # Debezium registers a schema with the first record that uses it
            self._captured(message.oid, None)
            self._undescribed.add(message.oid)
        self._choose()  # a table that joins is copied

    def _captured(self, oid: int, table: CapturedTable | None) -> None:
        """From here on a table's changes are written so."""
        self._tables[oid] = table
        self._lanes.put(oid, table)

    def _message(self, message: pgoutput.LogicalMessage, lsn: int) -> None:
        if message.prefix == MESSAGE_PREFIX:
            self._obey(message)
            self._choose()
        elif self._side is not None and message.transactional:
            self._own_message(self._side, message)
        elif self._side is not None and self._dropped(message.lsn) == 0 and self._side.wants(message):
            # it stands alone, also one that was written within a transaction
            now_us = time.time_ns() // 1000
            self._last_commit = message.lsn
            source = SourceBlock(self._options, committed_us=now_us, transaction=None, last_commit=message.lsn)
            self.batch.records.append(self._side.message(message, source, b"\x00"))
            self.batch.reach(Position(self._epoch, message.lsn, 0), now_us)

    def _obey(self, message: pgoutput.LogicalMessage) -> None:
        """A message of ours: it asks for a journal entry, or has to do with what runs beside the stream."""
        seq = self._seq
        self._ours, self._seq = self._ours or message.transactional, seq + message.transactional
        if self._beside is not None and message.transactional and 0 <= self._skip <= seq:
            self._write_due(self._beside.message(message.content), Position(self._epoch, self._lsn, seq), message.lsn)

    def _own_message(self, side: SideTopics, message: pgoutput.LogicalMessage) -> None:
        """A message that is part of its transaction."""
        seq = self._seq
        self._seq = seq + 1
        dropped = self._skip < 0 or seq < self._skip
        if self._skip < 0 or (dropped and self._counter is None):
            return
        self._open(message.lsn, written=dropped)
        if not side.wants(message):
            return
        block = b"\x00" if self._counter is None else self._counter.message(message.lsn)
        if not dropped:
            self.batch.records.append(side.message(message, self._source, block))
            self.batch.reach(Position(self._epoch, self._lsn, seq), self._committed_us)

    def _open(self, lsn: int, *, written: bool) -> None:
        """Tell of the transaction; Debezium does so also where it writes nothing else of it."""
        if self._counter is not None:
            self.batch.records += self._counter.open(lsn, written=written)

    def _insert(self, message: pgoutput.Insert, lsn: int) -> None:
        self._change(message.oid, Op.CREATE, None, message.new, lsn)

    def _update(self, message: pgoutput.Update, lsn: int) -> None:
        table = self._table(message.oid) if self._skip_unchanged and message.full else None
        if table is not None and message.old is not None and table.encoder.alike(message.old, message.new):
            self._seq += 1
            return
        self._change(message.oid, Op.UPDATE, message.old, message.new, lsn)

    def _delete(self, message: pgoutput.Delete, lsn: int) -> None:
        self._change(message.oid, Op.DELETE, message.old, None, lsn)

    def _change(self, oid: int, op: Op, old: RawRow | None, new: RawRow | None, lsn: int) -> None:
        seq = self._seq
        self._seq = seq + 1
        dropped = self._skip and (self._skip < 0 or seq < self._skip)
        if (dropped and (self._skip < 0 or self._counter is None)) or op in self._skipped:
            return
        table = self._table(oid)
        if table is None:
            self._open(lsn, written=bool(dropped))
            return
        position = Position(self._epoch, self._lsn, seq)
        if old is not None and new is not None and ABSENT in new:
            new = with_key(table, old, new)
        beside = self._beside
        meeting = None if beside is None or dropped else beside.meet(table, op, old, new)
        if meeting is not None:
            if meeting.drop:
                return
            self._write_due(meeting.before, position, lsn)
            new = new if meeting.new is None else meeting.new
        try:
            encoded = self._encode(table, op, old, new, lsn)
            if meeting is not None and meeting.gone:
                op, encoded = Op.DELETE, [each for each in encoded if each.moved and each.moved[0] == NEW_KEY]
            if self._counter is not None:
                self.batch.records += self._counter.begin(lsn, written=bool(dropped))
            if not dropped:  # else only to count it
                self._add(self._tables[oid] or table, op, encoded, position)
                if beside is not None:
                    due = beside.changed(table, op, [record.key for record in encoded], old, new)
                    self._write_due(due, position, lsn)
                    if beside.asked is not None:
                        beside.stand(self._standstill(beside.asked, seq, lsn))
        except Unencodable as fault:
            if not dropped:
                self._reject(table, position, op, old, new, fault)

    def _standstill(self, asked: Command, seq: int, lsn: int) -> Standstill:
        xid = self._begin.xid
        return Standstill(asked.tables, asked.conditions, (self._lsn, seq), lsn, xid, self._last_commit)

    def _write_due(self, due: Sequence[Due], position: Position, lsn: int) -> None:
        """Write rows of a copy; they stand at `position`, before or behind its change."""
        if not due:
            return
        now = time.time_ns()
        stamp = time_stamp(now)
        source = SourceBlock(
            self._options, committed_us=now // 1000, transaction=None, last_commit=lsn, snapshot="incremental"
        )
        for table, row in due:
            if row is None:
                value = table.encoder.envelope(Op.TRUNCATE, None, None, source, None, stamp)
                add_truncate(self.batch, table, value, position, self._headers)
                self.batch.reach(position, self._committed_us)
                continue
            try:
                encoded = table.encoder.records(Op.READ, None, row, source, None, stamp)
                self._add(table, Op.READ, encoded, position)
            except Unencodable as fault:
                self._reject(table, position, Op.READ, None, row, fault)

    def _encode(self, table: CapturedTable, op: Op, old: RawRow | None, new: RawRow | None, lsn: int) -> list[Encoded]:
        counter = self._counter
        counts = None if counter is None else counter.counts()
        block = None if counter is None else partial(counter.event, table.name, lsn)
        try:
            return table.encoder.records(op, old, new, self._source, lsn, self._stamp, block)
        except Unencodable as fault:
            if counter is not None and counts is not None:
                counter.restore(counts)
            mended = self._mended(table, new if new is not None else old, fault)
            if mended is None:
                raise
            self._captured(table.encoder.relation.oid, mended)
            return self._encode(mended, op, old, new, lsn)

    def _mended(self, table: CapturedTable, row: RawRow | None, fault: Unencodable) -> CapturedTable | None:
        """The table as this row needs it, where the catalog tells another time than the row."""
        relation = table.encoder.relation
        if isinstance(fault, UnknownLabel):  # ALTER TYPE … ADD VALUE sends no RELATION
            again = self._describe(self._described[relation.oid])
            return None if again is None or again.encoder.relation == relation else again
        names = [column.name for column in relation.columns]
        index = names.index(fault.column) if fault.column in names else -1
        if row is None or index < 0 or row[index] is not None or fault.column in relation.key:
            return None
        if not relation.columns[index].not_null:
            return None  # it may be null already: another null column of the key, that no wider schema helps
        return self._relax(table, fault.column)  # NOT NULL in the catalog, null in a row from before that

    def _add(self, table: CapturedTable, op: Op, encoded: list[Encoded], position: Position) -> None:
        batch = self.batch
        add_change(batch, table, op, encoded, position, self._largest, self._headers, self._skipped)
        batch.reach(position, self._committed_us)

    def _reject(
        self,
        table: CapturedTable,
        position: Position,
        op: Op,
        old: RawRow | None,
        new: RawRow | None,
        fault: Unencodable,
    ) -> None:
        self._dead_letters.add(self.batch, table, position, op, old, new, fault)
        self.batch.reach(position, self._committed_us)

    def _truncate(self, message: pgoutput.Truncate, lsn: int) -> None:
        if self._skip >= 0:
            self._open(lsn, written=self._seq < self._skip)
        for oid in message.oids:
            seq = self._seq
            self._seq = seq + 1
            dropped = self._skip and (self._skip < 0 or seq < self._skip)
            if (dropped and (self._skip < 0 or self._counter is None)) or Op.TRUNCATE in self._skipped:
                continue
            table = self._table(oid, keyed=False)
            if table is None:
                continue
            block = b"\x00"
            if self._counter is not None:
                block = self._counter.event(table.name, lsn)
            if dropped:
                continue
            position = Position(self._epoch, self._lsn, seq)
            try:
                value = table.encoder.envelope(Op.TRUNCATE, None, None, self._source, lsn, self._stamp, block)
            except Unencodable as fault:
                self._reject(table, position, Op.TRUNCATE, None, None, fault)
                continue
            add_truncate(self.batch, table, value, position, self._headers)
            if self._beside is not None:
                self._beside.truncated(table)
            self.batch.reach(position, self._committed_us)

    def _table(self, oid: int, *, keyed: bool = True) -> CapturedTable | None:
        if oid in self._undescribed:
            if not keyed:
                return self._describe(self._described[oid], keyed=False)
            self._undescribed.remove(oid)
            self._captured(oid, self._describe(self._described[oid]))
        try:
            return self._tables[oid]
        except KeyError:
            raise pgoutput.DecodeError(f"a change of the undescribed table {oid}") from None
