"""Shards: how many workers share a source's keys, which keys are whose, and how one division follows another.

Each shard consumes everything and holds the whole replica, in a database of its own; it evaluates and publishes the
keys of its share alone. The first shard's database is the state database itself, which also keeps the divisions there
were.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import Connection, conninfo, sql

from instep.errors import FlowError, StateError
from instep.settings import Settings
from instep_streams.flows import progress
from instep_streams.flows.catalog import quote
from instep_streams.flows.versions import set_up

_MODIFIER: Final = re.compile(r"\(\d+\)")
_JOINED: Final = "\x1f"
_CANONICAL: Final = frozenset(
    {"smallint", "integer", "bigint", "text", "character varying", "character", "uuid", "boolean", "date",
     "timestamp without time zone", "timestamp with time zone"}
)  # fmt: skip
"""Types whose equal values have one text, whatever their modifier."""


@dataclass(frozen=True, slots=True)
class Share:
    """The keys of one shard.

    Attributes:
        number: the shard's, from 0.
        of: how many there are.
    """

    number: int = 0
    of: int = 1

    def has(self, anchor: Sequence[str]) -> bool:
        """Whether an anchor, as PostgreSQL texts, is this shard's."""
        if self.of == 1:
            return True
        digest = hashlib.md5(_JOINED.join(anchor).encode(), usedforsecurity=False).hexdigest()
        return int(digest[:8], 16) % self.of == self.number

    def condition(self, columns: Sequence[str]) -> str:
        """The same in SQL, over expressions; empty when everything is."""
        if self.of == 1:
            return ""
        texts = ", ".join(f"({each})::text" for each in columns)
        digest = f"md5(convert_to(concat_ws(chr({ord(_JOINED)}), {texts}), 'UTF8'))"
        return f" AND mod(('x' || left({digest}, 8))::bit(32)::bigint, {self.of}) = {self.number}"

    def require(self, flow: str, types: Sequence[str]) -> None:
        """Refuse a key that cannot be divided.

        Raises:
            FlowError: KEY: equal values of its type have several texts.
        """
        for each in types if self.of > 1 else ():
            if _MODIFIER.sub("", each) not in _CANONICAL and "." not in each:  # of the others only enums are keys
                raise FlowError(
                    "KEY", f"Flow {flow}: a key of type {each} cannot be shared among {self.of} workers.",
                    "Cast it to text or a whole number in the SELECT, or use workers = 1.",
                )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """One division of a source's keys.

    Attributes:
        generation: its number, which no division of an earlier state database has; 0 for the first, of one worker.
        workers: how many shards.
        former: other numbers of shards that there were before.
    """

    generation: int = 0
    workers: int = 1
    former: tuple[int, ...] = ()


def shares(settings: Settings, source: str) -> list[Share]:
    """The shards that the settings want."""
    count = settings.sources[source].workers
    return [Share(number, count) for number in range(count)]


def database(settings: Settings, source: str, share: Share) -> str:
    """Connection string of a shard's database."""
    dsn = settings.state.dsn.reveal()
    if share.number == 0:
        return dsn
    name = conninfo.conninfo_to_dict(dsn).get("dbname") or "postgres"
    return conninfo.make_conninfo(dsn, dbname=f"{name}_{source}_{share.number}")


def ensure_database(settings: Settings, source: str, share: Share) -> str:
    """Make a shard's database when it is missing; gives its connection string.

    Raises:
        StateError: the role may not.
        psycopg.OperationalError: the state database cannot be reached.
    """
    dsn = database(settings, source, share)
    name = str(conninfo.conninfo_to_dict(dsn).get("dbname"))
    if share.number and not exists(settings, source, share):
        with closing(_base(settings)) as conn:
            try:
                conn.execute(sql.SQL("CREATE DATABASE {} ENCODING 'UTF8'").format(sql.Identifier(name)))
            except psycopg.errors.DuplicateDatabase:
                pass
            except psycopg.errors.InsufficientPrivilege:
                raise StateError(
                    f"Shard {share.number} of {source} needs the database {name}, and the role may not create it.",
                    f"Create it, or grant CREATEDB to the role of state.dsn: CREATE DATABASE {quote(name)}.",
                ) from None
    return dsn


def exists(settings: Settings, source: str, share: Share) -> bool:
    """Whether a shard's database is there; raises as `ensure_database`."""
    name = conninfo.conninfo_to_dict(database(settings, source, share)).get("dbname")
    with closing(_base(settings)) as conn:
        found = conn.execute("SELECT EXISTS (SELECT FROM pg_database WHERE datname = %s)", (name,)).fetchone()
    return share.number == 0 or found == (True,)


def _base(settings: Settings) -> Connection[Any]:
    return psycopg.connect(settings.state.dsn.reveal(), autocommit=True, application_name="instep layout")


def known(settings: Settings, source: str) -> Layout:
    """The division in force; raises as `ensure_database`."""
    with closing(_base(settings)) as conn:
        if conn.execute("SELECT to_regclass('instep.layouts') IS NULL").fetchone() == (True,):
            return Layout()
        return _known(conn, source)


def _known(conn: Connection[Any], source: str) -> Layout:
    rows = conn.execute(
        "SELECT generation, workers FROM instep.layouts WHERE source = %s ORDER BY generation", (source,)
    ).fetchall()
    generation, workers = rows[-1] if rows else (0, 1)
    return Layout(generation, workers, tuple(sorted({1, *(each for _, each in rows)} - {workers})))


def take(settings: Settings, source: str) -> Layout:
    """Put the division that the settings want in force, when it is another; for a process that starts.

    Raises:
        StateError: the state database is a newer Instep's.
        psycopg.OperationalError: it cannot be reached.
    """
    wanted = settings.sources[source].workers
    with closing(_base(settings)) as conn, conn.transaction():
        set_up(conn)  # holds others back until the end
        found = _known(conn, source)
        if found.workers != wanted:
            # not from 1: a shard's database may be older than this one, and must not take its division for ours
            number = found.generation + 1 if found.generation else secrets.randbits(48) + 1
            conn.execute(
                "INSERT INTO instep.layouts (source, generation, workers) VALUES (%s, %s, %s)", (source, number, wanted)
            )
        return _known(conn, source)


def require(settings: Settings, source: str, layout: Layout) -> None:
    """The division is still the one that this process was started with. Ask only behind the start of the `Publisher`.

    Raises:
        StateError: a later process has put another in force.
    """
    found = known(settings, source)
    if found.generation != layout.generation:
        raise StateError(
            f"Source {source} is shared among {found.workers} workers now; this one was started for {layout.workers}.",
            "Restart it with the project's present settings.",
        )


def behind(settings: Settings, source: str, share: Share, layout: Layout) -> bool:
    """Whether a shard's state has not followed the division yet; raises as `ensure_database`."""
    if layout.generation == 0:
        return False
    if not exists(settings, source, share):
        return True
    with closing(psycopg.connect(database(settings, source, share), autocommit=True)) as conn:
        if conn.execute("SELECT to_regclass('instep.progress') IS NULL").fetchone() == (True,):
            return True
        return progress.generation(conn, source) != layout.generation


def group(settings: Settings, source: str, workers: int = 1) -> str:
    """The consumer group of a source's workers."""
    return f"{settings.name}-worker-{_division(source, workers)}"


def transactional_ids(settings: Settings, source: str, share: Share) -> tuple[str, str]:
    """Who a shard is to Kafka: one at a time publishes, its two ids take turns, see `BlockingPublisher`."""
    own = _division(source, share.of) + ("" if share.of == 1 else f"-{share.number}")
    return f"{settings.name}-worker-{own}", f"{settings.name}-worker2-{own}"


def _division(source: str, workers: int) -> str:
    return source if workers == 1 else f"{source}-{workers}"
