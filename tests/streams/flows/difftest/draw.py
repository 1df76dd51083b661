"""Random DML for any schema, drawn from its catalog: small domains, so that rows meet."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable

import psycopg
from tests.streams.flows.difftest.store import Reference, Store

from instep_streams.flows.catalog import Column, Table, quote

_TEXTS = ("a", "b", "c", "DE", "FR", "open", "done", "Ärzte", "alpha 12", "Zed", "x'y", "50%", "", " b ", "über")
_NUMBERS = ("0", "1", "1.0", "1.00", "2.5", "-3", "9.990", "30.00", "1234567.89", "0.01")
_TIMES = ("2024-02-29 10:00:00.123456+00", "2024-12-31 23:59:59+00", "2024-05-01 23:30+00", "2023-01-31 00:00:00+05")
_DOCUMENTS: tuple[object, ...] = (
    {"color": "red", "hot": True},
    {"dims": {"w": "9", "h": 1.50}},
    {"color": None},
    {},
    [1, 2],
)
_Draw = Callable[[random.Random], str]


def _small(rnd: random.Random) -> str:
    return str(rnd.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 12, 50)))


def _uuid(rnd: random.Random) -> str:
    return f"00000000-0000-4000-8000-00000000000{rnd.randint(0, 9)}"


_BY_TYPE: dict[str, _Draw] = {
    "smallint": _small,
    "integer": _small,
    "bigint": _small,
    "numeric": lambda rnd: rnd.choice(_NUMBERS),
    "real": lambda rnd: rnd.choice(("0", "1.5", "-2.25", "0.1")),
    "double precision": lambda rnd: rnd.choice(("0", "1.5", "-2.25", "0.1", "1e20")),
    "money": lambda rnd: rnd.choice(("1.00", "2.50")),
    "boolean": lambda rnd: rnd.choice(("true", "false")),
    "uuid": _uuid,
    "date": lambda rnd: rnd.choice(_TIMES)[:10],
    "timestamp with time zone": lambda rnd: rnd.choice(_TIMES),
    "timestamp without time zone": lambda rnd: rnd.choice(_TIMES)[:16],
    "time without time zone": lambda rnd: rnd.choice(_TIMES)[11:16],
    "interval": lambda rnd: rnd.choice(("1 mon", "30 days", "1 day 02:00", "-3 hours")),
    "json": lambda rnd: json.dumps(rnd.choice(_DOCUMENTS)),
    "jsonb": lambda rnd: json.dumps(rnd.choice(_DOCUMENTS)),
    "bytea": lambda rnd: rnd.choice(("\\x", "\\x00ff", "\\x616263")),
    "inet": lambda rnd: rnd.choice(("10.0.0.1", "10.0.0.0/8")),
    "text": lambda rnd: rnd.choice(_TEXTS),
}


def value(column: Column, rnd: random.Random) -> str:
    """A text that the column's type reads."""
    if column.sql_type.endswith("[]"):
        element = Column(column.name, column.sql_type[:-2], labels=column.labels, base=column.base)
        items = [value(element, rnd) for _ in range(rnd.randint(0, 3))]
        return "{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in items) + "}"
    if column.labels:
        return rnd.choice(column.labels)
    text = re.sub(r"\([^)]*\)", "", column.base or column.sql_type)
    drawn = _BY_TYPE.get(text, _BY_TYPE["text"])(rnd)
    length = re.fullmatch(r"character(?: varying)?\((\d+)\)", column.base or column.sql_type)
    return drawn[: int(length[1])] if length else drawn


class Shop:
    """Changes a store at random; what a constraint refuses is left out.

    Args:
        store: the store.
        rnd: the only source of chance.
        size: rows per table that keys are drawn for.
    """

    def __init__(self, store: Store, rnd: random.Random, size: int = 16) -> None:
        self._store, self._rnd, self._size = store, rnd, size
        self._tables = [table for table in store.tables.values() if table.key]
        self._references: dict[str, list[Reference]] = {}
        for each in store.references:
            self._references.setdefault(each.table, []).append(each)

    def transaction(self, statements: int) -> None:
        """One transaction of some statements."""
        with self._store.conn.transaction():
            for _ in range(statements):
                try:
                    with self._store.conn.transaction():
                        self._statement(self._rnd.choice(self._tables))
                except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException):
                    continue

    def fill(self, rows: int) -> None:
        """Insert so many rows, tables at random, to begin with."""
        for _ in range(rows):
            with self._store.conn.transaction():
                try:
                    with self._store.conn.transaction():
                        self._insert(self._rnd.choice(self._tables))
                except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.RaiseException):
                    continue

    def _statement(self, table: Table) -> None:
        chance = self._rnd.random()
        if chance < 0.001:
            self._store.conn.execute(f"TRUNCATE {table.sql} CASCADE".encode())
        elif chance < 0.15:
            self._delete(table)
        elif chance < 0.5:
            self._update(table)
        else:
            self._insert(table)

    def _pick(self, table: Table) -> tuple[str, ...] | None:
        keys = ", ".join(f"({quote(name)})::text" for name in table.key)
        rows = self._store.conn.execute(f"SELECT {keys} FROM {table.sql} ORDER BY {keys}".encode()).fetchall()
        return self._rnd.choice(rows) if rows else None

    def _delete(self, table: Table) -> None:
        key = self._pick(table)
        if key is not None:
            self._store.conn.execute(f"DELETE FROM {table.sql} WHERE {_match(table)}".encode(), key)

    def _update(self, table: Table) -> None:
        key = self._pick(table)
        values = self._values(table)
        names = [name for name in values if name not in table.key or self._rnd.random() < 0.15]
        if key is None or not names:
            return
        chosen = self._rnd.sample(names, self._rnd.randint(1, len(names)))
        sets = ", ".join(f"{_escaped(name)} = %s::text::{table.type_of(name)}" for name in chosen)
        sql = f"UPDATE {table.sql.replace('%', '%%')} SET {sets} WHERE {_match(table)}"
        self._store.conn.execute(sql.encode(), [*(values[name] for name in chosen), *key])

    def _insert(self, table: Table) -> None:
        values = self._values(table)
        names = ", ".join(_escaped(name) for name in values)
        given = ", ".join(f"%s::text::{table.type_of(name)}" for name in values)
        sql = f"INSERT INTO {table.sql.replace('%', '%%')} ({names}) VALUES ({given}) ON CONFLICT DO NOTHING"
        self._store.conn.execute(sql.encode(), list(values.values()))

    def _values(self, table: Table) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for column in table.columns:
            if (table.id, column.name) in self._store.generated:
                continue
            nullable = not column.not_null and column.name not in table.key
            found[column.name] = None if nullable and self._rnd.random() < 0.12 else self._value(table, column)
        for reference in self._references.get(table.id, ()):
            if self._rnd.random() < 0.9:
                found |= self._referenced(table, reference)
        return found

    def _value(self, table: Table, column: Column) -> str:
        meeting = column.name in table.key or column.name.endswith("_id")
        if meeting and re.match(r"smallint|integer|bigint", column.base or column.sql_type):
            return str(self._rnd.randint(1, self._size))
        return value(column, self._rnd)

    def _referenced(self, table: Table, reference: Reference) -> dict[str, str | None]:
        target = self._store.tables[reference.target]
        names = ", ".join(f"({quote(name)})::text" for name in reference.target_columns)
        rows = self._store.conn.execute(f"SELECT {names} FROM {target.sql} ORDER BY {names}".encode()).fetchall()
        if not rows:
            return {}
        return dict(zip(reference.columns, self._rnd.choice(rows), strict=True))


def _escaped(name: str) -> str:
    return quote(name).replace("%", "%%")


def _match(table: Table) -> str:
    return " AND ".join(f"{_escaped(name)} = %s::text::{table.type_of(name)}" for name in table.key)
