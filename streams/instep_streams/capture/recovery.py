"""Recovery from a lost slot: a new one, and exactly the changes that were missed.

What the slot would have brought is gone, but not what it led to: the tables hold it. So a new slot is made, and under
its own snapshot every table is compared with what its topic's readers hold. A key that only they hold is a missed
delete; a row that they hold otherwise, or not at all, a missed update or insert. Deletes are written as deletes, the
others as reads, equal rows not at all; then the stream goes on behind the snapshot. What happened in between to one row
is summed up in its last state, and the journal says so. So is what still waits of a table that was stopped.

All entries but the last say `more`, so that no reader shows a state in between. A recovery that was cut off is done
again.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from typing import Any

from instep.change import Op, Position, format_lsn
from instep.errors import ConfigError, SourceError
from instep.journal import JournalEntry
from instep.relation import Relation
from instep.topics import held_topic
from instep_connectors.kafka import end_offsets, read_topic, topics
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.publication import Published, check_readable
from instep_connectors.postgres.replication import Identity, NewSlot, ReplicationConnection
from instep_connectors.postgres.snapshot import Snapshot, TextRow
from instep_schemas.envelope import SourceBlock
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import MAX_BATCH_BYTES, Origin, captured_lsn
from instep_streams.capture.bulk import Bulk
from instep_streams.capture.folding import FoldedRow, Schemas
from instep_streams.capture.gap import Gap
from instep_streams.capture.held import Held
from instep_streams.capture.publishing import PublishingThread
from instep_streams.capture.session import Session
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.withheld import released, waiting

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Recovered:
    """What was found.

    Attributes:
        gap: see `Gap`.
        tables: per table how many rows were equal, how many reads and deletes were written, how many rejected.
    """

    gap: Gap
    tables: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {"reason": self.gap.reason, "from": self.gap.start, "to": self.gap.end, "tables": self.tables}


def recover(task: Task) -> Recovered:
    """Make a new slot and bring what was missed; capture may be started then.

    Raises:
        ConfigError: there is nothing to recover.
        SourceError: a person must look; the slot is another's, somebody captures.
        InstepError, ConnectionError, TimeoutError: a part refuses or is away: start again.
    """
    recovery = Recovery(task)
    recovery.run()
    assert recovery.result is not None
    return recovery.result


class Recovery(Session):
    """A session that mends instead of streaming. Use `run` once, then read `result`.

    Args:
        task: what to capture; in Instep's own profile.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task, lambda: None)
        self.result: Recovered | None = None

    def _capture(self, stack: ExitStack, server: slots.Server, last: JournalEntry | None) -> None:
        replication = self._replicate(stack)
        identity = replication.identify()
        if last is None:
            raise ConfigError("Nothing was captured yet.", "Start it: `instep capture`.")
        reason = self._reason(server, replication, identity, last)
        ours = (identity.system, identity.timeline) == (last.system, last.timeline)
        same = ours and identity.lsn >= captured_lsn(last)
        epoch = last.epoch if same else last.epoch + 1
        origin = Origin(self._task.source, epoch, identity.system, identity.timeline)
        self._publisher.describe(origin, self._entry_schema, last.batch, self._ids())
        publishing = PublishingThread(self._publisher.publish, f"publish {self._task.source}")
        stack.callback(publishing.close)
        stack.callback(self._publisher.close)
        self._parts = self._make_parts(publishing, server.database, epoch)
        published = list(self._publish())
        check_readable(self._control, published)
        mending = Mending(self._task, self._parts, reason, last.last if same else Position(epoch, 0, 0))
        mending.mark()
        self._drop_slot()
        new = replication.create_slot(self._own.slot, self._task.idle, failover=self._own.slot_failover)
        if new is None:
            raise SourceError("The recovery was stopped.", "Start it again: `instep capture recover`.")
        settings = self._task.settings.registry
        self._schemas = Schemas(type(self._registry).of(settings))
        stack.callback(self._schemas.close)
        self.result = mending.run(new, published, self._schemas)

    def _reason(
        self, server: slots.Server, replication: ReplicationConnection, identity: Identity, last: JournalEntry
    ) -> Gap:
        """What is wrong.

        Raises:
            ConfigError: nothing.
            SourceError: the slot is another's.
        """
        gap = Gap.of(last)
        slot = slots.read_slot(self._control, self._own.slot)
        if slot is not None:
            slots.check_slot(replace(slot, wal_status="", invalidation=None), server.database)
        if gap is not None and last.more:
            return replace(gap, end="")
        captured = captured_lsn(last)
        try:
            slots.check_identity(
                slots.Standing(identity.system, identity.timeline, identity.lsn),
                slots.Standing(last.system, last.timeline, captured),
                replication.history,
            )
            if slot is None:
                raise slots.missing_slot(self._own.slot, captured)
            slots.check_slot(slot, server.database, captured)
            slots.check_resume(slot, captured, server.standby)
        except SourceError as exc:
            return Gap(exc.cause, str(last.last))
        raise ConfigError(
            f"There is nothing to recover: the slot {slot.name} at {format_lsn(slot.confirmed)} has all that the "
            f"journal at {format_lsn(captured)} lacks.",
            "Start the capture: `instep capture`.",
        )

    def _drop_slot(self) -> None:
        name = self._own.slot
        application = self._task.application
        slots.wait_until_free(self._control, name, application, 10.0, self._task.idle)
        self._control.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", (name,)
        )


class Mending:
    """Compares tables with topics and writes the differences.

    Args:
        task: what to capture.
        parts: of the session.
        gap: what is mended.
        position: of the marker.
    """

    def __init__(self, task: Task, parts: Parts, gap: Gap, position: Position) -> None:
        self._task = task
        self._parts = parts
        self._gap = gap
        self._bulk = Bulk(parts, position)
        self._source = SourceBlock(parts.options, committed_us=self._bulk.taken_us, transaction=None)
        self._result = Recovered(gap)

    def mark(self) -> None:
        """Say in the journal that the chain is being mended, before anything is changed in the store."""
        log.warning("recovery from %s: %s", self._gap.start, self._gap.reason)
        self._hand(more=True)
        self._bulk.settled()

    def run(self, new: NewSlot, published: list[Published], schemas: Schemas) -> Recovered:
        """Compare every table at the new slot's beginning and write the differences."""
        self._gap = self._result.gap = replace(self._gap, end=format_lsn(new.lsn))
        self._bulk.position = Position(self._parts.epoch, new.lsn - 1, 0)
        self._source = SourceBlock(
            self._parts.options, committed_us=self._bulk.taken_us, transaction=None, last_commit=new.lsn,
            snapshot="incremental",
        )  # fmt: skip
        snapshot = Snapshot(self._task.dsn, self._task.application, new.snapshot, published)
        try:
            relations = snapshot.relations(published)
            for table in published:
                self._mend(snapshot, table, relations[table.oid], schemas)
        finally:
            snapshot.close()
        self._supersede({table.table for table in published})
        self._hand(more=False)
        self._bulk.settled()
        return self._result

    def _supersede(self, mended: set[str]) -> None:
        """What waits of a table that was stopped is older than what its topic has now: it is not to come behind it."""
        kafka, source = self._task.settings.kafka, self._task.source
        at = (held_topic(source), 0)
        for table, waits in waiting(kafka, source).items():
            if table in mended:
                end = end_offsets(kafka, [at], committed_only=False)[at]
                self._bulk.batch.records.append(released(source, table, end))
                log.info("recovery: %s: what it led to stands in for %d changes that waited", table, waits.changes)

    def _mend(self, snapshot: Snapshot, published: Published, relation: Relation, schemas: Schemas) -> None:
        table = self._parts.tables.captured(relation)
        counts = self._result.tables[table.name] = {"equal": 0, "reads": 0, "deletes": 0, "rejected": 0}
        with closing(Held(schemas)) as held:
            if table.topic in topics(self._task.settings.kafka):
                held.read(read_topic(self._task.settings.kafka, table.topic))
            if not held.key_ids <= table.ids:
                # the key itself has changed: its old keys mean nothing any more, so the table begins anew
                self._bulk.truncate(table, self._source, None)
                held.clear()
            names = [column.name for column in relation.columns]
            for row in snapshot.rows(published, relation):
                if self._equal(table, held, names, row):
                    counts["equal"] += 1
                else:
                    self._write(table, Op.READ, None, row, None, counts)
            for key, gone in held.left():
                self._write(table, Op.DELETE, _old(relation, gone, key is None), None, key, counts)
        log.info("recovery: %s: %s", table.name, ", ".join(f"{n} {what}" for what, n in counts.items()))

    def _equal(self, table: CapturedTable, held: Held, names: list[str], row: TextRow) -> bool:
        try:
            return held.take(table.encoder.key(row), names, row)
        except Unencodable:  # it goes to the dead letters in its turn
            return False

    def _write(
        self, table: CapturedTable, op: Op, old: TextRow | None, new: TextRow | None, key: bytes | None,
        counts: dict[str, int],
    ) -> None:  # fmt: skip
        written = self._bulk.add(table, op, old, new, self._source, None, key)
        counts["rejected" if not written else "reads" if op is Op.READ else "deletes"] += 1
        batch = self._bulk.batch
        if batch.changes >= self._task.own.batch_changes or batch.size >= MAX_BATCH_BYTES:
            self._hand(more=True)

    def _hand(self, *, more: bool) -> None:
        """Hand the batch over as soon as the one before it is in Kafka."""
        self._bulk.settled()
        self._bulk.hand(more=more, state=self._gap.state if more else "")


def _old(relation: Relation, row: FoldedRow, whole: bool) -> TextRow:
    """A held row as the store would send the old row of a delete: its key, or all of it when there is no key."""
    texts = [row.get(column.name) if whole or column.name in relation.key else None for column in relation.columns]
    return tuple(None if text is None else text.encode() for text in texts)
