"""A snapshot of the store at an exact position, taken while everything runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from instep.errors import SourceError
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect, store_failure

APPLICATION = "instep verify"
PATIENCE_S = 30.0
"""How long the store may take until every transaction that was running has ended."""


class PinnedStore:
    """The store as it was at one position.

    Attributes:
        lsn: the snapshot holds exactly the transactions with a smaller commit LSN.
        conn: in a read-only transaction on that snapshot, text settings pinned.
    """

    def __init__(self, lsn: int, conn: psycopg.Connection[Any]) -> None:
        self.lsn = lsn
        self.conn = conn


@contextmanager
def pinned(dsn: str) -> Iterator[PinnedStore]:
    """Export a snapshot with a temporary logical slot and open a transaction on it.

    The temporary slot gives the position. It holds back no WAL once the block is left, even by a crash: it ends with
    its connection.

    Raises:
        SourceError: the store refuses, or a transaction that began earlier does not end.
        ConnectionError: the store is not there.
    """
    with closing(ReplicationConnection(dsn, APPLICATION)) as replication:
        deadline = time.monotonic() + PATIENCE_S
        name = f"instep_verify_{secrets.token_hex(6)}"
        new = replication.create_slot(name, lambda pause: time.monotonic() > deadline, temporary=True)
        if new is None:
            raise SourceError(
                f"The store gives no snapshot: a transaction has been running for more than {PATIENCE_S:.0f} s.",
                "End it (see pg_stat_activity, oldest xact_start) and verify again.",
            )
        with closing(connect(dsn, APPLICATION)) as conn:
            conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(new.snapshot)))
            yield PinnedStore(new.lsn, conn)


def nudge(dsn: str) -> None:
    """Write a message into the store's log: capture passes it at once, without waiting for its heartbeat.

    Raises:
        SourceError, ConnectionError: as `pinned`.
    """
    with closing(connect(dsn, APPLICATION)) as conn:
        try:
            conn.execute("SELECT pg_catalog.pg_logical_emit_message(true, 'instep', 'verify')")
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
