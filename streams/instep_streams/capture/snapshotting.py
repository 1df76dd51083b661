"""The first copy of the captured tables, exact against the stream that follows.

The rule. A slot's exported snapshot holds every transaction committed below the slot's consistent point, and the
stream brings all others; so rows get the position just below that point. The snapshot's view dies with its connection:
when capture is killed before the last snapshot entry, slot and snapshot are made anew. What the abandoned attempt left
in the topics is cleared first by one TRUNCATE per table, since a row deleted between the attempts would otherwise live
on. All entries but the last say `more`, so that no reader shows a state in between. An entry written *before* the slot
is made tells, after a kill, that the slot is ours to drop.
"""

from __future__ import annotations

import json
import logging
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import psycopg

from instep.change import Op, Position, format_lsn
from instep.failpoints import hit
from instep.journal import JournalEntry
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.replication import NewSlot, ReplicationConnection
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.snapshot import Snapshot, TextRow
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import READ, REJECTED, Batch
from instep_streams.capture.streaming import MAX_BATCH_BYTES
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.transactions import add_truncate, framed

log = logging.getLogger(__name__)

_MAX_SEQ: Final = 0xFFFFFFFF
_LOOK_AT_SLOT_S: Final = 2.0
_TELL_S: Final = 10.0


class Stopped(Exception):
    """The process was told to stop in the middle of a snapshot."""


class Snapshotting:
    """Makes the slot and copies the tables.

    Args:
        task: what to capture.
        parts: of the session.
        replication: a connection that does nothing else; its snapshot dies with it.
        published: the tables.
    """

    def __init__(
        self, task: Task, parts: Parts, replication: ReplicationConnection, published: Sequence[Published]
    ) -> None:
        self._task = task
        self._parts = parts
        self._replication = replication
        self._published = published
        self._batch = Batch()
        self._seq = 0
        self._rows = 0
        self._state: dict[str, str | int] = {"slot": task.own.slot}
        self._position = Position(parts.epoch, 0, 0)
        self._taken_us = 0
        self._stamp = time_stamp(time.time_ns())
        self._last: JournalEntry | None = None
        self._slot_seen = self._told = time.monotonic()

    def run(self, unfinished: JournalEntry | None) -> JournalEntry | None:
        """Copy everything.

        Args:
            unfinished: the last entry of an attempt that was cut off.

        Returns:
            The snapshot's last entry; None when the process should stop.

        Raises:
            ConnectionError, TimeoutError: a part is gone for now.
            InstepError: a person must look.
        """
        try:
            if unfinished is not None:
                self._position = unfinished.last
                self._drop_slot()
            self._mark()
            new = self._replication.create_slot(self._task.own.slot, self._task.idle)
            if new is None:
                return None
            self._copy(new, clear=unfinished is not None)
        except Stopped:
            return None
        return self._last

    def _drop_slot(self) -> None:
        try:
            self._parts.control.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (self._task.own.slot,),
            )
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def _mark(self) -> None:
        """Say in the journal that a slot is about to be made."""
        self._batch.pass_by(self._position, time.time_ns() // 1000)
        self._hand(more=True)
        self._settle()

    def _copy(self, new: NewSlot, *, clear: bool) -> None:
        started = time.monotonic()
        snapshot = Snapshot(self._task.dsn, self._task.application, new.snapshot, self._published)
        try:
            self._position = Position(self._parts.epoch, new.lsn - 1, 0)
            self._state["lsn"] = format_lsn(new.lsn)
            self._taken_us = time.time_ns() // 1000
            source = SourceBlock(self._parts.options, committed_us=self._taken_us, transaction=None, snapshot="true")
            relations = snapshot.relations(self._published)
            tables = [(p, self._parts.tables.captured(relations[p.oid])) for p in self._published]
            if clear:
                for _, table in tables:
                    add_truncate(self._batch, table, source, new.lsn, self._stamp, self._next())
            for published, table in tables:
                self._state |= {"table": table.name, "rows": self._rows}
                rows = snapshot.rows(published, table.encoder.relation)
                self._copy_table(table, rows, source, new.lsn, last_table=published is self._published[-1])
        finally:
            snapshot.close()
        self._hand(more=False)
        self._settle()
        seconds = time.monotonic() - started
        log.info(
            "snapshot at %s: %d rows of %d tables in %.1f s", format_lsn(new.lsn), self._rows, len(tables), seconds
        )

    def _copy_table(
        self, table: CapturedTable, rows: Iterator[TextRow], source: SourceBlock, lsn: int, *, last_table: bool
    ) -> None:
        blocks = {
            name: source.marked(name) for name in ("first", "first_in_data_collection", "last_in_data_collection")
        }
        blocks |= {"last": source.marked("last"), "true": source}
        first = "first" if self._rows == 0 else "first_in_data_collection"
        last = "last" if last_table else "last_in_data_collection"
        for marker, row in marked(rows, first, last):
            self._add(table, row, blocks[marker], lsn)
            if self._batch.changes >= self._task.own.batch_changes or self._batch.size >= MAX_BATCH_BYTES:
                self._hand(more=True)
                hit("capture.snapshot")
                self._look()

    def _add(self, table: CapturedTable, row: TextRow, source: SourceBlock, lsn: int) -> None:
        batch, position = self._batch, self._next()
        try:
            encoded = table.encoder.records(Op.READ, None, row, source, lsn, self._stamp)
            records, size = framed(table, encoded, position, self._parts.largest)
        except Unencodable as fault:
            record = self._parts.dead_letters.record(table, position, Op.READ, None, row, fault)
            batch.records.append(record)
            batch.size += len(record.value or b"")
            batch.count(table.name, REJECTED)
            return
        batch.records += records
        batch.size += size
        batch.count(table.name, READ)
        batch.schema_ids |= table.ids
        self._rows += 1

    def _next(self) -> Position:
        position = self._position = self._position._replace(seq=min(self._seq, _MAX_SEQ))
        self._seq += 1
        self._batch.reach(position, self._taken_us)
        return position

    def _hand(self, *, more: bool) -> None:
        """Hand the batch over as soon as the one before it is in Kafka."""
        self._settle()
        batch, self._batch = self._batch, Batch()
        self._stamp = time_stamp(time.time_ns())
        if batch.last is None:
            batch.pass_by(self._position, self._taken_us)
        batch.snapshot, batch.more = True, more
        batch.snapshot_state = json.dumps(self._state) if more else ""
        self._parts.publishing.hand(batch)

    def _settle(self) -> None:
        """Wait until nothing is being published."""
        publishing = self._parts.publishing
        while publishing.busy:
            select.select([publishing], [], [], 0.25)
            for _, entry in publishing.done():
                self._last = entry
            if self._task.stopping():
                raise Stopped

    def _look(self) -> None:
        """Stop at once when the slot is lost: all the work would be for nothing. And tell how far it is."""
        now = time.monotonic()
        if now - self._slot_seen >= _LOOK_AT_SLOT_S:
            self._slot_seen = now
            slot = slots.read_slot(self._parts.control, self._task.own.slot)
            if slot is None:
                raise slots.missing_slot(self._task.own.slot, self._position.lsn)
            slots.check_slot(slot, self._parts.options.database)
        if now - self._told >= _TELL_S:
            self._told = now
            log.info("snapshot: %d rows so far, now %s", self._rows, self._state.get("table"))


def marked(rows: Iterable[TextRow], first: str, last: str) -> Iterator[tuple[str, TextRow]]:
    """Pair each row with its Debezium snapshot marker; a table's only row is its last."""
    marker = first
    held: TextRow | None = None
    for row in rows:
        if held is not None:
            yield marker, held
            marker = "true"
        held = row
    if held is not None:
        yield last, held
