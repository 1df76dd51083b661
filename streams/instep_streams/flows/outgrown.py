"""Indexes on the replica's columns, and what takes their place when a value is too long for one.

An entry of a btree holds 2,704 bytes; a hash index holds a value of any length, but of one column, and without order.
Flows look rows up by equality, which either serves.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep_streams.flows.catalog import Table
from instep_streams.flows.rows import Entry

log = logging.getLogger(__name__)

_BTREES: Final = """
SELECT c.relname, i.indexrelid::regclass::text, i.indrelid::regclass::text,
    ARRAY(SELECT pg_get_indexdef(i.indexrelid, k, true) FROM generate_series(1, i.indnkeyatts) k)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
WHERE a.amname = 'btree' AND c.relname ~ '^instep_[0-9a-f]{16}$' AND i.indrelid = ANY(%s::text[]::regclass[])
"""


def create_index(conn: Connection[Any], name: str, table: str, expressions: Sequence[str]) -> None:
    """Index expressions of a table together; each by itself when a row has too long a value for that.

    Args:
        conn: the pinned session, in a transaction.
        name: the index's; when there is one, it stays as it is.
        table: quoted and qualified.
        expressions: SQL, without parentheses around them.

    Raises:
        psycopg.errors.InvalidObjectDefinition: an expression cannot be indexed.
    """
    listed = ", ".join(f"({each})" for each in expressions)
    try:
        with conn.transaction():
            conn.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({listed})".encode())
    except psycopg.errors.ProgramLimitExceeded:
        _hash(conn, name, table, expressions)


def give_way(
    conn: Connection[Any], tables: Mapping[str, Table], entries: Iterable[Entry], error: psycopg.Error
) -> bool:  # fmt: skip
    """After a row was refused as too long: replace the index that refused it.

    Args:
        conn: the pinned session, between transactions.
        tables: the replica's.
        entries: the row is one of theirs; PostgreSQL names no index when a value is longer than a page.
        error: the refusal.

    Returns:
        False when it was none of ours.
    """
    named = error.diag.constraint_name
    changed = {change.table for _, changes in entries for change in changes} & tables.keys()
    found = conn.execute(_BTREES, ([tables[each].sql for each in changed],)).fetchall()
    chosen = [each for each in found if named in (None, each[0])]
    with conn.transaction():
        for name, index, table, expressions in chosen:
            log.warning("a value of %s is too long for the index on %s", table, ", ".join(expressions))
            conn.execute(f"DROP INDEX {index}".encode())
            _hash(conn, name, table, expressions)
    return bool(chosen)


def _hash(conn: Connection[Any], name: str, table: str, expressions: Sequence[str]) -> None:
    for number, each in enumerate(expressions):
        own = name if number == 0 else f"{name}_{number}"
        conn.execute(f"CREATE INDEX IF NOT EXISTS {own} ON {table} USING hash (({each}))".encode())
