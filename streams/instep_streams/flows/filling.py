"""Rows of a snapshot into tables that do not hold them yet, by COPY, which is less work than replacing rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.change import ABSENT
from instep_streams.flows.catalog import POSITION, Table, quote
from instep_streams.flows.rows import RowChange

_PATIENCE: Final = 3
"""So many refused batches of one table: a snapshot of rows that are held is under way."""

Positioned = tuple[int, RowChange]
"""A change with its position."""


class Filling:
    """Copies a snapshot's rows in, inside the caller's transaction; what cannot be copied is left to the caller.

    A table whose deleted rows have left positions behind is not filled so: an older copy may be among the rows.

    Args:
        conn: the pinned session.
    """

    def __init__(self, conn: Connection[Any]) -> None:
        self._conn = conn
        self._refused: Counter[str] = Counter()

    def fill(self, table: Table, gone: str, rows: Sequence[Positioned]) -> bool:
        """Put rows into a table; False when nothing was put in, because one of them is held already or does not fit.

        Args:
            table: the replica's.
            gone: the table of its deleted rows' positions.
            rows: snapshot rows.
        """
        if self._refused[table.id] >= _PATIENCE:
            return False
        values = _values(table, rows)
        if values is None or self._holds(gone):
            return False
        names = ", ".join(quote(name) for name in [*(column.name for column in table.columns), POSITION])
        try:
            with self._conn.transaction(), self._conn.cursor() as cursor:
                with cursor.copy(f"COPY {table.sql} ({names}) FROM STDIN".encode()) as copy:
                    for row in values:
                        copy.write_row(row)
        except (psycopg.errors.UniqueViolation, psycopg.DataError):
            self._refused[table.id] += 1  # the statement that replaces rows decides, and says what is wrong
            return False
        return True

    def _holds(self, table: str) -> bool:
        return self._conn.execute(f"SELECT EXISTS (SELECT FROM {table})".encode()).fetchone() == (True,)


def _values(table: Table, rows: Sequence[Positioned]) -> list[tuple[object, ...]] | None:
    """The rows as COPY takes them; None when one of them does not carry every column."""
    pick = itemgetter(*(column.name for column in table.columns), table.columns[0].name)
    values = []
    for position, change in rows:
        try:
            row = pick(change.row)  # type: ignore[arg-type]  # a row that is None is a TypeError
        except (KeyError, TypeError):
            return None
        if ABSENT in row:
            return None
        values.append((*row[:-1], position))
    return values
