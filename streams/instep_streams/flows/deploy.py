"""Deploying flows: compile, check, tables of their own, indexes on the replica."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import Connection

from instep.flowfile import Flow
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import quote
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.evaluate import Evaluation
from instep_streams.flows.guard import guard
from instep_streams.flows.outgrown import create_index
from instep_streams.flows.parts import Parts, keep
from instep_streams.flows.refusals import refuse
from instep_streams.flows.releases import CLOCK, Clock, Release, release_of
from instep_streams.flows.tables import Tables

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Deployed:
    """What a deployment gives.

    Attributes:
        flows: the deployed flows by name.
        whole: those that must be evaluated as a whole.
        new: those that this state database did not know.
        parts: their intermediate results.
        releases: of those whose documents do not come at once, when they do.
    """

    flows: dict[str, Evaluation] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)
    new: set[str] = field(default_factory=set)
    parts: dict[str, Parts | None] = field(default_factory=dict)
    releases: dict[str, Release] = field(default_factory=dict)


def deploy(
    conn: Connection[Any], source: str, tables: Tables, flows: Mapping[str, Flow], clock: Clock = CLOCK
) -> Deployed:  # fmt: skip
    """Deploy these flows of a source and no others, in one transaction.

    Raises:
        FlowError: one of them is refused; nothing is deployed then.
    """
    plans = {name: compile_flow(flow, tables.captured) for name, flow in flows.items()}
    found = Deployed()
    with conn.transaction():
        for name, plan in plans.items():
            columns = check(conn, plan)
            found.flows[name], new = _register(conn, source, plan, columns)
            if new:
                found.new.add(name)
            # kept for the day when its file is gone, and somebody says what is to become of its documents
            conn.execute(
                "UPDATE instep.flows SET definition = %s WHERE name = %s", (plan.flow.model_dump_json(), name)
            )  # fmt: skip
            _index(conn, tables, plan)
            found.parts[name] = keep(conn, tables, found.flows[name])
            release = release_of(conn, found.flows[name], clock)
            if release is not None:
                found.releases[name] = release
        removed = conn.execute(
            "UPDATE instep.flows SET state = 'removed' WHERE source = %s AND NOT name = ANY(%s) AND state = 'live'"
            " RETURNING name",
            (source, list(flows)),
        ).fetchall()
        rows = conn.execute("SELECT name FROM instep.flows WHERE source = %s AND whole AND state = 'live'", (source,))
        found.whole = {name for (name,) in rows.fetchall()}
        for table in {table for plan in plans.values() for table in plan.tables}:
            conn.execute(f"ANALYZE {tables[table].sql}")
        for name in sorted(found.whole):  # not those that run already: a table may grow
            guard(conn, found.flows[name], tables)
    for (name,) in removed:
        log.warning("flow %s has no file any more: its documents wait for a decision, see `instep plan`", name)
    for plan in plans.values():
        for warning in plan.warnings:
            log.info("flow %s: %s", plan.flow.name, warning)
    return found


def _register(
    conn: Connection[Any], source: str, plan: Plan, columns: tuple[DocumentColumn, ...]
) -> tuple[Evaluation, bool]:
    version = version_of(plan, columns)
    keys = keys_of(plan, columns)
    row = conn.execute(
        "SELECT id, version, keys = %s::jsonb AND source = %s, state, adopted FROM instep.flows WHERE name = %s",
        (keys, source, plan.flow.name),
    ).fetchone()
    if row is None:
        (number,) = conn.execute(
            "INSERT INTO instep.flows (source, name, version, keys, whole, state, adopted)"
            " VALUES (%s, %s, %s, %s, true, 'live', false) RETURNING id",
            (source, plan.flow.name, version, keys),
        ).fetchone() or (0,)
        evaluation = Evaluation(conn, plan, columns, number)
        evaluation.create()
        return evaluation, True
    number, held, same, state, adopted = row
    if not same:
        raise refuse("KEY_CHANGED", f"Flow {plan.flow.name}")
    if held != version or state != "live":
        conn.execute(
            "UPDATE instep.flows SET version = %s, whole = true, state = 'live', fault = '', parts = '' WHERE id = %s",
            (version, number),
        )
    return Evaluation(conn, plan, columns, number), not adopted


def _index(conn: Connection[Any], tables: Tables, plan: Plan) -> None:
    for name, expressions in plan.indexes:
        table = tables[name]
        if tuple(quote(each) for each in table.key[: len(expressions)]) == expressions:
            continue
        digest = hashlib.sha256("\0".join((name, *expressions)).encode()).hexdigest()[:16]
        try:
            create_index(conn, f"instep_{digest}", table.sql, expressions)
        except psycopg.errors.InvalidObjectDefinition:
            listed = ", ".join(f"({each})" for each in expressions)
            raise refuse("KEY_EXPR", f"Flow {plan.flow.name}: {listed}") from None


def keys_of(plan: Plan, columns: Sequence[DocumentColumn]) -> str:
    """The key's columns and types and the anchor, as JSON: a deployed flow keeps them."""
    return json.dumps([[c.name, c.type] for c in columns if c.name in plan.flow.key] + [list(plan.anchor)])


def version_of(plan: Plan, columns: Sequence[DocumentColumn]) -> str:
    """Changes when the SELECT, its key or its output types do: 16 hexadecimal digits."""
    parts = [plan.sql, *plan.flow.key, *(f"{each.name} {each.type}" for each in columns)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
