"""Copies of tables in chunks while streaming goes on: asked for by a person, or of a table that is new.

A chunk is read under a snapshot that sees everything streamed so far (`Fence`); then a watermark is written into the
store, and the chunk's rows are written where the stream comes to it. What the stream brings in between is newer than
the chunk or in it already. Of a table that was captured before, such keys are taken out of the chunk; of a first copy,
see `copies`. How far it is goes into every journal entry: a kill costs one chunk.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Final

import psycopg

from instep.change import ABSENT, Op
from instep.failpoints import hit
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import TextRow
from instep_streams.capture.chunking import AFTER_FAULT_S, ChunkReader, Later, Regions, key_of, registered, texts_of
from instep_streams.capture.commands import Command
from instep_streams.capture.copies import Copies, Copy, Due, Meeting, Window
from instep_streams.capture.fence import Fence
from instep_streams.capture.tables import CapturedTable, Tables
from instep_streams.capture.watermarks import Watermarks

log = logging.getLogger(__name__)

_TELL_S: Final = 10.0


_DROP: Final = Meeting(drop=True)
_GONE: Final = Meeting(gone=True)


class Incremental:
    """Runs the copies.

    Args:
        control: a connection in autocommit mode; used only in calls of the streaming thread.
        tables: makes captured tables.
        published: gives the tables that may be copied, as they are now.
        marks: writes watermarks.
        copies: what is left to do.
        chunk_rows: most rows of a chunk.
        primary_first: see `Catalog`.

    Methods raise ConnectionError when the store is gone for now, and what `Tables.captured` raises.
    """

    def __init__(
        self,
        control: Connection,
        tables: Tables,
        published: Callable[[], Sequence[Published]],
        marks: Watermarks,
        copies: Copies,
        *,
        chunk_rows: int,
        primary_first: bool = False,
    ) -> None:
        self._control = control
        self._tables = tables
        self._marks = marks
        self._copies = copies
        self._fence = Fence(control)
        self._reader = ChunkReader(
            control, published, self._fence, chunk_rows=chunk_rows, exhaust=marks.each, primary_first=primary_first
        )
        self._window: Window | None = None
        self._mark = ""
        self._opened = False
        self._regions = Regions(control)
        self._xid = 0
        self._again_at = self._told_at = 0.0
        self.watching = False
        """Whether `begin`, `meet` and `change` have anything to do."""

    @property
    def copies(self) -> Copies:
        """What is left to do."""
        return self._copies

    def resume(self) -> None:
        """Go on where the journal says, and start what was added."""
        for copy in self._copies.todo:
            # rows without a key cannot be told from those that came before: the topic begins anew
            copy.clear = copy.clear or (copy.first and not copy.order)
        if self._copies.todo:
            self._start()

    # ---- what is asked for

    def obey(self, command: Command) -> None:
        """Do what a person asks."""
        copies = self._copies
        if command.kind == "run":
            self._run(command)
        elif command.kind == "stop":
            kept = [each for each in copies.todo if each.first or (command.tables and not command.names(each.table))]
            for each in (each for each in copies.todo if each not in kept):
                log.info("the copy of %s is stopped", each.table)
            self._keep(kept)
        elif command.kind == "pause":
            # Debezium takes no notice while nothing is under way; ours holds the copies that are asked for next
            copies.paused = bool(copies.todo) or not self._marks.each
        elif copies.paused:
            copies.paused = False
            if self._window is None and copies.todo:
                self._start()

    def _run(self, command: Command) -> None:
        known = self._reader.names()
        for pattern in command.tables:
            if not any(Command("run", (pattern,)).names(name) for name in known):
                log.warning("%s matches no captured table: nothing of it is copied", pattern)
        found = [name for pattern in command.tables for name in known if Command("run", (pattern,)).names(name)]
        for name in dict.fromkeys(found):
            if self._copies.of(name) is None:
                copy = Copy(name, command.condition(name), list(command.order), request=command.request)
                self._copies.todo.append(copy)
        if self._copies.todo and not self.watching:
            self._start()

    def join(self, table: str, *, clear: bool) -> None:
        """Copy a table whose rows were never captured; `clear`: its topic holds rows of another time."""
        if clear:
            self.leave(table)  # a copy of what had its name: begin anew
        if self._copies.of(table) is None:
            self._copies.todo.append(Copy(table, first=True, clear=clear))
        if not self.watching:
            self._start()

    def leave(self, table: str) -> None:
        """A table is not captured any more."""
        self._keep([each for each in self._copies.todo if each.table != table])

    def _keep(self, todo: list[Copy]) -> None:
        self._copies.todo = todo
        if self._window is not None and self._window.copy not in todo:
            self._window = None
            self._opened = self._opened and not self._marks.each
            self._again_at = 0.0
        self.watching = self.watching and bool(todo)

    # ---- what the stream brings

    def begin(self, xid: int) -> None:
        """A transaction begins in the stream; `xid` of 32 bits."""
        self._xid = xid
        if self.watching and (self._window is not None or not self._copies.paused):  # else `_start` comes first
            self._fence.streamed(xid)

    def outlive(self, table: CapturedTable) -> Meeting | None:
        """Decide on a change of a table that is gone; another one may have its name, and a copy of its own to come."""
        copy = self._copies.of(table.name)
        return None if copy is None or copy.clear else _DROP  # before its topic is cleared, or not any more

    def meet(self, table: CapturedTable, op: Op, old: RawRow | None, new: RawRow | None) -> Meeting | None:
        """Decide on a change of the running transaction before it is written; None: as usual."""
        copy = self._copies.of(table.name)
        if copy is None or not copy.first:
            return None
        window = self._window if self._window is not None and self._window.copy is copy else None
        if window is not None and window.view.sees(window.view.full(self._xid)):
            unseen = None
        else:
            unseen = window
        if not table.encoder.relation.key:
            return Meeting(self._release(), new) if unseen else _DROP
        before, after = texts_of(table, old), texts_of(table, new)
        if new is None or after is None:
            self._forget(unseen, copy, table, old, before)
            return None
        return self._arrive(copy, window, unseen, table, op, (old, new), (before, after))

    def _arrive(
        self,
        copy: Copy,
        window: Window | None,
        unseen: Window | None,
        table: CapturedTable,
        op: Op,
        rows: tuple[RawRow | None, RawRow],
        keys: tuple[list[str] | None, list[str]],
    ) -> Meeting:
        """Decide on a change that leaves a row, of a table with a key; `unseen`: the chunk, if it does not have it."""
        (old, new), (before, after) = rows, keys
        moved = before is not None and before != after
        ghost = (before if moved else after) in copy.ghosts
        if op is Op.CREATE and ghost:
            copy.ghosts.remove(after)
            ghost = False
        if not self._regions.admits(copy, window, table, after, self._xid) or (ghost and not moved):
            if moved:
                self._forget(unseen, copy, table, old, before)
            return _GONE if moved else _DROP
        due = self._take(unseen, table, [new, old] if moved else [new])
        if moved and not due and (ghost or not self._regions.admits(copy, window, table, before or [], self._xid)):
            self._forget(unseen, copy, table, old, before)
            completed = self._regions.completed(table, new) if ABSENT in new else new
            if completed is None:
                copy.ghosts.append(after)
                return _GONE
            new = completed
        return Meeting(due, new)

    def _forget(
        self, unseen: Window | None, copy: Copy, table: CapturedTable, old: RawRow | None, key: list[str] | None
    ) -> None:
        """A row goes: neither its place in the chunk nor what is known of it matters any more."""
        if unseen is not None and old is not None:
            unseen.rows.pop(key_of(table, old), None)
        if key in copy.ghosts and key is not None:
            copy.ghosts.remove(key)
            self._settle(copy)

    def change(self, table: CapturedTable, keys: Sequence[bytes | None]) -> None:
        """A change was written: of a table that was captured before, the chunk's row is older.

        Before the chunk's own opening mark it is not, if the chunk sees the change: Debezium writes the row again.
        """
        window = self._window
        if window is not None and not window.copy.first and table.name == window.table.name:
            if self._marks.each and not window.reached and window.view.sees(window.view.full(self._xid)):
                return
            for key in keys:
                if key is not None:
                    window.rows.pop(key, None)

    def truncated(self, table: CapturedTable) -> None:
        """A table was emptied: nothing of it may come behind that."""
        window = self._window
        copy = self._copies.of(table.name)
        if copy is not None:
            copy.ghosts.clear()
            self._settle(copy)
        if window is not None and table.name == window.table.name:
            if not window.copy.first or not window.view.sees(window.view.full(self._xid)):
                window.rows.clear()

    def passed(self, mark: str, *, opened: bool = False) -> list[Due]:
        """The stream has come to a watermark; gives the rows whose turn it is."""
        if opened:
            if self._window is not None and mark == self._window.mark:
                self._window.reached = True
            cleared = [copy for copy in self._copies.todo if copy.clear]
            due = [Due(table, None) for copy in cleared if (table := self._captured(copy)) is not None]
            if cleared and not self._clears:
                self._next()
            return due
        if mark != self._mark or not self._opened:
            return []
        self._opened = not self._marks.each
        due = self._release()
        window, self._window, self._mark = self._window, None, ""
        if window is not None:
            self._advance(window)
            hit("capture.chunk")
        self._next()
        return due

    def tick(self) -> None:
        """Between two transactions: try again what could not be done."""
        if self.watching and self._window is None and time.monotonic() >= self._again_at:
            self._next()

    # ---- first copies

    def _take(self, window: Window | None, table: CapturedTable, rows: Sequence[RawRow | None]) -> list[Due]:
        """Take out of the chunk what must be written before a newer change of the same row."""
        due: list[Due] = []
        for row in rows:
            held = None if window is None or row is None else window.rows.pop(key_of(table, row), None)
            if held is not None and window is not None:
                window.copy.rows += 1
                due.append(Due(window.table, held))
        return due

    def _release(self) -> list[Due]:
        """What is left of the chunk."""
        window = self._window
        if window is None:
            return []
        rows = list(window.rows.values())
        window.rows.clear()
        window.copy.rows += len(rows)
        return [Due(window.table, row) for row in rows]

    # ---- chunks

    def _start(self) -> None:
        self.watching, self._opened = True, False
        self._fence.start()
        self._told_at = time.monotonic()
        self._next()

    def _next(self) -> None:
        """Read the next chunk, if there is one and its turn has come."""
        copies = self._copies
        self.watching = bool(copies.todo)
        copies.initial = copies.initial and self.watching
        if self._window is not None or copies.next is None or copies.paused:
            return
        clear = self._clears
        try:
            if clear or not self._opened:
                self._mark, self._opened = str(uuid.uuid4()), True
                self._fence.mark(self._marks.open(self._mark))
            if clear:
                self._again_at = time.monotonic() + AFTER_FAULT_S  # the stream comes to it before that
                return
            self._read_next()
        except psycopg.Error as exc:
            raise passing(exc) from exc

    @property
    def _clears(self) -> bool:
        """Whether the topic of the copy to go on with must be cleared."""
        copy = self._copies.next
        return copy is not None and copy.clear

    def _later(self, copy: Copy, exc: Later) -> None:
        self._again_at = time.monotonic() + exc.seconds
        if exc.rotate:
            self._copies.todo.remove(copy)
            self._copies.todo.append(copy)

    def _read_next(self) -> None:
        copies, window = self._copies, None
        if not self._marks.each:
            self._mark = str(uuid.uuid4())
        try:
            while (copy := copies.next) is not None and (window := self._read(copy)) is None:
                copies.todo.remove(copy)
        except Later as exc:
            assert copy is not None
            self._later(copy, exc)
            return
        self._window = window
        self.watching = bool(copies.todo)
        if window is not None or self._marks.each:
            self._marks.close(self._mark)

    def _read(self, copy: Copy) -> Window | None:
        """Read the copy's next chunk; None when there is nothing to read."""
        chunk = self._reader.read(copy)
        while chunk is not None and not chunk.rows and not copy.first:  # the range holds nothing
            copy.ranges.pop(0)
            if not copy.ranges:
                log.info("copied %s: %d rows", copy.table, copy.rows)
                return None
            chunk = self._reader.read(copy)
        if chunk is None:
            return None
        self._regions.forget(copy)
        table = registered(self._tables, copy, chunk.relation)
        if table is None:
            return None
        rows: dict[bytes, TextRow] = {}
        for row in chunk.rows:
            rows[key_of(table, row) if chunk.relation.key else b"%d" % len(rows)] = row
        return Window(self._mark, copy, chunk.view, table, rows, chunk.last, chunk.upto)

    def _advance(self, window: Window) -> None:
        """The chunk is written."""
        copy = window.copy
        window.close()
        self._settle(copy)
        if copy.ranges and time.monotonic() - self._told_at >= _TELL_S:
            self._told_at = time.monotonic()
            log.info("copying %s: %d rows of about %s", copy.table, copy.rows, copy.total or "?")

    def _settle(self, copy: Copy) -> None:
        """Strike the copy off the list when nothing of it is left."""
        if not copy.ranges and not copy.ghosts and copy in self._copies.todo:
            self._copies.todo.remove(copy)
            self._regions.forget(copy)
            log.info("copied %s: %d rows", copy.table, copy.rows)

    def _captured(self, copy: Copy) -> CapturedTable | None:
        """The table whose topic is to be cleared; None: not now, or it is not captured any more."""
        try:
            found = self._reader.described(copy)
            table = None if found is None else registered(self._tables, copy, found[1])
        except Later as exc:
            self._later(copy, exc)
            return None
        except psycopg.Error as exc:
            raise passing(exc) from exc
        copy.clear = False
        return table
