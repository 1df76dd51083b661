"""Which tables the replica holds, and how it follows the store's table definitions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.errors import StateError
from instep_streams.flows.catalog import POSITION, Catalog, Column, Table, literal, quote

_STORAGE: Final = "WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.1)"
_ARRAY: Final = re.compile(r"(?:\[\])+$")
_SCHEMA: Final = re.compile(r'"(?:[^"]|"")*"|[^".]+')


class Tables(Mapping[str, Table]):
    """The tables that the replica of one source holds, by id: its own, and those of the sources joined to it.

    Args:
        conn: the pinned session.
        source: the source's name.
        joined: names of the sources that are joined to it.
    """

    def __init__(self, conn: Connection[Any], source: str, joined: Iterable[str] = ()) -> None:
        self._conn = conn
        self._source, self._sources = source, [source, *joined]
        self._owners: dict[str, str] = {}
        self._tables: dict[str, Table] = {}
        self._numbers: dict[str, int] = {}
        self._keyless: dict[str, Table] = {}
        self.load()

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    @property
    def captured(self) -> Catalog:
        """Every captured table, also those without a key, whose rows are not held."""
        return {**self._keyless, **self._tables}

    def load(self) -> None:
        """Read them again, after a transaction that changed them was rolled back."""
        rows = self._conn.execute(
            "SELECT id, name, shape, source FROM instep.tables WHERE source = ANY(%s)", (self._sources,)
        )
        self._tables, self._numbers, self._owners = {}, {}, {}
        for number, name, shape, source in rows.fetchall():
            self._tables[name] = _table_of(shape)
            self._numbers[name], self._owners[name] = number, source

    def gone(self, name: str) -> str:
        """The table that keeps the positions of a table's deleted rows."""
        return f"instep.gone_{self._numbers[name]}"

    def ensure(self, table: Table, source: str = "") -> bool:
        """Create a table, or make it follow the store's definition; gives whether anything changed.

        Columns that the store dropped stay, empty, for entries from before.

        Args:
            table: as the store has it, under the name that flows know it by.
            source: whose it is; empty: the replica's own.

        Raises:
            StateError: another source holds a table of that name, or the change cannot be followed.
        """
        source = source or self._source
        if self._owners.setdefault(table.id, source) != source:
            raise StateError(
                f"Sources {self._owners[table.id]} and {source} both have a table {table.id}.",
                "Let flows call the schema `public` of the joined one otherwise (`as_schema`), or do not capture it.",
            )
        if not table.key:
            self._keyless[table.id] = table
            return False
        self._keyless.pop(table.id, None)
        for column in table.columns:
            self._ensure_type(column)
        table = self._storable(table)
        held = self._tables.get(table.id)
        wanted = table if held is None else _with_dropped(held, table)
        if held == wanted:
            return False
        try:
            with self._conn.transaction():
                if held is None:
                    self._create(table)
                else:
                    self._alter(held, table)
                self._store_shape(wanted)
        except psycopg.errors.UniqueViolation as exc:
            raise StateError(
                f"The state database already holds a table {table.id} of another source or project.",
                "Use one state database per project, and different schema names in its sources.",
            ) from exc
        except (psycopg.errors.DataError, psycopg.errors.ProgrammingError) as exc:
            raise StateError(
                f"The replica cannot follow a change of table {table.id}: {exc.diag.message_primary}.",
                "Rebuild the replica: stop the worker, drop its state database and start it again.",
            ) from exc
        self._tables[table.id] = wanted
        return True

    def _storable(self, table: Table) -> Table:
        """With text in place of types that this database does not have (an extension's): no flow may read those.

        A domain over an enum is held as the enum: PostgreSQL has no `=` for such a domain.
        """
        columns = []
        for each in table.columns:
            if each.of_enum and each.base is not None:
                each = replace(each, sql_type=each.base + each.sql_type[len(_ARRAY.sub("", each.sql_type)) :])
            known = self._knows(each.sql_type)
            columns.append(each if known else replace(each, sql_type="text", foreign=each.sql_type))
        return replace(table, columns=tuple(columns))

    def _ensure_type(self, column: Column) -> None:
        name = _ARRAY.sub("", column.sql_type)
        if not column.labels and column.base is None:
            return
        enum = name if column.base is None else _ARRAY.sub("", column.base)
        if column.labels and "." in enum:
            self._ensure_enum(enum, column.labels)
        if column.base is not None and not self._knows(name) and self._knows(column.base):
            self._conn.execute(f"CREATE SCHEMA IF NOT EXISTS {_schema(name)}")
            self._conn.execute(f"CREATE DOMAIN {name} AS {column.base}")

    def _ensure_enum(self, name: str, labels: tuple[str, ...]) -> None:
        if self._knows(name):
            self._add_labels(name, labels)
            return
        self._conn.execute(f"CREATE SCHEMA IF NOT EXISTS {_schema(name)}")
        self._conn.execute(f"CREATE TYPE {name} AS ENUM ({', '.join(map(literal, labels))})")

    def _knows(self, name: str) -> bool:
        return self._conn.execute("SELECT to_regtype(%s) IS NOT NULL", (name,)).fetchone() == (True,)

    def _add_labels(self, name: str, labels: tuple[str, ...]) -> None:
        rows = self._conn.execute(
            "SELECT enumlabel FROM pg_enum WHERE enumtypid = to_regtype(%s) ORDER BY enumsortorder", (name,)
        )
        held = [row[0] for row in rows.fetchall()]
        before: str | None = None
        for label in labels:
            if label not in held:
                place = f" AFTER {literal(before)}" if before is not None else f" BEFORE {literal(held[0])}"
                self._conn.execute(f"ALTER TYPE {name} ADD VALUE {literal(label)}{place}")
                held.insert(held.index(before) + 1 if before is not None else 0, label)
            before = label

    def _create(self, table: Table) -> None:
        (number,) = self._conn.execute(
            "INSERT INTO instep.tables (source, name, shape) VALUES (%s, %s, %s) RETURNING id",
            (self._owners[table.id], table.id, json.dumps(_shape(table))),
        ).fetchone() or (0,)
        self._numbers[table.id] = number
        columns = ", ".join(f"{quote(each.name)} {each.sql_type}" for each in table.columns)
        keys = ", ".join(map(quote, table.key))
        position = f"{quote(POSITION)} bigint NOT NULL"
        self._conn.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(table.schema)}")
        self._conn.execute(f"CREATE TABLE {table.sql} ({columns}, {position}, PRIMARY KEY ({keys})) {_STORAGE}")
        self._create_gone(table)

    def _create_gone(self, table: Table) -> None:
        keys = ", ".join(map(quote, table.key))
        key_columns = ", ".join(f"{quote(name)} {table.type_of(name)}" for name in table.key)
        self._conn.execute(
            f"CREATE TABLE {self.gone(table.id)} ({key_columns}, {quote(POSITION)} bigint NOT NULL,"
            f" PRIMARY KEY ({keys})) {_STORAGE}"
        )

    def _alter(self, held: Table, table: Table) -> None:
        for column in table.columns:
            name = quote(column.name)
            if column.name not in held:
                value = "" if column.default is None else f" DEFAULT {literal(column.default)}"
                self._conn.execute(f"ALTER TABLE {table.sql} ADD COLUMN {name} {column.sql_type}{value}")
                if value:  # rows from before have it now; rows to come bring their own
                    self._conn.execute(f"ALTER TABLE {table.sql} ALTER COLUMN {name} DROP DEFAULT")
            elif held.type_of(column.name) != column.sql_type:
                wanted = f"TYPE {column.sql_type} USING {name}::text::{column.sql_type}"
                self._conn.execute(f"ALTER TABLE {table.sql} ALTER COLUMN {name} {wanted}")
        if held.key != table.key or any(held.type_of(name) != table.type_of(name) for name in table.key):
            self._replace_key(held, table)

    def _replace_key(self, held: Table, table: Table) -> None:
        rows = self._conn.execute(
            "SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'p'", (table.sql,)
        )
        for (name,) in rows.fetchall():
            self._conn.execute(f"ALTER TABLE {table.sql} DROP CONSTRAINT {quote(name)}")
        for name in set(held.key) - set(table.key):
            self._conn.execute(f"ALTER TABLE {table.sql} ALTER COLUMN {quote(name)} DROP NOT NULL")
        self._conn.execute(f"ALTER TABLE {table.sql} ADD PRIMARY KEY ({', '.join(map(quote, table.key))})")
        self._conn.execute(f"DROP TABLE {self.gone(table.id)}")
        self._create_gone(table)

    def _store_shape(self, table: Table) -> None:
        self._conn.execute("UPDATE instep.tables SET shape = %s WHERE name = %s", (json.dumps(_shape(table)), table.id))

    def forget_gone(self, before: Callable[[str], int]) -> None:
        """Drop the positions of rows that were deleted before a journal entry, which `before` gives per source."""
        for name in self._tables:
            limit = before(self._owners[name])
            self._conn.execute(f"DELETE FROM {self.gone(name)} WHERE {quote(POSITION)} < %s", (limit,))


def _with_dropped(held: Table, table: Table) -> Table:
    """The definition that the replica has: columns that the store dropped are kept at the end."""
    dropped = tuple(replace(column, not_null=False) for column in held.columns if column.name not in table)
    return replace(table, columns=table.columns + dropped)


def _schema(name: str) -> str:
    """The schema of a qualified, quoted name."""
    found = _SCHEMA.match(name)
    return found[0] if found is not None else name


def _shape(table: Table) -> dict[str, Any]:
    return {
        "schema": table.schema,
        "name": table.name,
        "key": list(table.key),
        "columns": [asdict(column) for column in table.columns],
    }


def _table_of(shape: dict[str, Any]) -> Table:
    columns = tuple(Column(**(each | {"labels": tuple(each["labels"])})) for each in shape["columns"])
    return Table(shape["schema"], shape["name"], columns, tuple(shape["key"]))
