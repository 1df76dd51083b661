"""Debezium's incremental snapshots: a signal row asks for tables, which are read in chunks while streaming goes on.

Around each chunk a row is written into the signal table. What the stream brings between the two rows is newer than
what the chunk read, so those keys are taken out of it; the rest is written where the second row stands. How far it is
goes into every journal entry: a kill costs one chunk.
"""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from instep.change import Op
from instep.relation import Relation
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.selection import matches, selected, with_columns
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import TextRow, copied_rows
from instep_schemas.wire import Unencodable
from instep_streams.capture.options import Compatible
from instep_streams.capture.tables import CapturedTable, Tables

log = logging.getLogger(__name__)

_OPEN, _CLOSE = "snapshot-window-open", "snapshot-window-close"


class Due(NamedTuple):
    """A row to write now, as read from the store."""

    table: CapturedTable
    row: TextRow


@dataclass
class _Request:
    """One table to read.

    Attributes:
        table: `schema.table`.
        condition: SQL text that its rows must meet, empty for all.
        order: columns to read by instead of the key, empty for the key.
        after: texts of the last key that was written, None at the start.
        upto: texts of the greatest key there was when it began.
    """

    table: str
    condition: str = ""
    order: list[str] = field(default_factory=list)
    after: list[str] | None = None
    upto: list[str] | None = None


class Incremental:
    """Runs the snapshots that signals ask for.

    Args:
        settings: names the signal table.
        control: a connection in autocommit mode; used only in calls of the streaming thread.
        tables: makes captured tables.
        state: from the last journal entry, empty for none.
    """

    def __init__(self, settings: Compatible, control: Connection, tables: Tables, state: str) -> None:
        self._settings = settings
        self._control = control
        self._tables = tables
        known = json.loads(state).get("incremental", {}) if state else {}
        self._todo = [_Request(**each) for each in known.get("todo", [])]
        self._paused = bool(known.get("paused", False))
        self._chunk = ""
        self._opened = ""
        self._open = False
        self._window: dict[bytes, TextRow] = {}
        self._table: CapturedTable | None = None
        self._reading: _Request | None = None
        self._read: list[str] | None = None

    @property
    def state(self) -> str:
        """For the journal; empty when there is nothing to go on with."""
        if not self._todo:
            return ""
        return json.dumps({"incremental": {"todo": [vars(each) for each in self._todo], "paused": self._paused}})

    def resume(self) -> None:
        """Go on where the journal says."""
        if self._todo:
            self._read_chunk()

    def change(
        self, table: CapturedTable, op: Op, keys: Sequence[bytes | None], old: RawRow | None, new: RawRow | None
    ) -> list[Due]:
        """Look at a change that the stream brings, and give the rows whose turn it is behind it.

        Raises:
            ConnectionError: the store is gone for now.
        """
        if table.name == self._settings.signals:
            return self._signal(table, op, new if new is not None else old)
        if self._open and self._table is not None and table.name == self._table.name:
            for key in keys:
                if key is not None:
                    self._window.pop(key, None)
        return []

    def truncated(self, table: CapturedTable) -> None:
        """A table was emptied: nothing of it may come behind that."""
        if self._open and self._table is not None and table.name == self._table.name:
            self._window.clear()

    # ---- signals

    def _signal(self, table: CapturedTable, op: Op, row: RawRow | None) -> list[Due]:
        if row is None or op not in (Op.CREATE, Op.DELETE) or len(row) < 3:
            return []
        name, kind, data = (each.decode() if isinstance(each, bytes) else "" for each in row[:3])
        if op is Op.DELETE:
            closed = self._settings.delete_window and name == f"{self._chunk}-open"
            return self._closed() if closed else []
        if kind in (_OPEN, _CLOSE):
            if name == f"{self._chunk}-open":
                self._open = True
            return self._closed() if name == f"{self._chunk}-close" else []
        try:
            self._obey(kind, json.loads(data or "{}"))
        except (ValueError, TypeError, KeyError, AttributeError, re.error) as exc:
            log.warning("the signal %s (%s) is not understood and is ignored: %s", name, kind, exc)
        return []

    def _obey(self, kind: str, data: dict[str, Any]) -> None:
        patterns = [str(each) for each in data.get("data-collections") or ()]
        if kind == "execute-snapshot":
            if str(data.get("type", "incremental")).lower() != "incremental":
                raise ValueError(f"snapshots of the type {data['type']} are not done here")
            self._add(patterns, data)
        elif kind == "stop-snapshot":
            self._stop(patterns)
        elif kind == "pause-snapshot":
            self._paused = True
        elif kind == "resume-snapshot" and self._paused:
            self._paused = False
            if not self._chunk:
                self.resume()
        elif kind == "log":
            log.info("%s", data.get("message", ""))

    def _add(self, patterns: list[str], data: dict[str, Any]) -> None:
        running = bool(self._todo)
        known = [table.table for table in selected(self._control, self._settings.selection)]
        conditions = {
            str(each["data-collection"]): str(each.get("filter", ""))
            for each in data.get("additional-conditions") or ()
        }
        order = [str(data["surrogate-key"])] if data.get("surrogate-key") else []
        for pattern in patterns:
            found = [name for name in known if matches((pattern,), name)]
            if not found:
                log.warning("the signal's data collection %s matches no captured table", pattern)
            waiting = {each.table for each in self._todo}
            for name in found:
                if name not in waiting:
                    condition = next((c for p, c in conditions.items() if matches((p,), name)), "")
                    self._todo.append(_Request(name, condition, list(order)))
        if self._todo and not running:
            self._read_chunk()

    def _stop(self, patterns: list[str]) -> None:
        current = self._todo[0].table if self._todo else ""
        self._todo = [each for each in self._todo if patterns and not matches(patterns, each.table)]
        if not self._todo or self._todo[0].table != current:
            self._window.clear()

    # ---- chunks

    def _closed(self) -> list[Due]:
        """The window is over: what is left of it is due, and the next chunk is read."""
        table, rows = self._table, list(self._window.values())
        self._open, self._window, self._chunk = False, {}, ""
        if self._reading is not None and self._read is not None:
            self._reading.after = self._read
        self._read_chunk()
        return [] if table is None else [Due(table, row) for row in rows]

    def _read_chunk(self) -> None:
        self._read = None
        if not self._todo or self._paused:
            return
        self._chunk, self._open, self._window = str(uuid.uuid4()), False, {}
        self._opened = _now()
        try:
            self._write(f"{self._chunk}-open", _OPEN, {"openWindowTimestamp": self._opened})
            while self._todo and not self._fill(self._todo[0]):
                log.info("incremental snapshot of %s is complete", self._todo.pop(0).table)
            self._close()
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def _close(self) -> None:
        if self._settings.delete_window:
            table = sql.Identifier(*self._settings.signals.split(".", 1))
            self._control.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(table), (f"{self._chunk}-open",))
            return
        times = {"openWindowTimestamp": self._opened, "closeWindowTimestamp": _now()}
        self._write(f"{self._chunk}-close", _CLOSE, times)

    def _write(self, name: str, kind: str, data: dict[str, str]) -> None:
        table = sql.Identifier(*self._settings.signals.split(".", 1))
        self._control.execute(
            sql.SQL("INSERT INTO {} VALUES (%s, %s, %s)").format(table), (name, kind, json.dumps(data))
        )  # fmt: skip

    def _fill(self, request: _Request) -> bool:
        """Read the request's next chunk into the window; false when there is nothing left to read."""
        published, relation = self._describe(request.table)
        order = request.order or list(relation.key if relation else ())
        if published is None or relation is None or not order:
            log.warning("%s is gone or has no key: its incremental snapshot is left out", request.table)
            return False
        if request.upto is None:
            last = self._select(published, relation, order, request, descending=True)
            if not last:
                return False
            request.upto = _texts(relation, order, last[-1])
        rows = self._select(published, relation, order, request)
        if not rows:
            return False
        self._table = table = self._tables.captured(relation)
        for row in rows:
            try:
                key = table.encoder.key(row)
            except Unencodable:  # it goes to the dead letters in its turn
                key = None
            self._window[key if key is not None else repr(row).encode()] = row
        self._reading, self._read = request, _texts(relation, order, rows[-1])
        return True

    def _describe(self, name: str) -> tuple[Published | None, Relation | None]:
        known = [table for table in selected(self._control, self._settings.selection) if table.table == name]
        for published in with_columns(self._control, known):
            catalog = Catalog(self._control, primary_first=True)
            return published, catalog.relations({published.oid: published.columns}).get(published.oid)
        return None, None

    def _select(
        self, table: Published, relation: Relation, order: list[str], request: _Request, *, descending: bool = False
    ) -> list[TextRow]:
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in relation.columns)
        key = sql.SQL(", ").join(map(sql.Identifier, order))
        conditions: list[sql.Composable] = [
            sql.SQL(f"({text})") for text in (table.row_filter, request.condition) if text
        ]
        for sign, bound in ((">", request.after), ("<=", request.upto)):
            if bound is not None:
                values = sql.SQL(", ").join(sql.Literal(text) for text in bound)
                conditions.append(sql.SQL("({}) {} ({})").format(key, sql.SQL(sign), values))
        where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
        direction = sql.SQL(" DESC" if descending else "")
        by = sql.SQL(", ").join(sql.Identifier(name) + direction for name in order)
        query = sql.SQL("SELECT {} FROM {}{} ORDER BY {} LIMIT {}").format(
            columns,
            sql.Identifier(table.schema, table.name),
            where,
            by,
            sql.Literal(1 if descending else self._settings.chunk_rows),
        )
        return list(copied_rows(self._control, query))


def _texts(relation: Relation, order: list[str], row: TextRow) -> list[str]:
    names = [column.name for column in relation.columns]
    cells = (row[names.index(name)] for name in order)
    return ["" if cell is None else cell.decode() for cell in cells]


def _now() -> str:
    stamp = time.time_ns()
    seconds = datetime.fromtimestamp(stamp // 1_000_000_000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{stamp % 1_000_000_000:09d}Z"
