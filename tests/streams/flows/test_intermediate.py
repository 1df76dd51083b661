"""Which parts of a SELECT are kept as intermediate results."""

from __future__ import annotations

import pytest

from instep.flowfile import Flow
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import Column, Table, catalog_of
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.intermediate import Split, split
from instep_streams.flows.pace import Pace


def table(called: str, **columns: str) -> Table:
    return Table("public", called, tuple(Column(each, kind) for each, kind in columns.items()), ("id",))


CATALOG = catalog_of(
    [
        table("products", id="bigint", name="text", category="text"),
        table("orders", id="bigint", status="text"),
        table("lines", id="bigint", order_id="bigint", product_id="bigint", qty="numeric"),
    ]
)
OPEN = "SELECT l.product_id, count(*) AS n FROM lines l JOIN orders o ON o.id = l.order_id GROUP BY l.product_id"


def describe(plan: Plan) -> tuple[DocumentColumn, ...]:
    return tuple(DocumentColumn(name, "bigint") for name in ("product_id", "n"))


def parts(sql: str, key: str = "id") -> Split | None:
    plan = compile_flow(Flow(name="f", sql=sql, key=(key,)), CATALOG)
    return split(plan, (DocumentColumn(key, "bigint"),), CATALOG, describe, "part_1")


@pytest.mark.parametrize(
    "sql",
    [
        f"SELECT p.id, d.n FROM products p LEFT JOIN ({OPEN}) d ON d.product_id = p.id",
        f"WITH d AS ({OPEN}) SELECT p.id, d.n FROM products p JOIN d ON d.product_id = p.id",
        f"SELECT p.id FROM products p WHERE p.id IN (SELECT product_id FROM ({OPEN}) AS d WHERE d.n > 1)",
    ],
)
def test_an_aggregate_over_several_tables_is_kept_by_what_reaches_it(sql: str) -> None:
    found = parts(sql)
    assert found is not None
    assert [each.plan.sql for each in found.parts] == [OPEN]
    assert found.parts[0].plan.anchor == ("product_id",)
    assert 'SELECT "product_id", "n" FROM "instep"."part_1_0"' in found.plan.sql
    assert "lines" not in found.plan.sql


@pytest.mark.parametrize(
    "sql",
    [
        # correlated: another text for each row
        "SELECT p.id, (SELECT count(*) FROM lines l JOIN orders o ON o.id = l.order_id WHERE l.product_id = p.id) AS n"
        " FROM products p",
        # one table: reading it again costs as much
        "SELECT p.id, d.n FROM products p LEFT JOIN (SELECT product_id, count(*) AS n FROM lines GROUP BY 1) d"
        " ON d.product_id = p.id",
        # makes no fewer rows
        "SELECT p.id, d.status FROM products p LEFT JOIN (SELECT l.product_id, o.status FROM lines l JOIN orders o"
        " ON o.id = l.order_id) d ON d.product_id = p.id",
        # another table is reached through it
        "SELECT p.id, o.status FROM products p LEFT JOIN (SELECT l.product_id, max(l.order_id) AS last FROM lines l"
        " JOIN orders o ON o.id = l.order_id GROUP BY 1) d ON d.product_id = p.id LEFT JOIN orders o ON o.id = d.last",
        # the flow's own rows come from it
        f"SELECT d.product_id AS id, d.n FROM ({OPEN}) d",
        # it names a CTE, which a captured table is also called
        "WITH orders AS (SELECT id FROM products) SELECT p.id, d.n FROM products p JOIN (SELECT l.product_id,"
        " count(*) AS n FROM lines l JOIN orders ON orders.id = l.product_id GROUP BY 1) d ON d.product_id = p.id",
        # its order would be lost
        f"SELECT p.id, d.n FROM products p LEFT JOIN ({OPEN} ORDER BY 1) d ON d.product_id = p.id",
    ],
)
def test_where_any_doubt_is_left_the_flow_does_without(sql: str) -> None:
    assert parts(sql) is None


def test_a_step_has_as_many_keys_as_take_its_time() -> None:
    pace = Pace()
    first = pace.count("f")
    pace.took("f", first, 0.5)
    assert pace.count("f") == first // 10
    pace.took("f", first // 10, 0.001)
    assert pace.count("f") == first // 5
    for _ in range(9):
        pace.took("f", pace.count("f"), 0.0)
    assert pace.count("f") == 1_000
    assert pace.count("g") == first
