"""A change that concerns many keys waits by itself: the others of its step do not, and its own are not forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.test_engine import drain, entry, keys

from instep.change import Op
from instep.flowfile import Flow
from instep_streams.flows import engine
from instep_streams.flows.catalog import Column, Table
from instep_streams.flows.engine import Engine
from instep_streams.flows.images import Anchor, divide
from instep_streams.flows.rows import RowChange
from instep_streams.flows.session import open_state

SUPPLIERS = Table("public", "suppliers", (Column("id", "integer", True), Column("name", "text")), ("id",))
PRODUCTS = Table(
    "public", "products", (Column("id", "integer", True), Column("name", "text"), Column("supplier_id", "integer")),
    ("id",),
)  # fmt: skip
CARD = Flow(
    name="card", key=("id",),
    sql="SELECT p.id, p.name, s.name AS supplier FROM products p JOIN suppliers s ON s.id = p.supplier_id",
)  # fmt: skip
MANY = 10


def supplier(id: int, name: str) -> RowChange:
    return RowChange("public.suppliers", Op.UPDATE, (str(id),), {"id": str(id), "name": name})


def product(id: int, name: str, supplier: int) -> RowChange:
    row = {"id": str(id), "name": name, "supplier_id": str(supplier)}
    return RowChange("public.products", Op.UPDATE, (str(id),), row)


@pytest.fixture
def dsn(postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A supplier of many products and one of a single one; a step takes three keys."""
    monkeypatch.setattr(engine, "SLICE", 3)
    dsn = postgres.database()
    made = opened(dsn)
    made.process([(entry(1), [supplier(1, "one"), supplier(2, "two"), product(MANY + 1, "other", 2)])])
    made.process([(entry(2), [product(number, "p", 1) for number in range(1, MANY + 1)])])
    made.deploy({"card": CARD})
    drain(made)
    made.close()
    yield dsn


def opened(dsn: str) -> Engine:
    made = Engine(open_state(dsn), "shop")
    made.ensure_tables([SUPPLIERS, PRODUCTS])
    return made


def test_others_go_through_beside_a_large_change(dsn: str) -> None:
    made = opened(dsn)
    made.deploy({"card": CARD})
    drain(made)
    batch = made.process([(entry(3), [supplier(1, "renamed"), product(MANY + 1, "changed", 2)])])
    assert keys(batch) == [(str(MANY + 1),)]
    assert made.waiting and made.progress.settled == 2
    assert keys(made.process([(entry(4), [supplier(2, "small")])])) == [(str(MANY + 1),)]
    # a key that waits and changes again comes at once, as it is now, and no second time
    (document,) = made.process([(entry(5), [product(5, "again", 1)])]).documents
    assert document.document == '{"id":5,"name":"again","supplier":"renamed"}'
    assert sorted(int(key) for (key,) in drain(made)) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert made.progress.settled == 5
    made.close()


def test_what_waits_is_not_forgotten_by_a_new_session(dsn: str) -> None:
    made = opened(dsn)
    made.deploy({"card": CARD})
    drain(made)
    made.process([(entry(3), [supplier(1, "renamed")])])
    made.close()
    made = opened(dsn)
    made.deploy({"card": CARD})
    assert len(drain(made)) == MANY
    made.close()


def test_the_smaller_sets_come_first_and_no_key_twice() -> None:
    large: set[Anchor] = {(str(each),) for each in range(10)}
    small: set[Anchor] = {("1",), ("a",)}
    other: set[Anchor] = {("b",)}
    assert divide([large, small, other], 4) == (small | other, large - small)
    assert divide([large, small], 20) == (large | small, set())
    assert divide([small, other], 0) == (set(), small | other)
    assert divide([], 5) == (set(), set())
