"""Tables whose schema has changed in a way that the registry refuses: they stand still, the others go on.

The table's changes go, as they came, to `<source>.__held`, in the same Kafka transaction as the batch that they belong
to. Once the registry takes every version of the table that they need, they are written to its topic, in order and
before any newer change of it. A record `released` in the same transaction says how far that is; so it happens exactly
once.
"""

from __future__ import annotations

import logging
import select
import time
from typing import Any, Final

from instep.change import Op, Position
from instep.errors import KafkaFault
from instep.journal import JournalEntry
from instep.relation import Relation
from instep.topics import held_topic
from instep_connectors.postgres.recording import relation_of
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import MAX_BATCH_BYTES, Batch
from instep_streams.capture.framing import add_change, add_truncate
from instep_streams.capture.meters import HELD
from instep_streams.capture.tables import CapturedTable, Incompatible, Tables
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.withheld import StoppedEncoder, Waiting, forget, held, raw_row, released, waiting

log = logging.getLogger(__name__)

_LOOK_S: Final = 10.0


class StoppedTables:
    """The stopped tables of one session.

    Args:
        task: what to capture.
        parts: of the session.
    """

    def __init__(self, task: Task, parts: Parts) -> None:
        self._task = task
        self._parts = parts
        self._kafka = task.settings.kafka
        self._waiting = waiting(self._kafka, task.source)
        self._looked_at = time.monotonic()

    def release(self, last: JournalEntry) -> JournalEntry:
        """Write the changes of every table that may go on; gives the journal's last entry.

        Raises:
            ConnectionError, TimeoutError: broker or registry is away.
        """
        for table in list(self._waiting):
            if self._may_go_on(table):
                last = _Release(self._task, self._parts, last).run(table, self._waiting.pop(table))
            self._show(table)
        if not self._waiting:
            self._forget()
        return last

    def _forget(self) -> None:
        """What was released is read at each start for nothing."""
        try:
            forget(self._kafka, self._task.source)
        except (KafkaFault, ConnectionError, TimeoutError) as exc:
            log.warning("the released changes in %s are not deleted: %s", self._topic, exc)

    def stop(self, relation: Relation, fault: Incompatible | None = None) -> CapturedTable:
        """The table, stopped: by a new fault, or since changes of it wait already."""
        table = relation.table
        if fault is not None:
            known = self._waiting.setdefault(table, Waiting())
            if not known.reason:
                log.error(
                    "%s is stopped: %s Its changes wait in %s; the other tables go on.", table, fault, self._topic
                )
            known.reason = str(fault)
            self._show(table)
        known = self._waiting[table]
        if relation not in known.relations:
            known.relations.append(relation)
        encoder = StoppedEncoder(relation, self._parts.options, known.reason)
        return CapturedTable(table, "", 1, encoder, frozenset())

    def holds(self, table: str) -> bool:
        """Whether a table is stopped."""
        return table in self._waiting

    def due(self) -> bool:
        """Whether a stopped table may go on, so that the session should start anew; asks the registry now and then."""
        if not self._waiting or time.monotonic() - self._looked_at < _LOOK_S:
            return False
        self._looked_at = time.monotonic()
        try:
            return any(map(self._may_go_on, self._waiting))
        except (ConnectionError, TimeoutError):
            return False

    @property
    def _topic(self) -> str:
        return held_topic(self._task.source)

    def _may_go_on(self, table: str) -> bool:
        return all(_captured(self._parts.tables, relation) is not None for relation in self._waiting[table].relations)

    def _show(self, table: str) -> None:
        HELD.labels(self._task.source, table).set(1 if table in self._waiting else 0)


def _captured(tables: Tables, relation: Relation) -> CapturedTable | None:
    try:
        return tables.captured(relation)
    except Incompatible:
        return None


class _Release:
    """Writes a table's held changes behind the journal's last entry, whose position they leave as it is."""

    def __init__(self, task: Task, parts: Parts, last: JournalEntry) -> None:
        self._task = task
        self._parts = parts
        self._last = last
        self._batch = Batch()

    def run(self, name: str, waiting: Waiting) -> JournalEntry:
        """Write them all; gives the last entry."""
        table: CapturedTable | None = None
        end = waiting.first
        for key, offset, document in held(self._task.settings.kafka, self._task.source):
            if key != name or "released" in document:
                continue
            if document["relation"] is not None:
                table = _captured(self._parts.tables, relation_of(document["relation"]))
            if offset < waiting.first:
                continue
            assert table is not None
            self._add(table, document)
            end = offset + 1
            if self._batch.changes >= self._task.own.batch_changes or self._batch.size >= MAX_BATCH_BYTES:
                self._hand(name, end)
        self._hand(name, end)
        log.info("%s goes on: %d changes that waited are in its topic", name, waiting.changes)
        return self._last

    def _add(self, table: CapturedTable, document: dict[str, Any]) -> None:
        op, old, new = Op(document["op"]), raw_row(document["old"]), raw_row(document["new"])
        position = Position.parse(document["position"])
        committed_us, transaction, last_commit, origin, origin_lsn = document["source"]
        source = SourceBlock(
            self._parts.options, committed_us=committed_us, transaction=transaction, last_commit=last_commit,
            origin=origin, origin_lsn=origin_lsn,
        )  # fmt: skip
        stamp, lsn, batch = time_stamp(time.time_ns()), document["lsn"], self._batch
        if op is Op.TRUNCATE:
            add_truncate(batch, table, table.encoder.envelope(op, None, None, source, lsn, stamp), position)
            return
        try:
            encoded = table.encoder.records(op, old, new, source, lsn, stamp)
            add_change(batch, table, op, encoded, position, self._parts.largest)
        except Unencodable as fault:
            self._parts.dead_letters.add(batch, table, position, op, old, new, fault)

    def _hand(self, name: str, end: int) -> None:
        batch, self._batch = self._batch, Batch()
        batch.records.append(released(self._task.source, name, end))
        last = self._last
        batch.pass_by(last.last, last.last_commit_us)
        batch.more, batch.snapshot, batch.snapshot_state = last.more, last.snapshot, last.snapshot_state
        publishing = self._parts.publishing
        publishing.hand(batch)
        while publishing.busy:
            select.select([publishing], [], [], 0.25)
            for _, self._last in publishing.done():
                pass
