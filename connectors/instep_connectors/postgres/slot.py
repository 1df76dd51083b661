"""The replication slot: looked at and judged before `START_REPLICATION`, which itself moves it.

A missing slot is never silently made again: what happened in between would be lost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from instep.change import format_lsn, parse_lsn
from instep.errors import SourceError

log = logging.getLogger(__name__)

Connection = psycopg.Connection[Any]
PLUGIN: Final = "pgoutput"
_RECOVER: Final = "`instep capture recover` makes a new slot and brings what was missed, deletes too."

_SLOT: Final = """
SELECT plugin, database, slot_type, active_pid, wal_status,
       confirmed_flush_lsn - '0/0'::pg_lsn, restart_lsn - '0/0'::pg_lsn,
       safe_wal_size, to_jsonb(s)->>'invalidation_reason'
FROM pg_replication_slots s WHERE slot_name = %s"""

_CURRENT: Final = """
SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - '0/0'::pg_lsn"""

_SERVER: Final = """
SELECT current_database(), current_setting('wal_level'),
       current_setting('max_replication_slots')::int, (SELECT count(*) FROM pg_replication_slots)::int,
       current_setting('max_wal_senders')::int,
       (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user),
       (SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_is_in_recovery()"""


@dataclass(frozen=True, slots=True)
class Server:
    """What matters of the store's server.

    Attributes:
        database: name of the connected database.
        wal_level: must be `logical`.
        max_slots: max_replication_slots.
        slots: slots in use.
        max_senders: max_wal_senders.
        may_replicate: the user has the replication right.
        sender_timeout_s: wal_sender_timeout in seconds, 0 for none.
        standby: it is in recovery.
    """

    database: str
    wal_level: str
    max_slots: int
    slots: int
    max_senders: int
    may_replicate: bool
    sender_timeout_s: float
    standby: bool


@dataclass(frozen=True, slots=True)
class Slot:
    """A replication slot as the store shows it; LSNs as integers, 0 for none.

    Attributes:
        name: of the slot.
        plugin: output plug-in.
        database: it decodes.
        logical: not a physical one.
        active_pid: server process that holds it, None when nobody does.
        wal_status: reserved, extended, unreserved or lost.
        confirmed: confirmed_flush_lsn.
        restart: restart_lsn.
        current: the server's write position at that moment.
        safe_bytes: WAL that may still be written before the slot is lost, None for no limit.
        invalidation: why it was lost, None when it was not.
    """

    name: str
    plugin: str
    database: str
    logical: bool
    active_pid: int | None
    wal_status: str
    confirmed: int
    restart: int
    current: int
    safe_bytes: int | None
    invalidation: str | None

    @property
    def lag_bytes(self) -> int:
        """WAL behind the confirmed position."""
        return max(0, self.current - self.confirmed)

    @property
    def retained_bytes(self) -> int:
        """WAL that the store keeps for this slot."""
        return max(0, self.current - self.restart)


def read_server(conn: Connection) -> Server:
    """Look at the server."""
    row = conn.execute(_SERVER).fetchone()
    assert row is not None
    database, level, max_slots, slots, senders, may, timeout_ms, standby = row
    return Server(
        database, level, max_slots, slots, senders, bool(may), timeout_ms / 1000, standby
    )  # fmt: skip


def read_slot(conn: Connection, name: str) -> Slot | None:
    """Look at a slot; None when there is none of that name."""
    row = conn.execute(_SLOT, (name,)).fetchone()
    if row is None:
        return None
    plugin, database, kind, pid, status, confirmed, restart, safe, reason = row
    current = current_lsn(conn)
    return Slot(
        name, plugin or "", database or "", kind == "logical", pid, status or "", int(confirmed or restart or 0),
        int(restart or 0), current, None if safe is None else int(safe), reason,
    )  # fmt: skip


def current_lsn(conn: Connection) -> int:
    """Where the server's WAL stands (a standby's: what it has replayed)."""
    row = conn.execute(_CURRENT).fetchone()
    assert row is not None
    return int(row[0])


def check_server(server: Server, slot_exists: bool) -> None:
    """Check what every logical slot needs.

    Raises:
        SourceError: wal_level, no free slot, no wal sender, or the right is missing.
    """
    if server.wal_level != "logical":
        raise SourceError(
            f"The store runs with wal_level={server.wal_level}, which carries no changes.",
            "ALTER SYSTEM SET wal_level = 'logical'; then restart the store.",
        )
    if not server.may_replicate:
        raise SourceError(
            "The user in the source's dsn may not replicate.", "ALTER ROLE … REPLICATION; (as a superuser of the store)"
        )
    if not slot_exists and server.slots >= server.max_slots:
        raise SourceError(
            f"All {server.max_slots} replication slots of the store are taken.",
            "Drop one that nobody uses (see pg_replication_slots), or raise max_replication_slots and restart.",
        )
    if server.max_senders < 1:
        raise SourceError("The store allows no WAL sender.", "Raise max_wal_senders and restart the store.")


def check_slot(slot: Slot, database: str, captured: int | None = None) -> None:
    """Check that a slot is ours to read and still holds what it promised.

    Args:
        slot: as the store shows it.
        database: that is captured.
        captured: the first LSN that the journal does not cover, for the message; None: not known.

    Raises:
        SourceError: other plug-in or database, physical, or invalidated.
    """
    drop = f"SELECT pg_drop_replication_slot('{slot.name}');"
    if not slot.logical or slot.plugin != PLUGIN:
        raise SourceError(
            f"The slot {slot.name} uses {slot.plugin if slot.logical else 'physical replication'}, not {PLUGIN}.",
            f"Name another slot in the source's settings, or drop it: {drop}",
        )
    if slot.database != database:
        raise SourceError(
            f"The slot {slot.name} belongs to the database {slot.database}, not to {database}.",
            "Name another slot in the source's settings.",
        )
    if slot.wal_status == "lost" or slot.invalidation:
        reached = "" if captured is None else f" The journal stands at {format_lsn(captured)}."
        raise SourceError(
            f"The slot {slot.name} is lost ({slot.invalidation or 'its WAL was removed'}): changes behind "
            f"{format_lsn(slot.confirmed)} can no longer be read.{reached}",
            f"Raise max_slot_wal_keep_size; then {_RECOVER}",
        )


@dataclass(frozen=True, slots=True)
class Standing:
    """A place in the history of a server.

    Attributes:
        system: system identifier, as decimal text.
        timeline: of the server.
        lsn: there.
    """

    system: str
    timeline: int
    lsn: int

    def __str__(self) -> str:
        return f"{format_lsn(self.lsn)} on timeline {self.timeline} of system {self.system}"


def check_identity(found: Standing, journal: Standing, history: Callable[[int], str]) -> None:
    """Compare the server with the one that the journal was written from.

    A promoted standby goes on with the history up to where its timeline forked: a journal that ends before the fork
    goes on with it too.

    Args:
        found: the server and where its WAL stands.
        journal: the same of the journal: the first LSN that it does not cover.
        history: gives a timeline's history file.

    Raises:
        SourceError: another server, or a timeline that has not got what the journal holds.
    """
    if found.system != journal.system:
        raise SourceError(
            f"The store is another server than the captured one: it stands at {found}, the journal at {journal}.",
            f"Correct the source's dsn; for a copy of the former store {_RECOVER}",
        )
    if found.timeline == journal.timeline:
        return
    fork = forked_at(history(found.timeline), journal.timeline) if found.timeline > journal.timeline else None
    if fork is None or journal.lsn > fork:
        where = "which does not come from it" if fork is None else f"which forked from it at {format_lsn(fork)}"
        raise SourceError(
            f"The store was failed over or restored: it stands at {found}, {where}; the journal is at {journal} and "
            "may hold changes that this store never had.",
            f"Go back to the former store, or {_RECOVER}",
        )
    log.warning(
        "the store was failed over: it stands at %s, which forked at %s, behind the journal's %s; nothing is missing",
        found, format_lsn(fork), format_lsn(journal.lsn),
    )  # fmt: skip


def forked_at(history: str, timeline: int) -> int | None:
    """Where a timeline was left, by the history file of a later one; None: that does not come from it."""
    for line in history.splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[0] == str(timeline):
            return parse_lsn(parts[1])
    return None


def check_resume(slot: Slot, captured: int, standby: bool = False) -> None:
    """Compare the slot with the journal: `START_REPLICATION` would skip what lies between without a word.

    A slot behind the journal is an ordinary thing: the store keeps its position only at checkpoints. It sends again,
    and what the journal holds is dropped.

    Args:
        slot: as the store shows it.
        captured: the first LSN that the journal does not cover (`last.lsn + 1`).
        standby: the store is in recovery.

    Raises:
        SourceError: the slot has moved past the journal, or the store has fallen back behind it.
        ConnectionError: a standby has not replayed so far yet.
    """
    if slot.confirmed > captured:
        raise SourceError(
            f"The slot {slot.name} stands at {format_lsn(slot.confirmed)}, past the journal at {format_lsn(captured)}: "
            "it was made again or moved by someone else, and the changes between are gone.",
            f"Find out who did it; then {_RECOVER}",
        )
    if slot.current >= captured:
        return
    if standby:
        raise ConnectionError(
            f"The standby has replayed up to {format_lsn(slot.current)}, the journal stands at {format_lsn(captured)}."
        )
    raise SourceError(
        f"The store's WAL ends at {format_lsn(slot.current)} (the slot {slot.name} at {format_lsn(slot.confirmed)}), "
        f"before the journal at {format_lsn(captured)}: an older copy of the store was put back.",
        f"Put back the newer one, or {_RECOVER}",
    )


def missing_slot(name: str, captured: int) -> SourceError:
    """The error for a slot that is gone although the journal has entries."""
    return SourceError(
        f"The slot {name} is gone, but the journal stands at {format_lsn(captured)}: what the store wrote since then "
        "is lost to it.",
        f"Find out who dropped it; then {_RECOVER}",
    )


def unknown_slot(name: str) -> SourceError:
    """The error for a slot that exists although this Kafka's journal is empty."""
    return SourceError(
        f"The slot {name} exists, but Kafka has no journal of it: another Instep may depend on it.",
        f"If none does, drop it: SELECT pg_drop_replication_slot('{name}'); else name another slot.",
    )


class SlotLock:
    """An advisory lock that admits one capture per slot; it lives as long as its connection."""

    _HOLDER: Final = """
        SELECT a.pid, coalesce(a.client_addr::text, 'local'), a.application_name
        FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'advisory' AND l.granted AND a.datname = current_database() AND a.datid = l.database
          AND (l.classid::bigint << 32) + l.objid::bigint = %s AND l.objsubid = 1"""

    def __init__(self, conn: Connection, slot: str) -> None:
        self._conn = conn
        self._slot = slot
        row = conn.execute("SELECT hashtextextended('instep slot ' || %s, 0)", (slot,)).fetchone()
        assert row is not None
        self._key: int = row[0]

    def acquire(self, wait_s: float, idle: Callable[[float], bool]) -> None:
        """Take the lock.

        Args:
            wait_s: how long a former holder may take to go.
            idle: sleeps for the given seconds; true when the process should stop.

        Raises:
            SourceError: another capture holds it; names its process.
        """
        deadline = time.monotonic() + wait_s
        while True:
            row = self._conn.execute("SELECT pg_try_advisory_lock(%s)", (self._key,)).fetchone()
            if (row is not None and row[0]) or idle(0.0):
                return
            if time.monotonic() >= deadline:
                raise self._held()
            idle(0.2)

    def _held(self) -> SourceError:
        holder = self._conn.execute(self._HOLDER, (self._key,)).fetchone()
        who = f"{holder[2]} at {holder[1]}, server process {holder[0]}" if holder else "another process"
        return SourceError(
            f"The slot {self._slot} is already captured by {who}.",
            "Stop that capture, or name another slot for this one.",
        )


def check_holder(conn: Connection, slot: Slot, application: str) -> None:
    """Check that nobody but a process of our name holds the slot.

    Raises:
        SourceError: somebody else does; names the server process.
    """
    if slot.active_pid is None:
        return
    row = conn.execute(
        "SELECT application_name, coalesce(client_addr::text, 'local') FROM pg_stat_activity WHERE pid = %s",
        (slot.active_pid,),
    ).fetchone()
    if row is None or row[0] != application:
        raise SourceError(
            f"The slot {slot.name} is held by the store's process {slot.active_pid}"
            f"{f' ({row[0]} at {row[1]})' if row else ''}.",
            f"Stop what reads it, or end it: SELECT pg_terminate_backend({slot.active_pid});",
        )


def wait_until_free(
    conn: Connection, name: str, application: str, wait_s: float, idle: Callable[[float], bool]
) -> None:
    """Wait until nobody holds the slot. Call with the lock held: then a holder of our name is our own, long dead.

    Raises:
        SourceError: somebody else keeps it for longer than `wait_s` seconds; names the server process.
    """
    deadline = time.monotonic() + wait_s
    while (slot := read_slot(conn, name)) is not None and slot.active_pid is not None and not idle(0.0):
        if time.monotonic() < deadline:
            idle(0.1)
            continue
        check_holder(conn, slot, application)
        log.warning("ending the store's process %d, left behind by an earlier capture", slot.active_pid)
        conn.execute("SELECT pg_terminate_backend(%s)", (slot.active_pid,))
        deadline = time.monotonic() + wait_s
