"""Which tables a Debezium configuration names, and its publication: created, altered or left alone as it says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, LockNotAvailable

from instep.errors import SourceError
from instep_connectors.postgres.publication import Published, publication_exists

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]
PublicationMode = Literal["all_tables", "filtered", "disabled", "no_tables"]

_LOCK_S: Final = 3
_SYSTEM: Final = ("pg_catalog", "information_schema")
_TABLES: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relispartition, c.relpersistence = 'p'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_'"""
_IDENTITIES: Final = """
SELECT c.oid::bigint, c.relreplident::text,
       (SELECT n.relname FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
        WHERE i.indrelid = c.oid AND i.indisreplident)
FROM pg_class c WHERE c.oid = ANY(%s::oid[])"""


def matches(patterns: Iterable[str], text: str) -> bool:
    """Whether one of the expressions (regular, case-insensitive) matches the whole text."""
    return any(re.fullmatch(pattern, text, re.IGNORECASE) for pattern in patterns)


@dataclass(frozen=True, slots=True)
class Selection:
    """Debezium's filters, by its names: regular expressions of schemas and of `schema.table`; empty: no such filter.

    Attributes:
        schemas: schema.include.list.
        not_schemas: schema.exclude.list.
        tables: table.include.list.
        not_tables: table.exclude.list.
        signals: signal.data.collection: streamed whatever the filters say, but copied only if they name it.
    """

    schemas: tuple[str, ...] = ()
    not_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    not_tables: tuple[str, ...] = ()
    signals: str = ""

    def wants(self, schema: str, table: str) -> bool:
        """Whether the table is captured."""
        return f"{schema}.{table}" == self.signals or self.copies(schema, table)

    def copies(self, schema: str, table: str) -> bool:
        """Whether a snapshot reads the table."""
        name = f"{schema}.{table}"
        return (
            schema not in _SYSTEM
            and (not self.schemas or matches(self.schemas, schema))
            and not matches(self.not_schemas, schema)
            and (not self.tables or matches(self.tables, name))
            and not matches(self.not_tables, name)
        )


def selected(conn: Connection, selection: Selection) -> list[Published]:
    """The tables that a snapshot reads, in Debezium's order: by pattern of table.include.list, then by name.

    Partitions and their root are all there, unless the filters say otherwise; unlogged tables too, though no change of
    them is ever published.
    """
    rows = conn.execute(_TABLES).fetchall()
    tables = sorted(
        (Published(oid, schema, name) for oid, schema, name, *_ in rows if selection.copies(schema, name)),
        key=lambda table: table.table,
    )
    ordered = (table for pattern in selection.tables for table in tables if matches((pattern,), table.table))
    return list(dict.fromkeys(ordered)) if selection.tables else tables


def with_columns(conn: Connection, tables: Sequence[Published]) -> list[Published]:
    """The tables with all their columns: Debezium copies generated ones too, whatever the publication leaves out."""
    rows = conn.execute(
        "SELECT attrelid::bigint, array_agg(attname::text ORDER BY attnum) FROM pg_attribute"
        " WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped GROUP BY 1",
        ([table.oid for table in tables],),
    )
    columns = dict(rows.fetchall())
    return [replace(table, columns=tuple(columns.get(table.oid, ()))) for table in tables]


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """Which REPLICA IDENTITY some tables are to have.

    Attributes:
        pattern: regular expression of `schema.table`.
        identity: `FULL`, `DEFAULT`, `NOTHING` or `INDEX`.
        index: its name, for `INDEX`.
    """

    pattern: str
    identity: str
    index: str = ""


def set_identities(conn: Connection, rules: Sequence[IdentityRule], tables: Sequence[Published]) -> None:
    """Give the tables that a rule names its REPLICA IDENTITY, where they have another.

    Raises:
        SourceError: a table is not the user's, has no such index, or two rules name it.
        ConnectionError: a table is in use for long; to be tried again.
    """
    wanted = {table.oid: (table, rule) for table in tables if (rule := _rule(rules, table)) is not None}
    now = {row[0]: row[1:] for row in conn.execute(_IDENTITIES, (list(wanted),)).fetchall()}
    for oid, (table, rule) in wanted.items():
        code, index = now[oid]
        if code == rule.identity[0].lower() and rule.index in ("", index):
            continue
        statement = sql.SQL("ALTER TABLE {} REPLICA IDENTITY {}").format(
            sql.Identifier(table.schema, table.name),
            sql.SQL("USING INDEX {}").format(sql.Identifier(rule.index)) if rule.index else sql.SQL(rule.identity),
        )
        _alter(conn, table, statement)


def _rule(rules: Sequence[IdentityRule], table: Published) -> IdentityRule | None:
    found = [rule for rule in rules if matches((rule.pattern,), table.table)]
    if len(found) > 1:
        raise SourceError(
            f"replica.identity.autoset.values names the table {table.table} twice.", "Leave it to one expression."
        )
    return found[0] if found else None


def _alter(conn: Connection, table: Published, statement: sql.Composed) -> None:
    try:
        with conn.transaction():
            conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_S}s'")  # others would queue behind a longer wait
            conn.execute(statement)
    except LockNotAvailable:
        raise ConnectionError(f"{table.table} is in use: its REPLICA IDENTITY cannot be set yet.") from None
    except psycopg.ProgrammingError as exc:
        raise SourceError(
            f"replica.identity.autoset.values cannot be done for {table.table}: {exc.diag.message_primary}.",
            "Let the table's owner run ALTER TABLE … REPLICA IDENTITY, and take it out of the configuration.",
        ) from None
    log.info("%s", statement.as_string(conn))


def open_publication(
    conn: Connection, name: str, mode: PublicationMode, selection: Selection, *, via_root: bool
) -> None:
    """Create the publication, or bring its tables up to date, as publication.autocreate.mode says.

    Raises:
        SourceError: it does not exist and must not be created, no table matches, or a right is missing.
    """
    exists = publication_exists(conn, name)
    if mode == "disabled" and not exists:
        raise SourceError(
            f"There is no publication {name}, and publication.autocreate.mode=disabled.",
            f"CREATE PUBLICATION {name} FOR ALL TABLES; or another publication.autocreate.mode.",
        )
    if exists and mode != "filtered":
        return
    try:
        _write(conn, name, mode, selection, via_root=via_root, exists=exists)
    except InsufficientPrivilege as exc:
        raise SourceError(
            f"The user may not create or alter the publication {name}: {exc.diag.message_primary}.",
            "Let a superuser create it, and set publication.autocreate.mode=disabled.",
        ) from None


def _write(
    conn: Connection, name: str, mode: PublicationMode, selection: Selection, *, via_root: bool, exists: bool
) -> None:
    tables: sql.Composable = sql.SQL("")
    if mode == "all_tables":
        tables = sql.SQL("FOR ALL TABLES")
    elif mode == "filtered":
        rows = conn.execute(_TABLES).fetchall()
        names = [
            sql.Identifier(schema, table)
            for _, schema, table, partition, logged in sorted(rows, key=lambda row: (row[1], row[2]))
            if logged and selection.wants(schema, table) and not (via_root and partition)
        ]
        if not names:
            raise SourceError("No table of the store matches the filters.", "Correct table.include.list.")
        tables = sql.SQL("{} TABLE {}").format(sql.SQL("SET" if exists else "FOR"), sql.SQL(", ").join(names))
    parts = [sql.SQL("ALTER PUBLICATION" if exists else "CREATE PUBLICATION"), sql.Identifier(name), tables]
    if via_root and not exists:
        parts.append(sql.SQL("WITH (publish_via_partition_root = true)"))
    conn.execute(sql.SQL(" ").join(parts))
    log.info("%s publication %s", "altered" if exists else "created", name)
