"""`instep flow`: flows compiled and tried against the store itself; needs nothing else to run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from instep.errors import FlowError, InstepError
from instep.flowfile import Flow
from instep.settings import EMBEDDED, Settings
from instep_ops.assemble import resolve, running
from instep_ops.stores import Stores, opened
from instep_ops.verification.worker import evaluate as evaluate_all
from instep_ops.verify import by_source
from instep_schemas.documents import DocumentColumn
from instep_streams.delivery.transform import transforms
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.parse import parse_select, statement

APPLICATION = "instep flow"

_NAMED = re.compile(r'Table "([^"]+)"')


@dataclass(frozen=True, slots=True)
class FlowCheck:
    """What the compiler says of one flow.

    Attributes:
        name: the flow's name.
        ok: whether it is accepted.
        code: of the refusal.
        cause: why it is refused.
        remedy: what to write instead.
        exit_code: 0, or that of the refusal.
        columns: output columns and their PostgreSQL types.
        tables: ids of the tables it reads.
        edges: how rows of one table lead to another, `public.a.x -> public.b.y`.
        warnings: what is allowed but may surprise.
        uncaptured: tables it reads whose changes do not arrive, since the publication does not hold them.
        timing: when its documents come, in words.
    """

    name: str
    ok: bool
    code: str = ""
    cause: str = ""
    remedy: str = ""
    exit_code: int = 0
    columns: tuple[tuple[str, str], ...] = ()
    tables: tuple[str, ...] = ()
    edges: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    uncaptured: tuple[str, ...] = ()
    timing: str = "at once"

    def line(self) -> str:
        """As a person reads it."""
        if not self.ok:
            return f"FAILED {self.name}: [{self.code}] {self.cause} {self.remedy}".rstrip()
        lines = [f"ok     {self.name}: reads {', '.join(self.tables)}; gives {', '.join(n for n, _ in self.columns)}"]
        if self.timing != "at once":
            lines.append(f"       its documents come {self.timing}")
        return "\n".join([*lines, *(f"       warning: {each}" for each in self.notes())])

    def notes(self) -> tuple[str, ...]:
        """What a person should know although the flow is accepted."""
        return (
            *self.warnings,
            *(f"table {each} is not in the publication, so its changes do not arrive" for each in self.uncaptured),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: getattr(self, name) for name in ("name", "ok", "code", "cause", "remedy")}
        return shown | {
            "columns": [{"name": name, "type": kind} for name, kind in self.columns],
            "tables": self.tables,
            "edges": self.edges,
            "warnings": self.warnings,
            "uncaptured": self.uncaptured,
            "timing": self.timing,
        }


def with_stores(settings: Settings) -> Settings:
    """Settings whose stores can be connected to; other parts may be embedded and need not run.

    Raises:
        EnvironmentFault: a store is embedded and does not run.
    """
    run = running(settings)
    needed = run is not None or any(source.dsn == EMBEDDED for source in settings.sources.values())
    return resolve(settings, run) if needed else settings


def check_all(settings: Settings, names: Sequence[str] | None) -> list[FlowCheck]:
    """Compile flows (None: all) against their stores.

    Raises:
        ConfigError: no such flow.
        SourceError, ConnectionError: a store does not answer.
    """
    found: list[FlowCheck] = []
    for source, flows in by_source(settings, names).items():
        misspelt = _misspelt(flows)
        found += misspelt.values()
        rest = [flow for name, flow in flows.items() if name not in misspelt]
        if not rest:  # what is no SELECT at all is told without a store
            continue
        with opened(settings, source) as stores:
            found += [_check(stores, settings, flow) for flow in rest]
    return sorted(found, key=lambda each: each.name)


def _misspelt(flows: Mapping[str, Flow]) -> dict[str, FlowCheck]:
    found = {}
    for name, flow in flows.items():
        try:
            parse_select(statement(flow.sql))
        except FlowError as exc:
            found[name] = _failed(name, FlowError(exc.code, f"Flow {name}: {exc.cause}", exc.remedy))
    return found


def _of_view(conn: psycopg.Connection[Any], exc: InstepError) -> InstepError:
    """A table that is not captured may be a view: then its SELECT is what to write."""
    named = _NAMED.search(exc.cause)
    if not isinstance(exc, FlowError) or exc.code != "UNKNOWN_TABLE" or named is None:
        return exc
    kind = conn.execute("SELECT relkind::text FROM pg_catalog.pg_class WHERE oid = to_regclass(%s)", [named[1]])
    if kind.fetchone() not in (("v",), ("m",)):
        return exc
    remedy = f"It is a view: write its SELECT in its place, as a derived table or in WITH (psql: `\\d+ {named[1]}`)."
    return FlowError(exc.code, exc.cause, remedy)


def _failed(name: str, exc: InstepError) -> FlowCheck:
    return FlowCheck(name, False, getattr(exc, "code", ""), exc.cause, exc.remedy, exc.exit_code)


@contextmanager
def compiled(
    settings: Settings, name: str
) -> Iterator[tuple[psycopg.Connection[Any], Plan, tuple[DocumentColumn, ...], bool]]:
    """One flow compiled against its store: a pinned connection, the plan, the output columns.

    The last is whether the connection leads to a database made for the purpose, without rows (`stores.opened`).

    Raises:
        ConfigError: no such flow.
        FlowError: it is refused.
        SourceError, ConnectionError: the store does not answer.
    """
    ((source, flows),) = by_source(settings, [name]).items()
    refused = _misspelt(flows).get(name)
    if refused is not None:
        raise FlowError(refused.code, refused.cause, refused.remedy)
    with opened(settings, source) as stores:
        plan = compile_flow(flows[name], stores.tables)
        yield stores.conn, plan, check(stores.conn, plan), stores.gathered


def _check(stores: Stores, settings: Settings, flow: Flow) -> FlowCheck:
    try:
        transforms(settings, {flow.name: flow})
        plan = compile_flow(flow, stores.tables)
        columns = check(stores.conn, plan)
    except InstepError as exc:
        return _failed(flow.name, _of_view(stores.conn, exc))
    return FlowCheck(
        flow.name, True, columns=tuple((each.name, each.type) for each in columns), tables=plan.tables,
        edges=plan.edges, warnings=plan.warnings,
        uncaptured=tuple(sorted(stores.unpublished.intersection(plan.tables))), timing=flow.told_timing,
    )  # fmt: skip


def evaluate(settings: Settings, name: str, limit: int) -> list[dict[str, Any]]:
    """The first documents of a flow, by key, as they would be now.

    Raises:
        FlowError: the store refuses the SELECT.
        SourceError, ConnectionError: the store does not answer.
    """
    ((source, flows),) = by_source(settings, [name]).items()
    with opened(settings, source) as stores:
        stores.fill([flows[name]])
        stores.conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = evaluate_all(stores.conn, flows[name])
    return [json.loads(text) for _, text in sorted(rows.items())[:limit]]
