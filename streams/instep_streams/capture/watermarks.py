"""Marks that a copy writes into the store's own stream, so that a chunk finds its place in it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Final, Protocol

from psycopg import sql

from instep_connectors.postgres.slot import Connection

MESSAGE_PREFIX: Final = "instep"
"""Logical messages with this prefix are ours: they carry no change, only ask for a journal entry."""

OPEN, CLOSE = "snapshot-window-open", "snapshot-window-close"


class Watermarks(Protocol):
    """Writes marks. Every method raises `psycopg.Error`.

    `each`: every chunk has an opening mark of its own, and the last chunk is an empty one, as Debezium has it.
    """

    each: bool

    def open(self, mark: str) -> int:
        """Before a chunk is read; gives the transaction's id, 64 bits."""
        ...

    def close(self, mark: str) -> None:
        """When it was read: the stream comes to this behind everything that the chunk sees."""
        ...


class MessageMarks:
    """Transactional logical messages: no table, no right beyond a connection is needed.

    Args:
        control: in autocommit mode.
    """

    each = False

    def __init__(self, control: Connection) -> None:
        self._control = control

    def open(self, mark: str) -> int:
        """See `Watermarks`."""
        return self._write({"open": mark})

    def close(self, mark: str) -> None:
        """See `Watermarks`."""
        self._write({"close": mark})

    def _write(self, content: dict[str, str]) -> int:
        row = self._control.execute(
            "SELECT pg_current_xact_id()::text::bigint, pg_logical_emit_message(true, %s, %s)",
            (MESSAGE_PREFIX, json.dumps(content)),
        ).fetchone()
        assert row is not None
        return int(row[0])


class SignalMarks:
    """Rows of Debezium's signal table.

    Args:
        control: in autocommit mode.
        table: `schema.table`.
        delete: the window is closed by deleting the row that opened it.
    """

    each = True

    def __init__(self, control: Connection, table: str, *, delete: bool) -> None:
        self._control = control
        self._table = sql.Identifier(*table.split(".", 1))
        self._delete = delete
        self._opened = ""

    def open(self, mark: str) -> int:
        """See `Watermarks`."""
        self._opened = _now()
        return self._insert(f"{mark}-open", OPEN, {"openWindowTimestamp": self._opened})

    def close(self, mark: str) -> None:
        """See `Watermarks`."""
        if self._delete:
            self._control.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(self._table), (f"{mark}-open",))
        else:
            times = {"openWindowTimestamp": self._opened, "closeWindowTimestamp": _now()}
            self._insert(f"{mark}-close", CLOSE, times)

    def _insert(self, name: str, kind: str, data: dict[str, str]) -> int:
        query = sql.SQL("INSERT INTO {} VALUES (%s, %s, %s) RETURNING pg_current_xact_id()::text::bigint")
        row = self._control.execute(query.format(self._table), (name, kind, json.dumps(data))).fetchone()
        assert row is not None
        return int(row[0])


def _now() -> str:
    stamp = time.time_ns()
    seconds = datetime.fromtimestamp(stamp // 1_000_000_000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{stamp % 1_000_000_000:09d}Z"
