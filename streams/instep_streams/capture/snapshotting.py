"""The first copy of the captured tables, exact against the stream that follows.

The rule. A slot's exported snapshot holds every transaction committed below the slot's consistent point, and the
stream brings all others; so rows get the position just below that point. All entries but the last say `more`, so that
no reader shows a state in between. An entry written *before* the slot is made tells, after a kill, that it is ours.

The snapshot's view dies with its connection. What is in the journal by then stays right, because the stream goes on
from the same point; what is left is copied beside the stream (`Start.FINISH`). So each entry says which parts of which
tables are left: parts are read in the order of their keys. Where that cannot be (no slot yet, a standby), slot and
snapshot are made anew, behind one TRUNCATE per table: a row deleted between the attempts would otherwise live on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import psycopg

from instep.change import Op, Position, format_lsn
from instep.failpoints import hit
from instep.journal import JournalEntry
from instep.relation import Relation
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.chunks import Part
from instep_connectors.postgres.pieces import Readers, Work, split, split_blocks
from instep_connectors.postgres.publication import Published, places
from instep_connectors.postgres.replication import NewSlot, ReplicationConnection
from instep_connectors.postgres.selection import matches
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.snapshot import Snapshot, TextRow
from instep_schemas.envelope import SourceBlock
from instep_streams.capture.batch import MAX_BATCH_BYTES
from instep_streams.capture.bulk import Bulk
from instep_streams.capture.chunking import row_texts
from instep_streams.capture.copies import Bounds, Copies, Copy
from instep_streams.capture.members import Members
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts, Task

log = logging.getLogger(__name__)

_LOOK_AT_SLOT_S: Final = 2.0
_TELL_S: Final = 10.0


_AT_ONCE_BYTES: Final = 8 << 20
_BATCHES: Final = 5
"""Nobody waits for a row of a snapshot as for a change: so many batches go in one transaction."""
_PART_ROWS: Final = 200_000


class Step(NamedTuple):
    """How far a piece brings its part: `bounds` is the part in `copy.ranges`, `reached` its last key, if in order."""

    copy: Copy
    bounds: Bounds
    rows: int
    over: bool
    reached: list[str] | None


SnapshotRows = tuple[int, CapturedTable, Sequence[TextRow], Step | None]
"""Rows (at least one) with their table, that table's number, and the step that they complete."""


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
        self._bulk = Bulk(parts, Position(parts.epoch, 0, 0))
        self._rows = 0
        self._copies = Copies()
        self._done: dict[str, int] = {}
        self._slot_seen = self._told = self._started = time.monotonic()

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
                self._bulk.position = unfinished.last
                self._drop_slot()
            self._mark()
            own = self._task.own
            new = self._replication.create_slot(own.slot, self._task.idle, failover=own.slot_failover)
            if new is None:
                return None
            self._copy(new, clear=unfinished is not None)
        except Stopped:
            return None
        return self._bulk.last

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
        self._bulk.batch.pass_by(self._bulk.position, time.time_ns() // 1000)
        self._hand(more=True)
        self._settle()

    def _copy(self, new: NewSlot, *, clear: bool) -> None:
        self._started = time.monotonic()
        snapshot = Snapshot(self._task.dsn, self._task.application, new.snapshot, self._published)
        readers = None
        try:
            self._bulk.position = Position(self._parts.epoch, new.lsn - 1, 0)
            self._bulk.taken_us = time.time_ns() // 1000
            compatible = self._parts.compatible
            source = SourceBlock(
                self._parts.options, committed_us=self._bulk.taken_us,
                transaction=snapshot.next_transaction() if compatible else None, snapshot="true",
            )  # fmt: skip
            relations = snapshot.relations(self._published, primary_first=compatible is not None)
            tables = self._capture(relations)
            self._join()
            if clear and not (compatible and Op.TRUNCATE in compatible.skipped):
                for table in tables.values():
                    self._bulk.truncate(table, source, new.lsn)
            works = self._plan(snapshot, relations)
            threads = self._task.own.snapshot_threads if compatible is None else 1
            rows = sum(each.total or 0 for each in self._copies.todo)
            log.info("snapshot of %d tables, about %d rows, over %d connections", len(relations), rows, threads)
            readers = Readers(
                self._task.dsn, self._task.application, new.snapshot, works, threads, self._task.own.batch_changes
            )
            self._copy_tables(self._all_rows(readers, relations, tables), source, new.lsn)
        finally:
            if readers is not None:
                readers.close()
            snapshot.close()
        self._hand(more=False)
        self._settle()
        seconds = max(time.monotonic() - self._started, 1e-3)
        log.info(
            "snapshot at %s: %d rows of %d tables in %.1f s, %.0f rows/s",
            format_lsn(new.lsn), self._rows, len(self._published), seconds, self._rows / seconds,
        )  # fmt: skip

    def _plan(self, snapshot: Snapshot, relations: Mapping[int, Relation]) -> list[Work[tuple[Copy, Bounds]]]:
        """The parts to read, and in `_copies` what that leaves to do."""
        sizes = snapshot.sizes(self._published)
        self._copies.initial = True
        works: list[Work[tuple[Copy, Bounds]]] = []
        for published in self._published:
            if not self._copied(published):
                continue
            relation, (rows, size) = relations[published.oid], sizes.get(published.oid, (None, 0))
            key = list(relation.key) if published.select is None else []  # it can be read at one go only
            copy = Copy(published.table, order=key, first=True, total=rows)
            self._copies.todo.append(copy)
            # Debezium reads in no order; it would show in a table that is read in one go, where order is of no use
            order = key if self._parts.compatible is None or size > _AT_ONCE_BYTES else []
            parts = [Part()]
            if self._parts.compatible is None and published.select is None and rows is not None and rows > _PART_ROWS:
                count = -(-rows // _PART_ROWS)
                parts = (
                    split(snapshot, published, order, rows, count)
                    if order
                    else split_blocks(snapshot, published, count)
                )
            copy.ranges = [[None if bound is None else list(bound) for bound in part] for part in parts]
            works += [
                Work((copy, bounds), published, relation, order, part)
                for bounds, part in zip(copy.ranges, parts, strict=True)
            ]
        return works

    def _capture(self, relations: Mapping[int, Relation]) -> dict[int, CapturedTable]:
        """Register the tables' schemas; like Debezium's, a compatible capture does so with each table's first row."""
        if self._parts.compatible is None:
            return {p.oid: self._parts.tables.captured(relations[p.oid]) for p in self._published}
        for published in self._published:
            self._parts.tables.check(relations[published.oid])
        return {}

    def _join(self) -> None:
        """Say that the tables are captured: what joins later is copied beside the stream."""
        if self._parts.compatible is None:
            members = Members(self._task.source, {})
            members.seed(self._published, places(self._parts.control, self._task.own.publication))
            self._bulk.batch.records += members.records()

    def _all_rows(
        self, readers: Readers, relations: Mapping[int, Relation], tables: Mapping[int, CapturedTable]
    ) -> Iterator[SnapshotRows]:
        """Every row to copy, with its table, the table's number, and how far it brings its part."""
        known = dict(tables)
        copied = (published for published in self._published if self._copied(published))
        numbers = {published.oid: number for number, published in enumerate(copied)}
        for piece in readers:
            if piece is None:
                self._look()
                continue
            work, rows, over = piece
            oid = work.table.oid
            if rows and oid not in known:
                known[oid] = self._parts.tables.captured(relations[oid], copied=True)
            reached = None if over or not work.order else row_texts(work.relation, work.order, rows[-1])
            copy, bounds = work.owner
            step = Step(copy, bounds, len(rows), over, reached)
            if rows:
                yield numbers[oid], known[oid], rows, step
            else:
                self._advance(step)

    def _advance(self, step: Step) -> None:
        """A piece is written: take it out of what is left."""
        copy = step.copy
        copy.rows += step.rows
        if step.over:
            copy.ranges.remove(step.bounds)
            if not copy.ranges:
                self._copies.todo.remove(copy)
        elif step.reached is not None:
            step.bounds[0] = step.reached  # also of a part whose end, an empty piece, was seen before
        if not copy.ranges:
            self._done[copy.table] = copy.rows

    def _copied(self, published: Published) -> bool:
        """Whether the settings want the table's rows."""
        compatible = self._parts.compatible
        if compatible is None:
            return True
        wanted = compatible.snapshot_tables
        return compatible.snapshot != "no_data" and (not wanted or matches(wanted, published.table))

    def _copy_tables(self, rows: Iterator[SnapshotRows], source: SourceBlock, lsn: int) -> None:
        blocks = {name: source.marked(name) for name in ("first", "first_in_data_collection")}
        blocks |= {name: source.marked(name) for name in ("last_in_data_collection", "last")}
        blocks["true"] = source
        mark = marked_together if self._parts.compatible is None else marked
        for marker, table, some, step in mark(rows):
            self._rows += self._bulk.copy(table, some, blocks[marker], lsn)
            if step is None:
                continue
            self._advance(step)
            batch = self._bulk.batch
            if batch.changes >= _BATCHES * self._task.own.batch_changes or batch.size >= MAX_BATCH_BYTES:
                self._hand(more=True)
                hit("capture.snapshot")
                self._look()

    def _hand(self, *, more: bool) -> None:
        """Hand the batch over as soon as the one before it is in Kafka."""
        self._settle()
        self._bulk.hand(more=more, state=self._state if more else "", snapshot=True)

    def _settle(self) -> None:
        """Wait until nothing is being published."""
        if not self._bulk.settled(self._task.stopping):
            raise Stopped

    def _look(self) -> None:
        """Stop at once when the slot is lost: all the work would be for nothing. And tell how far it is."""
        now = time.monotonic()
        if now - self._slot_seen >= _LOOK_AT_SLOT_S:
            self._slot_seen = now
            slot = slots.read_slot(self._parts.control, self._task.own.slot)
            if slot is None:
                raise slots.missing_slot(self._task.own.slot, self._bulk.position.lsn)
            slots.check_slot(slot, self._parts.options.database)
        if now - self._told >= _TELL_S:
            self._told = now
            self._tell(now)

    @property
    def _state(self) -> str:
        """What is done and what is left, for the journal."""
        known = json.loads(self._copies.state or "{}")
        return json.dumps({"slot": self._task.own.slot, **known, "done": self._done})

    def _tell(self, now: float) -> None:
        """Log how far it is."""
        rate = self._rows / max(now - self._started, 1e-3)
        total = sum(each.total or each.rows for each in self._copies.todo) + sum(self._done.values())
        left = max(0, total - self._rows) / rate if rate else 0.0
        log.info(
            "snapshot: %d of about %d rows, %d tables done, %d to go; %.0f rows/s, about %.0f s left",
            self._rows, max(total, self._rows), len(self._done), len(self._copies.todo), rate, left,
        )  # fmt: skip


Marked = tuple[str, CapturedTable, Sequence[TextRow], Step | None]
"""`SnapshotRows` with Debezium's snapshot marker in place of the table's number."""


def marked(pieces: Iterable[SnapshotRows]) -> Iterator[Marked]:
    """Mark rows that come table by table: `first` only in the first table, `last` wherever the last row is."""
    held: tuple[int, CapturedTable, TextRow, Step | None] | None = None
    before = -1
    for number, table, rows, step in pieces:
        for left, row in enumerate(rows, 1 - len(rows)):
            if held is not None:
                yield _marker(before, held[0], number), held[1], (held[2],), held[3]
                before = held[0]
            held = number, table, row, None if left else step
    if held is not None:
        yield "last", held[1], (held[2],), held[3]


def marked_together(pieces: Iterable[SnapshotRows]) -> Iterator[Marked]:
    """Mark rows of tables that come between one another: only the first and the last of all are told apart."""
    held: SnapshotRows | None = None
    first = True
    for after in pieces:
        if held is not None:
            _, table, rows, step = held
            if first:
                yield "first", table, rows[:1], None
                rows, first = rows[1:], False
            yield "true", table, rows, step
        held = after
    if held is not None:
        _, table, rows, step = held
        if first and len(rows) > 1:
            yield "first", table, rows[:1], None
            rows = rows[1:]
        yield "true", table, rows[:-1], None
        yield "last", table, rows[-1:], step


def _marker(before: int, table: int, after: int) -> str:
    """The marker of a row of `table`, with the tables of the rows around it."""
    if before != table == 0:
        return "first"
    if after != table:
        return "last_in_data_collection"
    return "first_in_data_collection" if before != table else "true"
