"""Connections to the store: opened, their text settings pinned, their failures told apart."""

from __future__ import annotations

from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from instep.errors import Advice, SourceError, advice

KEEPALIVES: Final = (
    "SET tcp_keepalives_idle = 30",
    "SET tcp_keepalives_interval = 10",
    "SET tcp_keepalives_count = 3",
)
"""The server notices in a minute, not in two hours, that a client's machine is gone, and gives up the locks it held."""

PINNED: Final = (
    *KEEPALIVES,
    "SET DateStyle = 'ISO, MDY'",
    "SET IntervalStyle = 'postgres'",
    "SET TimeZone = 'UTC'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET client_encoding = 'UTF8'",
    "SET search_path = 'pg_catalog'",
    "SET statement_timeout = 0",
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
)
"""Run on the snapshot's and the stream's connection alike: one value has one text, whatever the role's settings are."""

_TCP: Final = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""Only what the user's own connection string leaves open."""

_REFUSALS: Final = (
    ("password authentication failed", "Correct the user or password in the source's dsn."),
    ("authentication failed", "Correct the user or password in the source's dsn."),
    ("no password supplied", "Put the password into the source's dsn, a .pgpass file or PGPASSWORD."),
    ("is not permitted to log in", "Give the role LOGIN: ALTER ROLE … LOGIN."),
    ("no pg_hba.conf entry", "Add a line for this user, database and address to the store's pg_hba.conf."),
    ("does not exist", "Correct the database or user in the source's dsn."),
    ("permission denied for database", "GRANT CONNECT ON DATABASE … to the user in the source's dsn."),
    (
        "must be superuser or replication role",
        "Give the user the replication right: ALTER ROLE … REPLICATION.",
    ),
    ("permission denied to start WAL sender", "Give the user the replication right: ALTER ROLE … REPLICATION."),
    ("server does not support SSL", "Switch SSL on in the store, or lower sslmode in the source's dsn."),
    ("certificate verify failed", "Name the right sslrootcert in the source's dsn."),
)


def conninfo(dsn: str, application: str, **more: str) -> str:
    """The user's connection string, completed with keepalives and our name (at most 63 characters)."""
    given = {k: str(v) for k, v in conninfo_to_dict(dsn).items() if v is not None}
    return make_conninfo("", **{**_TCP, **given, "application_name": application[:63], **more})


def where(dsn: str) -> str:
    """Host, port and database for messages to people; never the password."""
    given = conninfo_to_dict(dsn)
    return f"{given.get('host') or 'localhost'}:{given.get('port') or 5432}/{given.get('dbname') or ''}"


def connection_failure(dsn: str, message: str) -> Exception:
    """Turn libpq's words for a failed connection into the error to raise.

    libpq gives no SQLSTATE here. What a person must mend is known by its words; anything else may pass by itself.
    """
    words = " ".join(message.split())
    for phrase, remedy in _REFUSALS:
        if phrase in words and ("FATAL" in words or "SSL" in words):
            said = words.rsplit("FATAL:", 1)[-1].strip().rstrip(".")
            return SourceError(f"The store at {where(dsn)} refuses the connection: {said}.", remedy)
    return ConnectionError(f"The store at {where(dsn)} cannot be reached: {words}")


def connect(dsn: str, application: str) -> psycopg.Connection[tuple[object, ...]]:
    """Open a normal connection in autocommit mode, text settings pinned.

    Raises:
        SourceError: the store refuses this user, password or database.
        ConnectionError: the store is not there (yet).
    """
    try:
        conn = psycopg.connect(conninfo(dsn, application), autocommit=True)
    except psycopg.ProgrammingError as exc:  # not a connection string
        raise SourceError(
            f"The source's dsn is not a connection string: {exc}.", "See docs/reference/settings.md."
        ) from None
    except psycopg.OperationalError as exc:
        raise connection_failure(dsn, str(exc)) from None
    try:
        conn.execute("; ".join(PINNED))
    except psycopg.Error as exc:
        conn.close()
        raise passing(exc) from exc
    return conn


def passing(exc: psycopg.Error) -> Exception:
    """What to raise for a failed statement: `ConnectionError` when it may pass by itself, else the error itself."""
    lost = isinstance(exc, psycopg.OperationalError) and exc.sqlstate is None
    if lost or advice(exc) is Advice.AGAIN:
        return ConnectionError(f"The store interrupts: {' '.join(str(exc).split())}")
    return exc


def store_failure(exc: psycopg.Error) -> Exception:
    """What a failed statement means for the process: `ConnectionError`, or `SourceError` in the store's own words."""
    failure = passing(exc)
    if isinstance(failure, psycopg.Error):
        words = " ".join(str(exc).split()).rstrip(".")
        return SourceError(f"The store refuses: {words} ({exc.sqlstate}).", "The store's log may say more.")
    return failure
