"""What a worker says of itself to `instep status`, the demo and verify. Blocking."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Any, Final

import psycopg
from psycopg import sql

from instep.change import Position
from instep.flowfile import Flow
from instep.settings import Settings
from instep.timing import Schedule, shown
from instep_connectors.kafka import topics
from instep_streams.flows import progress
from instep_streams.flows.dirty import ALL
from instep_streams.flows.layout import Share, database, exists, shares
from instep_streams.flows.outbox import Marker, known_marker
from instep_streams.flows.worker import failure

_COUNTS: Final = """
SELECT (SELECT count(*) FROM {pending}), (SELECT coalesce(sum(keys), 0) FROM {dirty} WHERE id <= %(bound)s),
    (SELECT coalesce(sum(keys), 0) FROM {dirty} WHERE id > %(bound)s),
    (SELECT count(*) FROM {out} WHERE "*h" IS NOT NULL)"""
"""In the order in which the worker empties them: else each may come to wait for the other."""


def status(settings: Settings, source: str) -> dict[str, Any]:
    """How far a source's worker is; of a joined source, how far the worker is with it that holds its tables.

    Returns:
        `batch`: last journal entry applied; `position` of its last change, as text; `committed_us`; `more`: within a
        source transaction; `worker_batch`: last batch with documents; `emitted_batch`: the last one published;
        `emitted_journal_batch`: the last journal entry all of whose documents are published; `documents`: per flow, how
        many documents and tombstones it has emitted; `flows`: per flow state, fault, documents alive, keys waiting,
        keys held until the flow's time, and `next_release`: when that is (None: at once, or nothing is held);
        `offsets`: of topics without a journal, what is read next by `topic:partition`. Of several workers all counts
        together, and as far as the slowest; `shards`: each by itself.

    Raises:
        StateError, KafkaFault: refused.
        ConnectionError, TimeoutError: the state database or Kafka does not answer.
    """
    known = topics(settings.kafka)
    try:
        found = [_of_shard(settings, source, share, known) for share in shares(settings, settings.leader(source))]
    except psycopg.Error as exc:
        raise failure(exc) from exc
    return found[0] if len(found) == 1 else _together(found)


def _of_shard(settings: Settings, source: str, share: Share, known: Container[str]) -> dict[str, Any]:
    # the marker first: when no batch was made after it, all that was made is published
    leader = settings.leader(source)
    joined = "" if leader == source else source
    marker = known_marker(settings.kafka, known, leader, share, joined)
    if share.number and not exists(settings, leader, share):
        return _nothing()
    dsn = database(settings, leader, share)
    with psycopg.connect(dsn, autocommit=True, application_name="instep status") as conn:
        conn.execute("SET transaction_isolation = 'repeatable read'")
        return _status(conn, leader, joined, marker)


def _nothing() -> dict[str, Any]:
    return _told(progress.Progress(), Marker(), {})


def _together(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several shards as one: as far as the slowest, all counts together."""
    slowest = min(found, key=lambda each: int(each["batch"]))
    flows = {name: [each["flows"][name] for each in found if name in each["flows"]] for name in slowest["flows"]}
    places = {name for each in found for name in each["offsets"]}
    return {
        **{name: slowest[name] for name in ("batch", "position", "committed_us")},
        "more": any(each["more"] for each in found),
        **{name: sum(each[name] for each in found) for name in ("worker_batch", "emitted_batch")},
        "emitted_journal_batch": min(each["emitted_journal_batch"] for each in found),
        "documents": {name: sum(each["emitted"] for each in told) for name, told in flows.items()},
        "flows": {name: _flow_together(told, len(found)) for name, told in flows.items()},
        "offsets": {name: min(each["offsets"].get(name, 0) for each in found) for name in places},
        "shards": list(found),
    }  # fmt: skip


def _flow_together(told: Sequence[dict[str, Any]], count: int) -> dict[str, Any]:
    other = [each["state"] for each in told if each["state"] != "live"]
    return {
        "state": other[0] if other else "live" if len(told) == count else "moving",
        "fault": next((each["fault"] for each in told if each["fault"]), ""),
        "whole": any(each["whole"] for each in told),
        **{name: sum(each[name] for each in told) for name in ("emitted", "documents", "waiting", "held")},
        "next_release": min((each["next_release"] for each in told if each["next_release"]), default=None),
    }


def _status(conn: psycopg.Connection[Any], source: str, joined: str, marker: Marker) -> dict[str, Any]:
    row = conn.execute("SELECT to_regclass('instep.progress') IS NOT NULL").fetchone()
    known = row == (True,)
    done = progress.load(conn, source, [joined] if joined else ()) if known else progress.Progress()
    flows = _flows(conn, source) if known else {}
    return _told(replace(done.of(joined), batch=done.batch), marker, flows)


def _told(done: progress.Progress, marker: Marker, flows: dict[str, dict[str, Any]]) -> dict[str, Any]:
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
    rows = conn.execute(  # also asked before the worker migrates it
        "SELECT id, name, to_jsonb(f) FROM instep.flows f WHERE source = %s ORDER BY name", (source,)
    ).fetchall()
    for number, name, row in rows:
        parts = {part: sql.Identifier("instep", f"{part}_{number}") for part in ("pending", "dirty", "out")}
        query, released = sql.SQL(_COUNTS).format(**parts), row.get("released_us", 0)
        bound = {"bound": row["bound"] if released else ALL}
        aside, put_off, held, alive = conn.execute(query, bound).fetchone() or (0, 0, 0, 0)
        held = alive if row.get("deferred") else held
        found[name] = {
            **{each: row[each] for each in ("state", "fault", "whole", "emitted")}, "documents": alive,
            "waiting": put_off + aside, "held": held,
            "next_release": _next_release(row["definition"], released, held) if released else None,
        }  # fmt: skip
    return found


def _next_release(definition: Any, released_us: int, held: int) -> str | None:
    timing = Flow.model_validate(definition).timing
    return shown(timing.next_us(released_us)) if timing and (held or isinstance(timing, Schedule)) else None
