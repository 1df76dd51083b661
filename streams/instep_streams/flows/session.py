"""One pinned PostgreSQL session: the same SELECT gives the same text on the store and on the replica."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.errors import StateError
from instep_connectors.postgres.session import KEEPALIVES, conninfo
from instep_streams.flows.arrays import ArrayDumper
from instep_streams.flows.catalog import DEFAULT_SCHEMA, literal

PINNED: Final = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "default_text_search_config": "pg_catalog.simple",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "standard_conforming_strings": "on",
    "client_encoding": "UTF8",
    "search_path": DEFAULT_SCHEMA,
}
"""Settings that a value's text or a function's answer depends on: the same wherever a flow's SELECT runs."""

LOOKUPS: Final = {
    "enable_seqscan": "off",
    "enable_mergejoin": "off",
    "random_page_cost": "1",
    "jit": "off",
    "plan_cache_mode": "force_generic_plan",
    "work_mem": "64MB",
}
"""For evaluating few keys: index look-ups, hash joins left on (without them the emission join is quadratic)."""

SCANS: Final = {"enable_seqscan": "on", "enable_mergejoin": "on", "plan_cache_mode": "auto"}
"""For evaluating many keys at once."""

_OLDEST = 180000


def pin(conn: Connection[Any], settings: dict[str, str] = PINNED) -> None:
    """Set the session (or, in a transaction that is rolled back, the transaction) to known ground."""
    conn.execute("".join(f"SET {name} = {literal(value)};" for name, value in settings.items()))


def open_state(dsn: str) -> Connection[Any]:
    """Connect to the state database, pinned, commits durable, transactions begun by hand, lists as texts.

    Raises:
        StateError: PostgreSQL is older than 18.
        psycopg.OperationalError: it cannot be reached.
    """
    conn = psycopg.connect(conninfo(dsn, "instep worker"), autocommit=True)
    if conn.info.server_version < _OLDEST:
        version = conn.info.server_version // 10000
        conn.close()
        raise StateError(
            f"The state database runs PostgreSQL {version}; Instep needs 18 or newer.", "Name another in state.dsn."
        )
    pin(conn, PINNED | LOOKUPS | {"synchronous_commit": "on"})
    conn.execute("; ".join(KEEPALIVES))
    conn.adapters.register_dumper(list, ArrayDumper)
    return conn
