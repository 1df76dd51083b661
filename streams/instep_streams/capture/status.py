"""How a source's capture stands, and whether it could start: for `instep status`, `instep doctor` and `instep up`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from instep.change import format_lsn
from instep.errors import InstepError, SourceError
from instep.journal import JournalEntry
from instep.settings import Settings, SourceSettings
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.guard import Level, judge
from instep_connectors.postgres.publication import (
    check_publication,
    check_publishable,
    check_readable,
    publication_exists,
)
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect, store_failure
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.kafka import last_entry

_QUIET_BYTES: Final = 16 << 10
"""Between two heartbeats the store writes about so much by itself."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be right before capture can start.

    Attributes:
        name: what was looked at.
        ok: whether it is right.
        cause: what is wrong, empty when nothing is.
        remedy: what to do about it.
    """

    name: str
    ok: bool
    cause: str = ""
    remedy: str = ""


def preflight(settings: Settings, source: str) -> list[Check]:
    """Look at the store as capture would, without changing anything; needs no Kafka.

    Never raises for what is wrong with the store: that is a failed check. What depends on it is left out then.
    """
    own = settings.sources[source]
    checks: list[Check] = []
    conn: list[slots.Connection] = []

    def check(name: str, work: Callable[[], None]) -> bool:
        checks.append(_outcome(name, work))
        return checks[-1].ok

    try:
        if not check("connection", lambda: conn.append(connect(own.dsn.reveal(), f"instep check {source}"))):
            return checks
        store = conn[0]
        check("server", lambda: _check_server(store, own))
        check("replication", lambda: _check_replication(own, source))
        check("slot", lambda: _check_slot(store, own, source))
        check("retained WAL", lambda: _check_retained(store, own, source))
        if check("publication", lambda: _check_publication(store, own)) and publication_exists(store, own.publication):
            check("tables", lambda: check_readable(store, check_publication(store, own.publication, own.tables)))
    finally:
        for each in conn:
            each.close()
    return checks


def _outcome(name: str, work: Callable[[], None]) -> Check:
    try:
        work()
    except psycopg.Error as exc:
        failure = store_failure(exc)
        return Check(name, False, *_words(failure))
    except (InstepError, ConnectionError) as exc:
        return Check(name, False, *_words(exc))
    return Check(name, True)


def _words(exc: Exception) -> tuple[str, str]:
    if isinstance(exc, InstepError):
        return exc.cause, exc.remedy
    return str(exc), "Start the store, or correct the source's dsn."


def _check_server(store: slots.Connection, own: SourceSettings) -> None:
    slots.check_server(slots.read_server(store), slots.read_slot(store, own.slot) is not None)


def _check_replication(own: SourceSettings, source: str) -> None:
    """A replication connection has its own lines in pg_hba.conf, and its own right."""
    replication = ReplicationConnection(own.dsn.reveal(), f"instep check {source}")
    replication.identify()
    replication.close()


def _check_slot(store: slots.Connection, own: SourceSettings, source: str) -> None:
    slot = slots.read_slot(store, own.slot)
    if slot is None:
        return
    slots.check_slot(slot, slots.read_server(store).database)
    slots.check_holder(store, slot, f"instep capture {source}")


def _check_retained(store: slots.Connection, own: SourceSettings, source: str) -> None:
    slot = slots.read_slot(store, own.slot)
    if slot is None:
        return
    health = judge(slot, own.wal_budget, None, source)
    if health.level in (Level.SOON, Level.FULL):  # a lost slot is told by the check before
        raise SourceError(health.cause, health.remedy)


def _check_publication(store: slots.Connection, own: SourceSettings) -> None:
    if publication_exists(store, own.publication):
        check_publication(store, own.publication, own.tables)
    else:
        check_publishable(store, own.publication, own.tables)


def status(settings: Settings, source: str) -> dict[str, Any]:
    """How far the capture of a source is.

    Returns:
        `slot`: name, active_pid, wal_status, confirmed (LSN text), lag_bytes (WAL behind it), retained_bytes; None when
        there is none. `journal`: batch, position, more, snapshot, snapshot_state, committed_us; None when it is empty.
        `current`: the store's WAL position. `lag_bytes`: WAL that the journal does not cover. `lag_seconds`: age of the
        last captured commit while something is behind it, else 0.0; both None when nothing is captured yet.

    Raises:
        InstepError, ConnectionError, TimeoutError: store or broker.
    """
    own = settings.sources[source]
    with connect(own.dsn.reveal(), f"instep status {source}") as store:
        try:
            slot = slots.read_slot(store, own.slot)
            current = slots.current_lsn(store)
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
    entry = last_entry(settings.kafka, source)
    return {
        "source": source,
        "slot": None if slot is None else _slot_status(slot),
        "journal": None if entry is None else _journal_status(entry),
        "current": format_lsn(current),
        **lag(entry, slot, current),
    }


def _slot_status(slot: slots.Slot) -> dict[str, Any]:
    return {
        "name": slot.name,
        "active_pid": slot.active_pid,
        "wal_status": slot.wal_status,
        "confirmed": format_lsn(slot.confirmed),
        "lag_bytes": slot.lag_bytes,
        "retained_bytes": slot.retained_bytes,
        "safe_bytes": slot.safe_bytes,
    }


def _journal_status(entry: JournalEntry) -> dict[str, Any]:
    return {
        "batch": entry.batch,
        "position": str(entry.last),
        "more": entry.more,
        "snapshot": entry.snapshot,
        "snapshot_state": entry.snapshot_state,
        "committed_us": entry.last_commit_us,
    }


def lag(entry: JournalEntry | None, slot: slots.Slot | None, current: int) -> dict[str, Any]:
    """Lag as the journal sees it; at rest it trails the WAL by a little that carries no change: 0 seconds."""
    if entry is None:
        return {"lag_bytes": None, "lag_seconds": None}
    behind = max(0, current - captured_lsn(entry))
    streaming = slot is not None and slot.active_pid is not None
    seconds = 0.0 if streaming and behind < _QUIET_BYTES else time.time() - entry.last_commit_us / 1e6
    return {"lag_bytes": behind, "lag_seconds": round(max(0.0, seconds), 3)}
