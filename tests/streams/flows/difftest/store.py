"""The store of the differential test: a real PostgreSQL database whose changes are logged by triggers, as texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from tests.streams.flows.difftest.script import run_script

from instep.change import Op, Position
from instep.journal import JournalEntry
from instep_streams.flows.catalog import Column, Table, catalog_of, literal, query, quote
from instep_streams.flows.rows import RowChange
from instep_streams.flows.session import pin

_LOG = """
CREATE SCHEMA difftest;
CREATE TABLE difftest.log (pos bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    tbl text NOT NULL, op text NOT NULL, old text[], new text[]);
"""
_COLUMNS = """
SELECT n.nspname, c.relname, a.attname, a.attnotnull OR t.typtype = 'd' AND d.not_null,
    format_type(a.atttypid, a.atttypmod),
    ARRAY(SELECT enumlabel::text FROM pg_enum
        WHERE enumtypid IN (t.oid, e.oid, d.base) ORDER BY enumsortorder), format_type(d.base, d.modifier),
    a.attgenerated <> '', a.attidentity = 'a', a.atthasdef OR a.attidentity <> '',
    EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND a.attnum = ANY(k.conkey))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> 'v'
JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
LEFT JOIN LATERAL (
    WITH RECURSIVE domains AS (
        SELECT s.*, 1 AS depth FROM pg_type s WHERE s.typtype = 'd' AND s.oid IN (t.oid, e.oid)
        UNION ALL SELECT s.*, depth + 1 FROM domains JOIN pg_type s ON s.oid = domains.typbasetype AND s.typtype = 'd')
    SELECT (array_agg(typbasetype ORDER BY depth DESC))[1] AS base,
        (array_agg(typtypmod ORDER BY depth DESC))[1] AS modifier, bool_or(typnotnull) AS not_null
    FROM domains) d ON true
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'difftest')
ORDER BY n.nspname, c.relname, a.attnum"""
_KEYS = """
SELECT n.nspname || '.' || c.relname, a.attname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN unnest(i.indkey) WITH ORDINALITY k(attnum, o)
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
WHERE i.indisprimary ORDER BY 1, k.o"""
_PARENTS = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_inherits i
JOIN pg_class c ON c.oid = i.inhparent AND c.relkind = 'r' JOIN pg_namespace n ON n.oid = c.relnamespace"""
_REFERENCES = """
SELECT n.nspname || '.' || c.relname, fn.nspname || '.' || f.relname,
    ARRAY(SELECT attname::text FROM unnest(k.conkey) WITH ORDINALITY u(num, o)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.o),
    ARRAY(SELECT attname::text FROM unnest(k.confkey) WITH ORDINALITY u(num, o)
        JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.o)
FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class f ON f.oid = k.confrelid JOIN pg_namespace fn ON fn.oid = f.relnamespace WHERE k.contype = 'f'"""
_SHUFFLES = 8

Document = tuple[tuple[str, ...], str]
Documents = dict[tuple[str, ...], str]


@dataclass(frozen=True)
class Reference:
    """A foreign key."""

    table: str
    target: str
    columns: tuple[str, ...]
    target_columns: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One journal entry of the differential test with its changes."""

    journal: JournalEntry
    changes: tuple[RowChange, ...]


class Store:
    """Applies a schema and reads back what changes; rows that the schema inserts come first.

    Args:
        dsn: an empty database.
        schema: its DDL, as psql reads it; `COPY … FROM stdin` as pg_dump writes it.

    Attributes:
        generated: (table id, column) that take no value.
        always: (table id, column) GENERATED ALWAYS AS IDENTITY: a value only on INSERT.
        defaults: (table id, column) with a default.
        checked: (table id, column) that a CHECK constraint of the table names.
    """

    def __init__(self, dsn: str, schema: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        try:
            run_script(self.conn, schema)
        except psycopg.Error:
            self.conn.close()
            raise
        pin(self.conn)
        self.generated: set[tuple[str, str]] = set()
        self.always: set[tuple[str, str]] = set()
        self.defaults: set[tuple[str, str]] = set()
        self.checked: set[tuple[str, str]] = set()
        with self.conn.transaction():
            self.conn.execute("SET LOCAL search_path = ''")  # format_type then qualifies every type
            self.tables = self._tables()
        rows = self.conn.execute(_REFERENCES).fetchall()
        self.references = [
            Reference(table, target, tuple(own), tuple(theirs))
            for table, target, own, theirs in rows
            if table in self.tables and target in self.tables
        ]
        self._at = 0
        self._batch = 0
        self._hook()

    def _tables(self) -> dict[str, Table]:
        columns: dict[tuple[str, str], list[Column]] = defaultdict(list)
        keys: dict[str, list[str]] = defaultdict(list)
        marks = (self.generated, self.always, self.defaults, self.checked)
        for schema, table, name, not_null, sql_type, labels, base, *marked in self.conn.execute(_COLUMNS):
            columns[schema, table].append(Column(name, sql_type, not_null, None, tuple(labels), base))
            for is_so, mark in zip(marked, marks, strict=True):
                if is_so:
                    mark.add((f"{schema}.{table}", name))
        for table, name in self.conn.execute(_KEYS):
            keys[table].append(name)
        parents = {name for (name,) in self.conn.execute(_PARENTS)}
        return catalog_of(
            Table(schema, table, tuple(each), tuple(keys[f"{schema}.{table}"]), f"{schema}.{table}" in parents)
            for (schema, table), each in columns.items()
        )

    def _hook(self) -> None:
        self.conn.execute(_LOG)
        for number, table in enumerate(self.tables.values()):
            old, new = (_texts(table, row) for row in ("OLD", "NEW"))
            self.conn.execute(
                "INSERT INTO difftest.log (tbl, op, new)"
                f" SELECT {literal(table.id)}, 'I', {_texts(table, 'r')} FROM {_only(table)} AS r".encode()
            )
            insert = "INSERT INTO difftest.log (tbl, op, old, new) VALUES (TG_ARGV[0], left(TG_OP, 1)"
            self.conn.execute(
                f"CREATE FUNCTION difftest.log_{number}() RETURNS trigger LANGUAGE plpgsql SET extra_float_digits = 1"
                f" AS $difftest$ BEGIN CASE TG_OP WHEN 'INSERT' THEN {insert}, NULL, {new});"
                f" WHEN 'UPDATE' THEN {insert}, {old}, {new}); ELSE {insert}, {old}, NULL);"
                f" END CASE; RETURN NULL; END $difftest$".encode()
            )
            # the name comes first in the alphabet: before triggers of the schema's own, which may write rows again
            self.conn.execute(
                f'CREATE TRIGGER " difftest" AFTER INSERT OR UPDATE OR DELETE ON {table.sql} FOR EACH ROW'
                f" EXECUTE FUNCTION difftest.log_{number}({literal(table.id)})".encode()
            )
            self.conn.execute(
                f"CREATE FUNCTION difftest.truncate_{number}() RETURNS trigger LANGUAGE plpgsql AS $$"
                f" BEGIN {insert}, NULL, NULL); RETURN NULL; END $$".encode()
            )
            self.conn.execute(
                f'CREATE TRIGGER " difftest truncate" AFTER TRUNCATE ON {table.sql} FOR EACH STATEMENT'
                f" EXECUTE FUNCTION difftest.truncate_{number}({literal(table.id)})".encode()
            )

    def entries(self, split: Any) -> Iterator[Entry]:
        """What was committed since the last call, one entry per transaction, or several where `split()` says so."""
        rows = self.conn.execute(
            "SELECT pos, xid::text, tbl, op, old, new FROM difftest.log WHERE pos > %s ORDER BY pos", (self._at,)
        ).fetchall()
        done: list[RowChange] = []
        for i, (pos, xid, table, op, old, new) in enumerate(rows):
            self._at = pos
            done += list(_changes(self.tables[table], op, old, new))
            ends = i + 1 == len(rows) or rows[i + 1][1] != xid
            if ends or split():
                yield self._entry(pos, tuple(done), more=not ends)
                done = []

    def _entry(self, pos: int, changes: tuple[RowChange, ...], *, more: bool) -> Entry:
        self._batch += 1
        at = Position(1, pos * 8, 0)
        return Entry(JournalEntry("shop", self._batch, 1, "1", 1, at, at, pos, pos, {}, {}, more=more), changes)

    def documents(self, sql: str, values: Sequence[str] = ()) -> list[Document]:
        """Key texts and document text of each row, as the SELECT gives them here."""
        return [(tuple(row[:-2]), row[-2]) for row in self.conn.execute(query(sql), values).fetchall()]

    def shuffled(self, sql: str) -> Iterator[list[Document]]:
        """What the SELECT gives when the same rows lie in other orders: where it differs, it does not say one thing."""
        names = ", ".join(table.sql for table in self.tables.values())
        with self.conn.transaction(force_rollback=True):
            self.conn.execute("SET LOCAL session_replication_role = replica")
            for number, table in enumerate(self.tables.values()):
                self.conn.execute(
                    f'CREATE TEMPORARY TABLE difftest_{number} AS SELECT *, 0.0 AS "*at" FROM {_only(table)}'.encode()
                )
                self._unpartition(table)
            for shuffle in range(_SHUFFLES):
                self.conn.execute(f"TRUNCATE {names}".encode())
                for number, table in enumerate(self.tables.values()):
                    given = [c.name for c in table.columns if (table.id, c.name) not in self.generated]
                    columns = ", ".join(map(quote, given))
                    if shuffle % 2 == 0:  # the next one is its reverse: any two rows change places
                        self.conn.execute(f'UPDATE difftest_{number} SET "*at" = random()'.encode())
                    order = '"*at" DESC' if shuffle % 2 else '"*at"'
                    self.conn.execute(
                        f"INSERT INTO {table.sql} ({columns}) OVERRIDING SYSTEM VALUE"
                        f" SELECT {columns} FROM difftest_{number} ORDER BY {order}".encode()
                    )
                yield self.documents(sql)

    def _unpartition(self, table: Table) -> None:
        """Make it one table, as it is in the replica: else no order would mix the rows of two partitions."""
        for (found,) in self.conn.execute(
            "SELECT partrelid::regclass::text FROM pg_partitioned_table WHERE partrelid = %s::regclass", (table.sql,)
        ).fetchall():
            whole = f"difftest.{quote(table.name)}"
            self.conn.execute(f"CREATE TABLE {whole} (LIKE {found} INCLUDING ALL)".encode())
            self.conn.execute(f"DROP TABLE {found} CASCADE".encode())
            self.conn.execute(f"ALTER TABLE {whole} SET SCHEMA {quote(table.schema)}".encode())


def _only(table: Table) -> str:
    """The table without those that inherit from it."""
    return f"ONLY {table.sql}" if table.inherited else table.sql


def _texts(table: Table, row: str) -> str:
    return "ARRAY[" + ", ".join(f"({row}.{quote(c.name)})::text" for c in table.columns) + "]::text[]"


def _changes(table: Table, op: str, old: list[str | None] | None, new: list[str | None] | None) -> Iterator[RowChange]:
    before = dict(zip((c.name for c in table.columns), old, strict=True)) if old else {}
    after = dict(zip((c.name for c in table.columns), new, strict=True)) if new else {}
    old_key = tuple(before.get(name) for name in table.key)
    new_key = tuple(after.get(name) for name in table.key)
    if op == "T":
        yield RowChange(table.id, Op.TRUNCATE, ())
    elif op == "D":
        yield RowChange(table.id, Op.DELETE, old_key)
    elif op == "U" and old_key != new_key:
        yield RowChange(table.id, Op.DELETE, old_key)
        yield RowChange(table.id, Op.CREATE, new_key, after, old_key)
    else:
        yield RowChange(table.id, Op.UPDATE if op == "U" else Op.CREATE, new_key, after)
