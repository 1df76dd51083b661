"""The ledger: one outcome per document version, and per key the version a target took last (schema `instep_delivery`).

Whoever writes to a target claims the keys first, so that delivery and replay, in different processes, never write one
key at the same time; what was applied is read under the claim.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import psycopg

from instep.errors import Advice, StateError, advice
from instep.protocols import Document, Key
from instep_connectors.postgres.session import KEEPALIVES, conninfo
from instep_streams.delivery.budget import spend
from instep_streams.delivery.decide import Applied, Entry, Kind, digest_of

CLAIM_PAUSE: Final = 0.02
"""Seconds between two tries to claim keys that another process holds."""

SCHEMA: Final = """
CREATE SCHEMA IF NOT EXISTS instep_delivery;
CREATE TABLE IF NOT EXISTS instep_delivery.outcomes (
    target text NOT NULL, flow text NOT NULL, key text NOT NULL, version bigint NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('written', 'unchanged', 'superseded', 'rejected', 'filtered')),
    code text, field text, message text, attempts int NOT NULL, target_id text NOT NULL,
    committed_us bigint NOT NULL, delivered_us bigint NOT NULL,
    PRIMARY KEY (target, flow, key, version)
);
CREATE INDEX IF NOT EXISTS outcomes_delivered ON instep_delivery.outcomes (target, delivered_us);
CREATE INDEX IF NOT EXISTS outcomes_rejected ON instep_delivery.outcomes (target, flow, key, version)
    WHERE outcome = 'rejected';
CREATE TABLE IF NOT EXISTS instep_delivery.applied (
    target text NOT NULL, flow text NOT NULL, key text NOT NULL, version bigint NOT NULL,
    digest text NOT NULL, target_id text NOT NULL,
    PRIMARY KEY (target, flow, key)
);
CREATE TABLE IF NOT EXISTS instep_delivery.budgets (
    account text PRIMARY KEY, level double precision NOT NULL, at timestamptz NOT NULL
);
"""

_KNOWN = """
SELECT w.key, coalesce(a.version, 0), coalesce(a.digest, ''), coalesce(a.target_id, ''), o.outcome IS NOT NULL
FROM unnest(%(keys)s::text[], %(versions)s::bigint[]) AS w(key, version)
LEFT JOIN instep_delivery.applied a ON (a.target, a.flow, a.key) = (%(target)s, %(flow)s, w.key)
LEFT JOIN instep_delivery.outcomes o ON (o.target, o.flow, o.key, o.version) = (%(target)s, %(flow)s, w.key, w.version)
"""

# A version keeps its first outcome; only a rejected one may still turn out otherwise (dead letter retried, replay).
_OUTCOME = """
INSERT INTO instep_delivery.outcomes AS o (target, flow, key, version, outcome, code, field, message, attempts,
    target_id, committed_us, delivered_us)
VALUES (%(target)s, %(flow)s, %(key)s, %(version)s, %(outcome)s, %(code)s, %(field)s, %(message)s, %(attempts)s,
    %(target_id)s, %(committed_us)s, %(delivered_us)s)
ON CONFLICT (target, flow, key, version) DO UPDATE SET outcome = excluded.outcome, code = excluded.code,
    field = excluded.field, message = excluded.message, attempts = o.attempts + excluded.attempts,
    target_id = excluded.target_id, delivered_us = excluded.delivered_us
WHERE o.outcome = 'rejected'
"""

_APPLY = """
INSERT INTO instep_delivery.applied AS a (target, flow, key, version, digest, target_id)
VALUES (%(target)s, %(flow)s, %(key)s, %(version)s, %(digest)s, %(target_id)s)
ON CONFLICT (target, flow, key) DO UPDATE SET version = excluded.version, digest = excluded.digest,
    target_id = CASE WHEN excluded.target_id = '' THEN a.target_id ELSE excluded.target_id END
WHERE a.version <= excluded.version
"""

# A filtered tombstone leaves the record as it is; after a rejection nobody knows what the target holds.
_PASS = """
UPDATE instep_delivery.applied SET version = greatest(version, %(version)s)
WHERE (target, flow, key) = (%(target)s, %(flow)s, %(key)s)
"""
_DOUBT = """
UPDATE instep_delivery.applied SET digest = ''
WHERE (target, flow, key) = (%(target)s, %(flow)s, %(key)s) AND version <= %(version)s
"""
_EFFECT: Final = {Kind.WRITTEN: _APPLY, Kind.UNCHANGED: _APPLY, Kind.FILTERED: _PASS, Kind.REJECTED: _DOUBT}


def key_text(key: Key) -> str:
    """A key as the ledger stores it: a JSON array of its columns' text."""
    return json.dumps(list(key), ensure_ascii=False, separators=(",", ":"))


def key_of(text: str) -> Key:
    """Read `key_text`'s form."""
    return tuple(json.loads(text))


class Ledger:
    """The ledger of one target in Instep's own PostgreSQL.

    Args:
        dsn: of the state database.
        target: the target's name.
    """

    def __init__(self, dsn: str, target: str) -> None:
        self._dsn, self._target = dsn, target
        self._connection: psycopg.AsyncConnection[tuple[Any, ...]] | None = None
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        """Connect and create what is missing.

        Raises:
            StateError: the database refuses.
            ConnectionError: it cannot be reached now.
        """
        async with self._session() as connection:
            await connection.execute("SELECT pg_advisory_lock(hashtext('instep_delivery'))")
            try:
                await connection.execute(SCHEMA)
            finally:
                await connection.execute("SELECT pg_advisory_unlock(hashtext('instep_delivery'))")

    async def aclose(self) -> None:
        """Close the connection; claims end with it. Safe to call twice."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    @asynccontextmanager
    async def claim(self, flow: str, documents: Sequence[Document]) -> AsyncIterator[Mapping[Key, Applied]]:
        """Hold the documents' keys against other processes, and give what is known of each key.

        The documents are of one flow, one per key. Waits while another process holds one of the keys.

        Raises:
            ConnectionError: the database cannot be reached now.
        """
        locks = sorted(self._lock(flow, document.key) for document in documents)
        await self._acquire(locks)
        try:
            yield await self.known(flow, documents)
        finally:
            await self._release(locks)

    async def known(self, flow: str, documents: Sequence[Document]) -> dict[Key, Applied]:
        """What is known of the documents' keys, without a claim. Raises as `fetch`."""
        rows = await self.fetch(
            _KNOWN,
            {
                "flow": flow,
                "keys": [key_text(document.key) for document in documents],
                "versions": [document.version for document in documents],
            },
        )
        return {key_of(row[0]): Applied(*row[1:]) for row in rows}

    async def record(self, entries: Sequence[Entry]) -> None:
        """Write outcomes and what they mean for the keys, in one transaction.

        Raises:
            ConnectionError: the database cannot be reached now.
        """
        now = time.time_ns() // 1000
        rows = [self._row(entry, now) for entry in entries]
        async with self._session() as connection, connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(_OUTCOME, rows)
            for kind, statement in _EFFECT.items():
                chosen = [row for row in rows if row["outcome"] == kind]
                if chosen:
                    await cursor.executemany(statement, chosen)

    async def spend(self, cost: float, rate: float, burst: float, floor: float) -> float:
        """Take calls from the account's budget, shared by all processes; see `budget.spend`.

        Returns:
            0 when they were taken, else the seconds to wait before asking again.
        """
        async with self._session() as connection, connection.transaction():
            found = await connection.execute(
                "INSERT INTO instep_delivery.budgets (account, level, at) VALUES (%s, %s, clock_timestamp()) "
                "ON CONFLICT (account) DO UPDATE SET account = excluded.account "
                "RETURNING level, extract(epoch FROM clock_timestamp() - at)::double precision",
                (self._target, burst),
            )
            row = await found.fetchone()
            assert row is not None
            level, wait = spend(row[0], row[1], cost, rate, burst, floor)
            await connection.execute(
                "UPDATE instep_delivery.budgets SET level = %s, at = clock_timestamp() WHERE account = %s",
                (level, self._target),
            )
        return wait

    async def fetch(self, statement: str, parameters: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Ask the ledger; `%(target)s` is given.

        Raises:
            ConnectionError: the database cannot be reached now.
        """
        async with self._session() as connection:
            found = await connection.execute(statement, {"target": self._target, **parameters})
            return await found.fetchall()

    # --- keys

    def _lock(self, flow: str, key: Key) -> int:
        name = "\0".join((self._target, flow, key_text(key))).encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big", signed=True)

    async def _acquire(self, locks: Sequence[int]) -> None:
        # Never wait inside PostgreSQL: the one connection serves all flows.
        held: list[int] = []
        while len(held) < len(locks):
            if held:
                await self._release(held)
            async with self._session() as connection:
                found = await connection.execute(
                    "SELECT lock FROM unnest(%s::bigint[]) AS lock WHERE pg_try_advisory_lock(lock)", (list(locks),)
                )
                held = [row[0] for row in await found.fetchall()]
            if len(held) < len(locks):
                await asyncio.sleep(CLAIM_PAUSE)

    async def _release(self, locks: Iterable[int]) -> None:
        if self._connection is None or self._connection.closed:
            return  # the locks ended with their session
        try:
            async with self._session() as connection:
                await connection.execute(
                    "SELECT pg_advisory_unlock(lock) FROM unnest(%s::bigint[]) AS lock", (list(locks),)
                )
        except ConnectionError:
            return

    def _row(self, entry: Entry, now: int) -> dict[str, Any]:
        document, rejected = entry.document, entry.rejected
        return {
            "target": self._target,
            "flow": document.flow,
            "key": key_text(document.key),
            "version": document.version,
            "outcome": entry.kind,
            "code": rejected.code if rejected else None,
            "field": rejected.field if rejected else None,
            "message": rejected.message if rejected else None,
            "attempts": entry.attempts,
            "target_id": entry.target_id,
            "committed_us": document.committed_us,
            "delivered_us": now,
            "digest": digest_of(document),
        }

    # --- connection

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[psycopg.AsyncConnection[tuple[Any, ...]]]:
        async with self._turn:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = await psycopg.AsyncConnection.connect(
                        conninfo(self._dsn, f"instep deliver {self._target}"), autocommit=True
                    )
                    await self._connection.execute("; ".join(KEEPALIVES))
                yield self._connection
            except psycopg.Error as exc:
                raise _fault(exc) from exc


# libpq gives no SQLSTATE for a refused connection, only the server's words
_REFUSED: Final = re.compile(r"authentication failed|no password supplied|does not exist|no pg_hba\.conf entry")


def _fault(exc: psycopg.Error) -> Exception:
    if exc.sqlstate is None and _REFUSED.search(str(exc)):
        return StateError(f"The state database refuses the connection: {_first_line(exc)}.", "Check `state.dsn`.")
    if isinstance(exc, psycopg.OperationalError) and exc.sqlstate is None:
        return ConnectionError(f"The state database cannot be reached: {_first_line(exc)}.")
    if advice(exc) is Advice.AGAIN:
        return ConnectionError(f"The state database cannot answer now: {_first_line(exc)}.")
    return StateError(
        f"The state database refuses the ledger: {_first_line(exc)}.", "Check `state.dsn` and its rights."
    )


def _first_line(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(exc).__name__
