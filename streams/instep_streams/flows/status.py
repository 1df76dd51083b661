"""What a worker says of itself to `instep status`, the demo and verify. Blocking."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from instep.change import Position
from instep.settings import Settings
from instep.topics import emission_topic
from instep_connectors.kafka import topics
from instep_streams.flows import progress
from instep_streams.flows.outbox import Marker, read_marker
from instep_streams.flows.worker import failure

_COUNTS: Final = """
SELECT (SELECT count(*) FROM {} WHERE "*h" IS NOT NULL), (SELECT count(*) FROM {}), (SELECT count(*) FROM {})"""


def status(settings: Settings, source: str) -> dict[str, Any]:
    """How far a source's worker is.

    Returns:
        `batch`: last journal entry applied; `position` of its last change, as text; `committed_us`; `more`: within a
        source transaction; `worker_batch`: last batch with documents; `emitted_batch`: the last one published;
        `emitted_journal_batch`: the last journal entry all of whose documents are published; `documents`: per flow, how
        many documents and tombstones it has emitted; `flows`: per flow state, fault, documents alive, keys waiting;
        `offsets`: of topics without a journal, what is read next by `topic:partition`.

    Raises:
        StateError, KafkaFault: refused.
        ConnectionError, TimeoutError: the state database or Kafka does not answer.
    """
    # the marker first: when no batch was made after it, all that was made is published
    marker = read_marker(settings.kafka, source) if emission_topic(source) in topics(settings.kafka) else Marker()
    try:
        with psycopg.connect(settings.state.dsn.reveal(), autocommit=True, application_name="instep status") as conn:
            conn.execute("SET transaction_isolation = 'repeatable read'")
            return _status(conn, source, marker)
    except psycopg.Error as exc:
        raise failure(exc) from exc


def _status(conn: psycopg.Connection[Any], source: str, marker: Marker) -> dict[str, Any]:
    row = conn.execute("SELECT to_regclass('instep.progress') IS NOT NULL").fetchone()
    known = row == (True,)
    done = progress.load(conn, source) if known else progress.Progress()
    flows = _flows(conn, source) if known else {}
    return {
        "batch": done.entry,
        "position": None if done.position == Position(0, 0, 0) else str(done.position),
        "committed_us": done.committed_us,
        "more": done.more,
        "worker_batch": done.batch,
        "emitted_batch": marker.batch,
        "emitted_journal_batch": done.settled if marker.batch >= done.batch else marker.settled,
        "documents": {name: flow["emitted"] for name, flow in flows.items()},
        "flows": flows,
        "offsets": dict(done.offsets),
    }


def _flows(conn: psycopg.Connection[Any], source: str) -> dict[str, dict[str, Any]]:
    found = {}
    rows = conn.execute(
        "SELECT id, name, state, fault, whole, emitted FROM instep.flows WHERE source = %s ORDER BY name", (source,)
    ).fetchall()
    for number, name, state, fault, whole, emitted in rows:
        out, dirty, pending = (sql.Identifier("instep", f"{part}_{number}") for part in ("out", "dirty", "pending"))
        query = sql.SQL(_COUNTS).format(out, dirty, pending)
        alive, put_off, aside = conn.execute(query).fetchone() or (0, 0, 0)
        found[name] = {
            "state": state, "fault": fault, "whole": whole, "emitted": emitted, "documents": alive,
            "waiting": put_off + aside,
        }  # fmt: skip
    return found
