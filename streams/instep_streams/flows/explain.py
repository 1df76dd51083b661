"""A compiled flow for people: how a change of which column finds which keys, and PostgreSQL's plans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.errors import FlowError
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import GIVEN
from instep_streams.flows.compile import Plan
from instep_streams.flows.session import LOOKUPS, SCANS
from instep_streams.flows.statements import anchors_sql, select_sql
from instep_streams.flows.walks import Walk

KEY: Final = "key"
"""Where every way ends; a table's id always holds a dot."""


@dataclass(frozen=True, slots=True)
class Arrow:
    """One step of a way to the key.

    Attributes:
        table: id of the table whose row changed, or was reached.
        to: id of the next table, or `KEY`.
        on: what is equal, `supplier_id = id`; the key's expressions for the last step.
    """

    table: str
    to: str
    on: str


@dataclass(frozen=True, slots=True)
class Graph:
    """How changes find keys.

    Attributes:
        key: the key's columns.
        anchor: those that are the unit of evaluation.
        columns: per table, the columns whose change matters.
        arrows: the steps; from each table they lead to `KEY`.
        ways: per table, each way in words.
    """

    key: tuple[str, ...]
    anchor: tuple[str, ...]
    columns: dict[str, tuple[str, ...]]
    arrows: tuple[Arrow, ...]
    ways: dict[str, tuple[str, ...]]

    def mermaid(self) -> str:
        """As a Mermaid flow chart."""
        names = {table: f"t{number}" for number, table in enumerate(self.columns)} | {KEY: KEY}
        lines = ["flowchart LR"]
        for table, columns in self.columns.items():
            lines.append(f'  {names[table]}["{_plain(table)}<br>{_plain(", ".join(columns))}"]')
        lines.append(f'  {KEY}(["key: {_plain(", ".join(self.key))}"])')
        lines += [f'  {names[each.table]} -- "{_plain(each.on)}" --> {names[each.to]}' for each in self.arrows]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "key": self.key,
            "anchor": self.anchor,
            "tables": {
                table: {"columns": columns, "ways": self.ways.get(table, ())} for table, columns in self.columns.items()
            },
            "arrows": [{"table": each.table, "to": each.to, "on": each.on} for each in self.arrows],
        }


def graph_of(plan: Plan) -> Graph:
    """Read the graph off a compiled flow."""
    arrows: dict[Arrow, None] = {}
    ways: dict[str, tuple[str, ...]] = {}
    for table, walks in plan.walks.items():
        for walk in walks:
            arrows[_arrow(plan, table, walk)] = None
        ways[table] = tuple(dict.fromkeys(_way(plan, table, walk) for walk in walks))
    return Graph(plan.flow.key, plan.anchor, plan.needed, tuple(arrows), ways)


def _arrow(plan: Plan, table: str, walk: Walk) -> Arrow:
    image = [each.removeprefix('"r".').strip('"') for each in walk.image]
    if not walk.via:
        return Arrow(table, KEY, ", ".join(each.replace('"r".', "").replace('"', "") for each in walk.image))
    parent = walk.via[0]
    return Arrow(table, parent, " and ".join(_equal(plan, table, column, parent) for column in image))


def _equal(plan: Plan, table: str, column: str, parent: str) -> str:
    """`column = column of the parent`, as the SELECT compares them."""
    for edge in plan.edges:
        source, _, target = edge.partition(" -> ")
        if target == f"{table}.{column}" and source.rpartition(".")[0] == parent:
            return f"{column} = {source.rpartition('.')[2]}"
    return column


def _way(plan: Plan, table: str, walk: Walk) -> str:
    key = f"key ({', '.join(plan.flow.key)})"
    return " → ".join([table, *walk.via, key])


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;")


def plans(conn: Connection[Any], plan: Plan, columns: tuple[DocumentColumn, ...]) -> dict[str, str]:
    """PostgreSQL's plans, as text: `keys` for the evaluation of some keys, `whole` for that of all.

    Args:
        conn: of the replica or the store, in a transaction that is rolled back: its settings are changed.
        plan: the compiled flow.
        columns: its output columns.

    Raises:
        FlowError: PostgreSQL refuses the SELECT.
    """
    types = {column.name: column.type for column in columns}
    statement = anchors_sql(plan, types)
    for number in range(len(plan.anchor)):
        statement = statement.replace(GIVEN, f"${number + 1}", 1)
    nothing = ", ".join("'{}'" for _ in plan.anchor)
    try:
        _set(conn, LOOKUPS)
        conn.execute(f"PREPARE instep_explain AS {statement}".encode())
        keys = _explain(conn, f"EXECUTE instep_explain({nothing})")
        conn.execute("DEALLOCATE instep_explain")
        _set(conn, SCANS)
        return {"keys": keys, "whole": _explain(conn, select_sql(plan))}
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as exc:
        words = (exc.diag.message_primary or str(exc)).rstrip(".")
        raise FlowError("RESOLVE", f"Flow {plan.flow.name} cannot be planned: {words}.") from None


def _set(conn: Connection[Any], settings: dict[str, str]) -> None:
    conn.execute("".join(f"SET LOCAL {name} = '{value}';" for name, value in settings.items()))


def _explain(conn: Connection[Any], sql: str) -> str:
    return "\n".join(str(line) for (line,) in conn.execute(f"EXPLAIN {sql}".encode()).fetchall())
