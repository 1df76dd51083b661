"""Rows of a snapshot into tables that do not hold them yet, by COPY, which is less work than replacing rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.change import ABSENT
from instep_streams.flows.catalog import POSITION, Table, quote
from instep_streams.flows.rows import RowChange

_PATIENCE: Final = 3
"""So many refused batches of one table: a snapshot of rows that are held is under way."""

_TAB: Final = "\t"
_ESCAPED: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

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
        text = copy_text(table, rows)
        if text is None or self._holds(gone):
            return False
        names = ", ".join(quote(name) for name in [*(column.name for column in table.columns), POSITION])
        try:
            with self._conn.transaction(), self._conn.cursor() as cursor:
                with cursor.copy(f"COPY {table.sql} ({names}) FROM STDIN".encode()) as copy:
                    copy.write(text)
        except (psycopg.errors.UniqueViolation, psycopg.DataError):
            self._refused[table.id] += 1  # the statement that replaces rows decides, and says what is wrong
            return False
        return True

    def _holds(self, table: str) -> bool:
        return self._conn.execute(f"SELECT EXISTS (SELECT FROM {table})".encode()).fetchone() == (True,)


def copy_text(table: Table, rows: Sequence[Positioned]) -> str | None:
    """The rows in COPY's text format, each with its position; None when one of them does not carry every column."""
    names = list(table.names)
    pick: Callable[[Any], Iterable[Any]] = itemgetter(*names) if len(names) > 1 else lambda row: (row[names[0]],)
    try:
        text = "\n".join([f"{_TAB.join(pick(change.row))}\t{position}" for position, change in rows])
    except (KeyError, TypeError):  # a null or an absent value, or no row at all
        return _told_apart(names, rows)
    tabs, ends = len(names) * len(rows), len(rows) - 1
    if "\\" in text or "\r" in text or text.count("\t") != tabs or text.count("\n") != ends:
        return _told_apart(names, rows)
    return f"{text}\n"


def _told_apart(names: Sequence[str], rows: Sequence[Positioned]) -> str | None:
    """As `copy_text`, value by value."""
    lines = []
    for position, change in rows:
        row = change.row
        if row is None or any(row.get(name, ABSENT) is ABSENT for name in names):
            return None
        values = [row[name] for name in names]
        texts = ["\\N" if each is None else str(each).translate(_ESCAPED) for each in values]
        lines.append(f"{_TAB.join(texts)}\t{position}\n")
    return "".join(lines)
