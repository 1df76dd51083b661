"""`instep flow`: flows compiled and tried against the store itself; needs nothing else to run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from instep.errors import FlowError, InstepError
from instep.flowfile import Flow
from instep.relation import Relation
from instep.settings import EMBEDDED, Settings
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.publication import matcher, publication_exists
from instep_connectors.postgres.session import connect
from instep_ops.assemble import resolve, running
from instep_ops.verification.worker import evaluate as evaluate_all
from instep_ops.verify import by_source
from instep_schemas.documents import DocumentColumn
from instep_streams.delivery.transform import transforms
from instep_streams.flows.catalog import Column, Table, catalog_of
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.parse import parse_select, statement
from instep_streams.flows.session import pin

APPLICATION = "instep flow"

_TABLES = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""

_INHERITED = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind = 'r'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""

_NAMED = re.compile(r'Table "([^"]+)"')

_PUBLISHED = "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = %s"


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

    def line(self) -> str:
        """As a person reads it."""
        if not self.ok:
            return f"FAILED {self.name}: [{self.code}] {self.cause} {self.remedy}".rstrip()
        lines = [f"ok     {self.name}: reads {', '.join(self.tables)}; gives {', '.join(n for n, _ in self.columns)}"]
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
        with closing(connect(settings.sources[source].dsn.reveal(), APPLICATION)) as conn:
            tables = _tables(conn, settings.sources[source].tables)
            published = _published(conn, settings.sources[source].publication)
            found += [_check(conn, settings, flow, tables, published) for flow in rest]
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
) -> Iterator[tuple[psycopg.Connection[Any], Plan, tuple[DocumentColumn, ...]]]:
    """One flow compiled against its store: a pinned connection to it, the plan, the output columns.

    Raises:
        ConfigError: no such flow.
        FlowError: it is refused.
        SourceError, ConnectionError: the store does not answer.
    """
    ((source, flows),) = by_source(settings, [name]).items()
    refused = _misspelt(flows).get(name)
    if refused is not None:
        raise FlowError(refused.code, refused.cause, refused.remedy)
    with closing(connect(settings.sources[source].dsn.reveal(), APPLICATION)) as conn:
        plan = compile_flow(flows[name], _tables(conn, settings.sources[source].tables))
        yield conn, plan, check(conn, plan)


def _tables(conn: psycopg.Connection[Any], patterns: Sequence[str]) -> dict[str, Table]:
    """The captured tables as the store describes them; pins the session."""
    inherited = {name for (name,) in conn.execute(_INHERITED).fetchall()}
    captured = map(_table, _captured(conn, patterns))
    tables = catalog_of(replace(each, inherited=each.id in inherited) for each in captured)
    pin(conn)
    return tables


def _captured(conn: psycopg.Connection[Any], patterns: Sequence[str]) -> list[Relation]:
    wanted = matcher(patterns)
    oids = [oid for oid, name in conn.execute(_TABLES).fetchall() if wanted.fullmatch(name)]
    return list(Catalog(conn).relations(dict.fromkeys(oids)).values())


def _published(conn: psycopg.Connection[Any], publication: str) -> frozenset[str] | None:
    """Ids of the tables that the publication holds; None while there is none: capture will make it hold all."""
    if not publication_exists(conn, publication):
        return None
    return frozenset(f"{schema}.{table}" for schema, table in conn.execute(_PUBLISHED, [publication]))


def _table(relation: Relation) -> Table:
    columns = tuple(Column(each.name, each.sql_type, each.not_null) for each in relation.columns)
    return Table(relation.schema, relation.name, columns, relation.key)


def _check(
    conn: psycopg.Connection[Any], settings: Settings, flow: Flow, tables: dict[str, Table],
    published: frozenset[str] | None,
) -> FlowCheck:  # fmt: skip
    try:
        transforms(settings, {flow.name: flow})
        plan = compile_flow(flow, tables)
        columns = check(conn, plan)
    except InstepError as exc:
        return _failed(flow.name, _of_view(conn, exc))
    return FlowCheck(
        flow.name, True, columns=tuple((each.name, each.type) for each in columns), tables=plan.tables,
        edges=plan.edges, warnings=plan.warnings,
        uncaptured=() if published is None else tuple(sorted(set(plan.tables) - published)),
    )  # fmt: skip


def evaluate(settings: Settings, name: str, limit: int) -> list[dict[str, Any]]:
    """The first documents of a flow, by key, as they would be now.

    Raises:
        FlowError: the store refuses the SELECT.
        SourceError, ConnectionError: the store does not answer.
    """
    ((source, flows),) = by_source(settings, [name]).items()
    with closing(connect(settings.sources[source].dsn.reveal(), APPLICATION)) as conn:
        conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = evaluate_all(conn, flows[name])
    return [json.loads(text) for _, text in sorted(rows.items())[:limit]]
