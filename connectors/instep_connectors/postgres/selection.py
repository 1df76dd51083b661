"""Which tables a Debezium configuration names, and its publication: created, altered or left alone as it says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from instep.errors import SourceError
from instep_connectors.postgres.publication import Published, publication_exists

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]
PublicationMode = Literal["all_tables", "filtered", "disabled", "no_tables"]

_SYSTEM: Final = ("pg_catalog", "information_schema")
_TABLES: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relispartition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND n.nspname !~ '^pg_'"""


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
    """

    schemas: tuple[str, ...] = ()
    not_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    not_tables: tuple[str, ...] = ()

    def wants(self, schema: str, table: str) -> bool:
        """Whether the table is captured."""
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

    Partitions and their root are all there, unless the filters say otherwise.
    """
    rows = conn.execute(_TABLES).fetchall()
    tables = sorted(
        (Published(oid, schema, name) for oid, schema, name, _ in rows if selection.wants(schema, name)),
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
            for _, schema, table, partition in sorted(rows, key=lambda row: (row[1], row[2]))
            if selection.wants(schema, table) and not (via_root and partition)
        ]
        if not names:
            raise SourceError("No table of the store matches the filters.", "Correct table.include.list.")
        tables = sql.SQL("{} TABLE {}").format(sql.SQL("SET" if exists else "FOR"), sql.SQL(", ").join(names))
    parts = [sql.SQL("ALTER PUBLICATION" if exists else "CREATE PUBLICATION"), sql.Identifier(name), tables]
    if via_root and not exists:
        parts.append(sql.SQL("WITH (publish_via_partition_root = true)"))
    conn.execute(sql.SQL(" ").join(parts))
    log.info("%s publication %s", "altered" if exists else "created", name)
