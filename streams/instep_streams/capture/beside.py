"""What runs beside the stream: copies of tables, tables that join and leave, and what a person asks for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import psycopg

from instep.change import Op
from instep.journal import JournalEntry
from instep.topics import commands_topic
from instep_connectors.kafka import RangeReader, end_offsets, partitions, start_offsets
from instep_connectors.postgres.pgoutput import RawRow, RelationMessage
from instep_connectors.postgres.publication import Published, matcher, places, published_tables
from instep_connectors.postgres.selection import selected, with_columns
from instep_connectors.postgres.session import passing
from instep_streams.capture.batch import Record
from instep_streams.capture.commands import Command, command, signal
from instep_streams.capture.copies import Copies, Due, Meeting, Standstill
from instep_streams.capture.incremental import Incremental
from instep_streams.capture.members import Members
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.watermarks import CLOSE, OPEN, MessageMarks, SignalMarks, Watermarks

log = logging.getLogger(__name__)

_LOOK_S: Final = 3.0
"""The publication is looked at this often."""


class Beside:
    """Everything beside the stream, as `Transactions` and `Streaming` see it.

    Args:
        task: what to capture.
        parts: of the session.
        last: the journal's last entry.
        standby: the store takes no watermarks.

    Methods raise ConnectionError when the store or Kafka are gone for now, and what `Tables.captured` raises.
    """

    def __init__(self, task: Task, parts: Parts, last: JournalEntry, *, standby: bool) -> None:
        self._task = task
        self._parts = parts
        self._compatible = compatible = parts.compatible
        self._signals = compatible.signals if compatible else ""
        self._standby = standby
        self._names = matcher(task.own.tables)
        self._members = None if compatible else Members.load(task.settings.kafka, task.source)
        self._look_at = 0.0
        marks: Watermarks = MessageMarks(parts.control)
        if compatible and self._signals:
            marks = SignalMarks(parts.control, self._signals, delete=compatible.delete_window)
        chunk_rows = compatible.chunk_rows if compatible else task.own.chunk_rows
        self.asked: Command | None = None
        """A blocking snapshot that the change just written asks for."""
        self._copies = Incremental(
            parts.control, parts.tables, self.published, marks, Copies.parse(last.snapshot_state),
            chunk_rows=chunk_rows, primary_first=compatible is not None,
        )  # fmt: skip

    # ---- for the batch

    @property
    def state(self) -> str:
        """For the journal; empty when there is nothing to go on with."""
        return self._copies.copies.state

    def records(self) -> list[Record]:
        """What the next batch must carry."""
        return [] if self._members is None else self._members.records()

    @property
    def standstill(self) -> Standstill | None:
        """What the stream waits for."""
        return self._copies.copies.standstill

    def stand(self, standstill: Standstill | None) -> None:
        """The stream waits for this from now on; None: it has waited."""
        self.asked = None
        self._copies.copies.standstill = standstill

    # ---- for the stream

    def resume(self) -> None:
        """Go on where the journal says; copy what joined meanwhile."""
        self._copies.resume()
        self._look()

    def tick(self) -> None:
        """Between two transactions."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look()
        self._copies.tick()

    def begin(self, xid: int) -> None:
        """A transaction (32 bits) begins."""
        self._copies.begin(xid)

    def described(self, message: RelationMessage) -> bool:
        """A table is described in the stream; false when its changes are not to be captured."""
        members, name = self._members, f"{message.schema}.{message.name}"
        if members is None or members.knows(name, message.oid):
            return True
        self._look()
        if members.knows(name, message.oid):
            return True
        if members.former(name, message.oid):
            log.info("%s is not captured any more; the stream still brings what was written before that", name)
            return True
        log.warning("%s has left the publication: it is not captured any more", name)
        return False

    @property
    def idle(self) -> bool:
        """Whether `meet` and `changed` have nothing to do."""
        return not self._signals and not self._copies.watching

    def meet(self, table: CapturedTable, op: Op, old: RawRow | None, new: RawRow | None) -> Meeting | None:
        """Decide on a change before it is written; None: as usual."""
        if not self._copies.watching:
            return None
        former = self._members is not None and self._members.former(table.name, table.encoder.relation.oid)
        return self._copies.outlive(table) if former else self._copies.meet(table, op, old, new)

    def changed(
        self, table: CapturedTable, op: Op, keys: Sequence[bytes | None], old: RawRow | None, new: RawRow | None
    ) -> Sequence[Due]:
        """A change was written; gives what is due behind it."""
        if self._signals and table.name == self._signals:
            return self._signal(op, new if new is not None else old)
        if self._copies.watching:
            self._copies.change(table, keys)
        return ()

    def truncated(self, table: CapturedTable) -> None:
        """A table was emptied."""
        if self._copies.watching:
            self._copies.truncated(table)

    def message(self, content: bytes) -> Sequence[Due]:
        """One of our logical messages; gives what is due behind it."""
        if content[:1] != b"{":
            return ()
        try:
            said: dict[str, Any] = json.loads(content)
        except ValueError:
            return ()
        if "command" in said:
            if said.get("source") == self._task.source:  # every slot of the database gets it
                self._obey(said["command"])
            return ()
        if "open" in said:
            due = self._copies.passed(str(said["open"]), opened=True)
            return [] if self._compatible and Op.TRUNCATE in self._compatible.skipped else due
        return self._copies.passed(str(said.get("close", "")))

    # ---- inside

    def published(self) -> list[Published]:
        """The tables that may be copied, as they are now."""
        control = self._parts.control
        if self._compatible is not None:
            return with_columns(control, selected(control, self._compatible.selection))
        found = published_tables(control, self._task.own.publication)
        return [table for table in found if self._names.fullmatch(table.table)]

    def _look(self) -> None:
        self._look_at = time.monotonic() + _LOOK_S
        members = self._members
        if members is None:
            return
        try:
            published = self.published()
            where = places(self._parts.control, self._task.own.publication)
        except psycopg.Error as exc:
            raise passing(exc) from exc
        if members.unknown:
            members.seed(published, where)
            return
        joined, left = members.look(published, where)
        for name in left:
            log.warning("%s has left the publication: it is not captured any more", name)
            self._copies.leave(name)
        for table in joined:
            if self._standby:
                log.warning(
                    "%s joined the publication: its changes are captured from here on; its rows from before are not, "
                    "because a standby takes no watermarks",
                    table.table,
                )
                continue
            log.info("%s joined the publication: it is copied while streaming goes on", table.table)
            self._copies.join(table.table, clear=table.before)

    def _signal(self, op: Op, row: RawRow | None) -> Sequence[Due]:
        """A row of Debezium's signal table."""
        if row is None or op not in (Op.CREATE, Op.DELETE) or len(row) < 3:
            return ()
        name, kind, data = (each.decode() if isinstance(each, bytes) else "" for each in row[:3])
        deletes = self._compatible is not None and self._compatible.delete_window
        if op is Op.DELETE:
            return self._copies.passed(name.removesuffix("-open")) if deletes else ()
        if kind == OPEN:
            return self._copies.passed(name.removesuffix("-open"), opened=True)
        if kind == CLOSE:
            return self._copies.passed(name.removesuffix("-close"))
        asked = signal(name, kind, data)
        if asked is not None and asked.blocking:
            self.asked = asked
        elif asked is not None:
            self._copies.obey(asked)
        return ()

    def _obey(self, offset: object) -> None:
        """Read a command where its message says that it stands, and do it."""
        topic = commands_topic(self._task.source)
        kafka = self._task.settings.kafka
        at = (topic, 0)
        if not isinstance(offset, int) or not partitions(kafka, topic):
            log.warning("a command is ignored: there is no record %s in %s", offset, topic)
            return
        # its commit may still be on the way to the partition: the reader waits for that
        if not start_offsets(kafka, [at])[at] <= offset < end_offsets(kafka, [at], committed_only=False)[at]:
            log.warning("a command is ignored: %s holds no record %d", topic, offset)
            return
        reader = RangeReader(kafka, f"instep-commands-{self._task.source}")
        try:
            for record in reader.read({at: (offset, offset + 1)}):
                self._copies.obey(command(record.value))
        except ValueError as exc:
            log.warning("the record %d of %s is ignored: %s", offset, topic, exc)
        finally:
            reader.close()
