"""`instep flow explain`: one flow's graph from the store's catalog, its plans from the replica when there is one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from instep.errors import InstepError
from instep.settings import EMBEDDED, Settings
from instep_ops.flows import compiled
from instep_streams.flows.catalog import quote
from instep_streams.flows.compile import Plan
from instep_streams.flows.explain import Graph, graph_of, plans
from instep_streams.flows.session import open_state


@dataclass(frozen=True, slots=True)
class Explained:
    """One flow, explained.

    Attributes:
        name: the flow's.
        graph: how changes find its keys.
        plans: PostgreSQL's plans as text: `keys`, `whole`.
        planned_on: `replica`; or `store`, whose indexes and sizes may differ from the replica's; or, with sources that
            are joined, `empty tables`.
        warnings: the compiler's.
    """

    name: str
    graph: Graph
    plans: dict[str, str]
    planned_on: str
    warnings: tuple[str, ...]

    def text(self) -> str:
        """As a person reads it: Mermaid, the ways in words, the plans."""
        lines = [self.graph.mermaid(), ""]
        for table, ways in self.graph.ways.items():
            lines.append(f"{table}: a row that comes, goes or changes in {', '.join(self.graph.columns[table])}")
            lines += [f"  {way}" for way in ways]
        lines += [f"warning: {each}" for each in self.warnings]
        differ = "" if self.planned_on == "replica" else "; the replica's indexes and sizes may differ"
        where = self.planned_on + differ
        lines += ["", f"Evaluating some keys ({where}):", _indented(self.plans["keys"])]
        lines += ["", f"Evaluating all keys ({where}):", _indented(self.plans["whole"])]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "name": self.name, **self.graph.to_dict(), "mermaid": self.graph.mermaid(), "plans": self.plans,
            "planned_on": self.planned_on, "warnings": self.warnings,
        }  # fmt: skip


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def explain(settings: Settings, name: str) -> Explained:
    """Compile one flow and let PostgreSQL plan it.

    Raises:
        FlowError: it is refused.
        ConfigError: no such flow.
        SourceError, ConnectionError: the store does not answer.
    """
    with compiled(settings, name) as (conn, plan, columns, gathered):
        with _replica(settings, plan) as replica:
            on = conn if replica is None else replica
            with on.transaction(force_rollback=True):
                found = plans(on, plan, columns)
        without = "empty tables" if gathered else "store"
        return Explained(name, graph_of(plan), found, without if replica is None else "replica", plan.warnings)


@contextmanager
def _replica(settings: Settings, plan: Plan) -> Iterator[psycopg.Connection[Any] | None]:
    """The state database, if it answers and holds the flow's tables."""
    if settings.state.dsn == EMBEDDED:
        yield None
        return
    try:
        conn = open_state(settings.state.dsn.reveal())
    except (psycopg.Error, InstepError):
        yield None
        return
    with closing(conn):
        names = [".".join(map(quote, table.split(".", 1))) for table in plan.tables]
        row = conn.execute("SELECT count(to_regclass(name)) FROM unnest(%s::text[]) AS name", (names,))
        yield conn if row.fetchone() == (len(plan.tables),) else None
