"""The publication: which tables are captured, and whether the store lets them be.

It must exist before the slot: a slot decodes old WAL with the publications of that time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from instep.errors import SourceError

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]

_CANDIDATES: Final = """
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident::text,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary),
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_'
ORDER BY 2, 3"""

_PUBLISHED: Final = """
SELECT c.oid::bigint, p.schemaname, p.tablename, {columns}, {filter}
FROM pg_publication_tables p
JOIN pg_namespace n ON n.nspname = p.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
WHERE p.pubname = %s ORDER BY 2, 3"""


@dataclass(frozen=True, slots=True)
class Published:
    """A captured table as the publication publishes it.

    Attributes:
        oid: pg_class.oid.
        schema: namespace.
        name: table.
        columns: published columns; None: all that are not generated.
        row_filter: SQL text of the publication's WHERE, None for all rows.
        select: SELECT whose rows a first copy takes for the table's, None for the table itself.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[str, ...] | None = None
    row_filter: str | None = None
    select: str | None = None

    @property
    def table(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class _Candidate:
    oid: int
    schema: str
    name: str
    identity: str
    has_primary: bool
    has_identity_index: bool

    @property
    def table(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def changeable(self) -> bool:
        """Whether the store still accepts UPDATE and DELETE once the table is published."""
        if self.identity == "f":
            return True
        return self.has_primary if self.identity == "d" else self.identity == "i" and self.has_identity_index


def matcher(patterns: Sequence[str]) -> re.Pattern[str]:
    """One expression for the `schema.table` patterns; `*` stands for any characters."""
    parts = (re.escape(p if "." in p else f"public.{p}").replace(r"\*", ".*") for p in patterns)
    return re.compile("|".join(f"(?:{part})" for part in parts))


def ensure_publication(conn: Connection, name: str, patterns: Sequence[str]) -> list[Published]:
    """Create the publication when it is missing, check it, and give the captured tables.

    Raises:
        SourceError: no table matches, a right is missing, or the publication leaves out a table or an operation.
    """
    if not publication_exists(conn, name):
        _create(conn, name, _publishable(conn, patterns))
    return check_publication(conn, name, patterns)


def publication_exists(conn: Connection, name: str) -> bool:
    """Whether this database has a publication of that name."""
    return conn.execute("SELECT FROM pg_publication WHERE pubname = %s", (name,)).fetchone() is not None


def check_publishable(conn: Connection, name: str, patterns: Sequence[str]) -> None:
    """Check without changing anything that the publication could be created.

    Raises:
        SourceError: no table matches, or a right is missing.
    """
    tables = _publishable(conn, patterns)
    database = conn.execute(
        "SELECT current_database(), has_database_privilege(current_database(), 'CREATE')"
    ).fetchone()
    not_owned = conn.execute(
        "SELECT min(oid::regclass::text) FROM pg_class "
        "WHERE oid = ANY(%s::oid[]) AND NOT pg_has_role(relowner, 'USAGE')",
        ([t.oid for t in tables],),
    ).fetchone()
    if database is None or not database[1] or (not_owned is not None and not_owned[0] is not None):
        raise _no_right(name, tables)


def check_publication(conn: Connection, name: str, patterns: Sequence[str]) -> list[Published]:
    """Check an existing publication and give the captured tables.

    Raises:
        SourceError: it leaves out an operation, or a table that the settings name.
    """
    flags = conn.execute(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE pubname = %s", (name,)
    ).fetchone()
    if flags is None:
        raise missing_publication(name)
    missing = [
        op for op, published in zip(("insert", "update", "delete", "truncate"), flags, strict=True) if not published
    ]
    if missing:
        raise SourceError(
            f"The publication {name} does not publish {', '.join(missing)}.",
            f"ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');",
        )
    wanted = matcher(patterns)
    found = [table for table in published_tables(conn, name) if wanted.fullmatch(table.table)]
    _report_missing(conn, name, patterns, {table.oid for table in found})
    if not found:
        raise SourceError(
            f"The publication {name} holds no table that matches {', '.join(patterns)}.",
            f"ALTER PUBLICATION {name} ADD TABLE …; or correct the source's `tables`.",
        )
    return found


def missing_publication(name: str) -> SourceError:
    """The error for a publication that is gone."""
    return SourceError(
        f"The publication {name} is gone: what is written without it is lost to the slot.",
        "Find out who dropped it; then drop the slot and capture under a new source name.",
    )


def check_readable(conn: Connection, tables: Sequence[Published]) -> None:
    """Check that a snapshot could read the tables.

    Raises:
        SourceError: one of them may not be read.
    """
    row = conn.execute(
        "SELECT n.nspname, c.relname, has_schema_privilege(n.oid, 'USAGE') FROM pg_class c"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%s::oid[])"
        " AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_schema_privilege(n.oid, 'USAGE')) LIMIT 1",
        ([table.oid for table in tables],),
    ).fetchone()
    if row is not None:
        schema, name, usable = row
        grant = "" if usable else f"GRANT USAGE ON SCHEMA {schema} TO …; "
        raise SourceError(
            f"The user in the source's dsn may not read the table {schema}.{name}.",
            f"{grant}GRANT SELECT ON {schema}.{name} TO …;",
        )


def published_tables(conn: Connection, name: str) -> list[Published]:
    """Every table of a publication, with its column list and row filter (PostgreSQL 15 and newer)."""
    server = conn.info.server_version
    query = _PUBLISHED.format(
        columns="p.attnames::text[]" if server >= 150000 else "NULL::text[]",
        filter="p.rowfilter" if server >= 150000 else "NULL::text",
    )
    rows = conn.execute(query, (name,)).fetchall()
    tables = [
        Published(oid, schema, table, tuple(names) if names else None, cond) for oid, schema, table, names, cond in rows
    ]
    return tables if server >= 180000 else [_without_generated(conn, table) for table in tables]


def places(conn: Connection, name: str) -> dict[int, int]:
    """Per table OID what stands for its place in the publication: another one when it was taken out and put in again.

    Tables that are in it with their schema, or with all others, have none.
    """
    rows = conn.execute(
        "SELECT r.prrelid::bigint, r.oid::bigint FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid"
        " WHERE p.pubname = %s",
        (name,),
    )
    return dict(rows.fetchall())


def _without_generated(conn: Connection, table: Published) -> Published:
    """Before PostgreSQL 18 the catalog names generated columns that the stream never sends."""
    if table.columns is None:
        return table
    rows = conn.execute(
        "SELECT attname::text FROM pg_attribute WHERE attrelid = %s AND attgenerated <> ''", (table.oid,)
    ).fetchall()
    generated = {row[0] for row in rows}
    return Published(
        table.oid, table.schema, table.name, tuple(c for c in table.columns if c not in generated), table.row_filter
    )


def _candidates(conn: Connection, patterns: Sequence[str]) -> list[_Candidate]:
    wanted = matcher(patterns)
    rows = conn.execute(_CANDIDATES).fetchall()
    return [c for c in (_Candidate(*row) for row in rows) if wanted.fullmatch(c.table)]


def _publishable(conn: Connection, patterns: Sequence[str]) -> list[_Candidate]:
    """Tables to publish; one that would lose its UPDATE and DELETE by it is left out, or refused when it was named."""
    candidates = _candidates(conn, patterns)
    named = {p if "." in p else f"public.{p}" for p in patterns if "*" not in p}
    absent = named - {c.table for c in candidates}
    if absent:
        raise SourceError(
            f"There is no table {sorted(absent)[0]} in the store (views and unlogged tables cannot be captured).",
            "Correct the source's `tables`.",
        )
    for table in candidates:
        if table.changeable:
            continue
        remedy = f"Give it a primary key, or ALTER TABLE {table.table} REPLICA IDENTITY FULL;"
        cause = f"The table {table.table} has no primary key: published, it would refuse UPDATE and DELETE."
        if table.table in named:
            raise SourceError(cause, remedy)
        log.warning("%s It is not captured. %s", cause, remedy)
    tables = [table for table in candidates if table.changeable]
    if not tables:
        raise SourceError(
            f"No table of the store matches {', '.join(patterns)}.",
            "Correct the source's `tables`, or create the tables first.",
        )
    return tables


def _create(conn: Connection, name: str, tables: Sequence[_Candidate]) -> None:
    listed = sql.SQL(", ").join(sql.Identifier(t.schema, t.name) for t in tables)
    statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)")
    try:
        conn.execute(statement.format(sql.Identifier(name), listed))
    except InsufficientPrivilege:
        raise _no_right(name, tables) from None
    log.info("created publication %s for %d tables", name, len(tables))


def _no_right(name: str, tables: Sequence[_Candidate]) -> SourceError:
    return SourceError(
        f"The user in the source's dsn may not create the publication {name}.",
        f"Let the tables' owner run: CREATE PUBLICATION {name} FOR TABLE {', '.join(t.table for t in tables[:20])}"
        f"{', …' if len(tables) > 20 else ''} WITH (publish_via_partition_root = true);",
    )


def _report_missing(conn: Connection, name: str, patterns: Sequence[str], published: set[int]) -> None:
    named = {p if "." in p else f"public.{p}" for p in patterns if "*" not in p}
    for table in _candidates(conn, patterns):
        if table.oid in published or _leaves_published(conn, table.oid, published):
            continue
        remedy = f"ALTER PUBLICATION {name} ADD TABLE {table.table};"
        if table.table in named:
            raise SourceError(f"The publication {name} does not hold the table {table.table}.", remedy)
        if table.changeable:
            log.warning(
                "the publication %s does not hold %s: it is not captured; to capture it: %s", name, table.table, remedy
            )


def _leaves_published(conn: Connection, oid: int, published: set[int]) -> bool:
    """Whether a partitioned table is published by its leaves."""
    rows = conn.execute("SELECT relid::oid::bigint FROM pg_partition_tree(%s::oid::regclass)", (oid,)).fetchall()
    return any(row[0] in published for row in rows)
