"""Random DML for any schema, drawn from its catalog: small domains, so that rows meet."""

from __future__ import annotations

import random
from collections import Counter
from graphlib import CycleError, TopologicalSorter

import psycopg
from tests.streams.flows.difftest.store import Reference, Store
from tests.streams.flows.difftest.values import Values

from instep_streams.flows.catalog import Table, quote

_FEW, _TRIES = 6, 10


class Shop:
    """Changes a store at random; what a constraint or a trigger refuses is left out.

    Args:
        store: the store.
        rnd: the only source of chance.
        text: of the schema and the flows, for the values they mention.
        size: of the domain of integer keys.

    Attributes:
        done: rows that statements changed, per table id.
        refused: the last refusal, per table id.
    """

    def __init__(self, store: Store, rnd: random.Random, text: str = "", size: int = 16) -> None:
        self._store, self._rnd, self._size = store, rnd, size
        self._tables = list(store.tables.values())
        self._keyed = [table for table in self._tables if table.key]
        self._values = Values(store.conn, text, size)
        self._references: dict[str, list[Reference]] = {}
        for each in store.references:
            self._references.setdefault(each.table, []).append(each)
        self.done: Counter[str] = Counter()
        self.refused: dict[str, str] = {}

    def transaction(self, statements: int) -> None:
        """One transaction of some statements."""
        if self._keyed:
            self._run([self._rnd.choice(self._keyed) for _ in range(statements)])

    def fill(self) -> None:
        """Rows for tables that have few, referenced tables first; twice, for tables that reference each other."""
        for table in [*self._in_order(), *self._in_order()]:
            (count,) = self._store.conn.execute(f"SELECT count(*) FROM {table.sql}".encode()).fetchone() or (0,)
            for _ in range(_TRIES if count < _FEW else 0):
                self._run([table], insert=True)

    def _in_order(self) -> list[Table]:
        graph = {table.id: {each.target for each in self._references.get(table.id, ())} for table in self._tables}
        try:
            order = list(
                TopologicalSorter({name: sorted(needs - {name}) for name, needs in graph.items()}).static_order()
            )
        except CycleError:
            return self._tables
        return [self._store.tables[name] for name in order]

    def _run(self, tables: list[Table], *, insert: bool = False) -> None:
        try:
            with self._store.conn.transaction():
                for table in tables:
                    self._try(table, insert=insert)
        except psycopg.Error as exc:  # a deferred constraint
            self._refused(tables[-1], exc)

    def _try(self, table: Table, *, insert: bool) -> None:
        try:
            with self._store.conn.transaction():
                changed = self._insert(table) if insert else self._statement(table)
            self.done[table.id] += changed
        except psycopg.Error as exc:
            self._refused(table, exc)

    def _refused(self, table: Table, exc: psycopg.Error) -> None:
        if self._store.conn.closed:
            raise exc
        self.refused[table.id] = (exc.diag.message_primary or str(exc)).splitlines()[0]

    def _statement(self, table: Table) -> int:
        chance = self._rnd.random()
        if chance < 0.001:
            self._store.conn.execute(f"TRUNCATE {table.sql} CASCADE".encode())
            return 0
        if chance < 0.15:
            return self._delete(table)
        if chance < 0.5:
            return self._update(table)
        return self._insert(table)

    def _pick(self, table: Table) -> tuple[str, ...] | None:
        keys = ", ".join(f"({quote(name)})::text" for name in table.key)
        rows = self._store.conn.execute(f"SELECT {keys} FROM {table.sql} ORDER BY {keys}".encode()).fetchall()
        return self._rnd.choice(rows) if rows else None

    def _delete(self, table: Table) -> int:
        key = self._pick(table)
        if key is None:
            return 0
        sql = f"DELETE FROM {table.sql.replace('%', '%%')} WHERE {_match(table)}"
        return self._store.conn.execute(sql.encode(), key).rowcount

    def _update(self, table: Table) -> int:
        key = self._pick(table)
        values = {n: v for n, v in self._row(table).items() if (table.id, n) not in self._store.always}
        names = [name for name in values if name not in table.key or self._rnd.random() < 0.15]
        if key is None or not names:
            return 0
        chosen = self._rnd.sample(names, self._rnd.randint(1, len(names)))
        sets = ", ".join(f"{_escaped(name)} = %s::text::{_type(table, name)}" for name in chosen)
        sql = f"UPDATE {table.sql.replace('%', '%%')} SET {sets} WHERE {_match(table)}"
        return self._store.conn.execute(sql.encode(), [*(values[name] for name in chosen), *key]).rowcount

    def _insert(self, table: Table) -> int:
        values = self._row(table)
        for name in list(values):
            if (table.id, name) in self._store.defaults and self._rnd.random() < 0.2:
                del values[name]
        names = ", ".join(_escaped(name) for name in values)
        given = ", ".join(f"%s::text::{_type(table, name)}" for name in values)
        row = f"({names}) OVERRIDING SYSTEM VALUE VALUES ({given})" if values else "DEFAULT VALUES"
        sql = f"INSERT INTO {table.sql.replace('%', '%%')} {row}"
        return self._store.conn.execute(sql.encode(), list(values.values())).rowcount

    def _row(self, table: Table) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for column in table.columns:
            named = (table.id, column.name)
            if named in self._store.generated:
                continue
            nullable = not column.not_null and column.name not in table.key
            if nullable and self._rnd.random() < 0.12:
                found[column.name] = None
                continue
            key = column.name in table.key or column.name.lower().endswith("id")
            drawn = self._values.draw(table, column, self._rnd, narrow=named in self._store.checked, key=key)
            if drawn is not None or named not in self._store.defaults:
                found[column.name] = drawn
        for reference in self._references.get(table.id, ()):
            if self._rnd.random() < 0.9:
                found |= self._referenced(reference)
        return found

    def _referenced(self, reference: Reference) -> dict[str, str | None]:
        target = self._store.tables[reference.target]
        names = ", ".join(f"({quote(name)})::text" for name in reference.target_columns)
        rows = self._store.conn.execute(f"SELECT {names} FROM {target.sql} ORDER BY {names}".encode()).fetchall()
        if not rows:
            return {}
        return dict(zip(reference.columns, self._rnd.choice(rows), strict=True))


def _escaped(name: str) -> str:
    return quote(name).replace("%", "%%")


def _type(table: Table, name: str) -> str:
    return table.type_of(name).replace("%", "%%")


def _match(table: Table) -> str:
    return " AND ".join(f"{_escaped(name)} = %s::text::{_type(table, name)}" for name in table.key)
