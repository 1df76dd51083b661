"""A blocking snapshot: whole tables copied at one place of the stream, which waits meanwhile.

The rows are read now, and the place is in the past: what was changed in between comes again behind them, as with
Debezium. Until the last row is in Kafka the journal tells what the stream waits for; after a kill all of it is copied
again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import psycopg

from instep.change import Op, Position
from instep_connectors.postgres.pieces import Readers, Work
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.selection import matches
from instep_connectors.postgres.session import connect, passing
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import Snapshot, TextRow
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import MAX_BATCH_BYTES, Batch
from instep_streams.capture.beside import Beside
from instep_streams.capture.copies import Standstill
from instep_streams.capture.framing import add_change
from instep_streams.capture.snapshotting import SnapshotRows, marked
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts, Task

log = logging.getLogger(__name__)


class Blocking:
    """Copies the tables. Use `run` once.

    Args:
        task: what to capture.
        parts: of the session.
        standstill: what is asked for.
        beside: knows the tables, and what the journal has to tell.
        settle: takes what was published and keeps the store's sender alive; with `wait` until nothing is being
            published. Raises `Stopped` when the process should stop.
    """

    def __init__(
        self, task: Task, parts: Parts, standstill: Standstill, beside: Beside, settle: Callable[..., None]
    ) -> None:
        self._task = task
        self._parts = parts
        self._standstill = standstill
        self._beside = beside
        self._settle = settle
        self._position = Position(parts.epoch, *standstill.place)
        self._taken_us = time.time_ns() // 1000
        self._source = SourceBlock(
            parts.options, committed_us=self._taken_us, transaction=standstill.transaction,
            last_commit=standstill.last_commit, snapshot="true",
        )  # fmt: skip
        self._stamp = time_stamp(time.time_ns())
        self._batch = Batch()

    def run(self) -> None:
        """Copy everything; what the store refuses to read is told in the log, and the stream goes on without it.

        Raises:
            Stopped: the process should stop before the end.
            ConnectionError: the store is gone for now.
        """
        published = self._wanted()
        log.info("the stream waits for a blocking snapshot of %s", ", ".join(t.table for t in published) or "no table")
        rows = 0
        try:
            for table, row, source in self._rows(published):
                self._add(table, row, source)
                rows += 1
                if self._batch.changes >= self._task.own.batch_changes or self._batch.size >= MAX_BATCH_BYTES:
                    self._settle()
                    self._hand()
        except psycopg.Error as exc:
            log.warning("the blocking snapshot is given up after %d rows: %s", rows, " ".join(str(exc).split()))
        else:
            log.info("the blocking snapshot is complete: %d rows; the stream goes on", rows)
        self._settle()
        self._beside.stand(None)
        self._hand()

    def _wanted(self) -> list[Published]:
        """The tables, by name, those with a SELECT of their own with it."""
        wanted = [table for table in self._beside.published() if matches(self._standstill.tables, table.table)]
        return [replace(table, select=self._select(table.table)) for table in sorted(wanted, key=lambda t: t.table)]

    def _select(self, table: str) -> str | None:
        selects = self._standstill.selects.items()
        return next((text.strip().rstrip(";") for name, text in selects if text and matches((name,), table)), None)

    def _rows(self, published: Sequence[Published]) -> Iterator[tuple[CapturedTable, TextRow, SourceBlock]]:
        """Every row with its table and its marked source block."""
        dsn, application = self._task.dsn, self._task.application
        with connect(dsn, application) as holder:
            exported = _exported(holder)
            snapshot, readers = Snapshot(dsn, application, exported, published), None
            try:
                relations = snapshot.relations(published, primary_first=True)
                works = [Work(number, table, relations[table.oid], []) for number, table in enumerate(published)]
                readers = Readers(dsn, application, exported, works, 1, self._task.own.batch_changes)
                for marker, table, rows, _ in marked(self._pieces(readers)):
                    source = self._source.marked(marker)
                    yield from ((table, row, source) for row in rows)
            finally:
                if readers is not None:
                    readers.close()
                snapshot.close()

    def _pieces(self, readers: Readers) -> Iterator[SnapshotRows]:
        known: dict[int, CapturedTable] = {}
        for piece in readers:
            self._settle(wait=False)
            if piece is None or not piece.rows:
                continue
            number = piece.work.owner
            if number not in known:  # like Debezium's, a table's schema is registered with its first row
                known[number] = self._parts.tables.captured(piece.work.relation, copied=True)
            yield number, known[number], piece.rows, None

    def _add(self, table: CapturedTable, row: TextRow, source: SourceBlock) -> None:
        batch, parts, position = self._batch, self._parts, self._position
        try:
            encoded = table.encoder.records(Op.READ, None, row, source, self._standstill.lsn, self._stamp)
            add_change(batch, table, Op.READ, encoded, position, parts.largest, parts.headers)
        except Unencodable as fault:
            parts.dead_letters.add(batch, table, position, Op.READ, None, row, fault)

    def _hand(self) -> None:
        """Hand the batch over; all of it stands at the change that asked, in the middle of its transaction."""
        batch, self._batch = self._batch, Batch()
        self._stamp = time_stamp(time.time_ns())
        batch.reach(self._position, self._taken_us)
        batch.more, batch.snapshot_state = True, self._beside.state
        self._parts.publishing.hand(batch)


def _exported(holder: Connection) -> str:
    """A snapshot of now, as long as the connection stays open."""
    try:
        holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        row = holder.execute("SELECT pg_export_snapshot()").fetchone()
    except psycopg.Error as exc:
        raise passing(exc) from exc
    assert row is not None
    return str(row[0])
