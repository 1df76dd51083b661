"""The plan guard: a flow whose statements would read a whole large table in every batch is refused at its deployment.

That a key is not pushed down to an index is silent otherwise: the documents are right, every batch takes a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from psycopg import Connection

from instep_streams.flows.catalog import Catalog, query
from instep_streams.flows.evaluate import Evaluation
from instep_streams.flows.refusals import refuse

SCAN_LIMIT: Final = 10_000
"""Rows above which a table must not be read as a whole."""
_INDEX_SCANS: Final = ("Index Scan", "Index Only Scan")
_PARAMETER: Final = re.compile(rb"%(s|%)")


def guard(conn: Connection[Any], evaluation: Evaluation, tables: Catalog, limit: int = SCAN_LIMIT) -> None:
    """Let PostgreSQL plan a flow's statements, on the seeded and analysed replica, with the worker's settings.

    Raises:
        FlowError: SCAN, naming the table and the plan's node.
    """
    plan = evaluation.plan
    sizes = _sizes(conn, tables, plan.tables)
    large = {name for name, rows in sizes.items() if rows > limit}
    if not large:
        return
    walks = [query(walk.sql) for name in plan.walks for walk in plan.walks[name] if walk.sql is not None]
    for statement in dict.fromkeys([evaluation.statement, *walks]):
        for table, node in _whole_scans(_explain(conn, statement)):
            if table in large:
                reason = f"every batch would read all {sizes[table]:,} rows of it ({node})"
                raise refuse("SCAN", f'Flow {plan.flow.name}: table "{table}"', reason)


def _sizes(conn: Connection[Any], tables: Catalog, names: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for name in names:
        row = conn.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (tables[name].sql,)).fetchone()
        found[name] = int(row[0]) if row else 0
    return found


def _explain(conn: Connection[Any], statement: bytes) -> Mapping[str, Any]:
    number = 0

    def named(found: re.Match[bytes]) -> bytes:
        nonlocal number
        if found[1] == b"%":
            return b"%"
        number += 1
        return b"$%d" % number

    explained = b"EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) " + _PARAMETER.sub(named, statement)
    (plans,) = conn.execute(explained).fetchone() or ([{"Plan": {}}],)
    root: Mapping[str, Any] = plans[0]["Plan"]
    return root


def _whole_scans(node: Mapping[str, Any], *, limited: bool = False) -> Iterator[tuple[str, str]]:
    """Table id and text of each node that reads a table without a condition on an index."""
    kind = node.get("Node Type", "")
    unbounded = kind == "Seq Scan" or (kind in _INDEX_SCANS and "Index Cond" not in node and not limited)
    if unbounded:
        condition = f", Filter: {node['Filter']}" if "Filter" in node else ""
        yield f"{node['Schema']}.{node['Relation Name']}", f"{kind} on {node['Alias']}{condition}"
    for each in node.get("Plans", ()):
        yield from _whole_scans(each, limited=limited or kind == "Limit")
