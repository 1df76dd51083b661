"""The plan guard on a real replica: what would read a whole large table in every batch is refused, and only that."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import FlowError
from instep.flowfile import Flow
from instep_streams.flows import guard
from instep_streams.flows.catalog import Column, Table
from instep_streams.flows.engine import Engine
from instep_streams.flows.session import open_state

ITEMS = Table("public", "items", (Column("id", "integer", True), Column("name", "text")), ("id",))
PRICES = Table("public", "prices", (Column("id", "integer", True), Column("item", "numeric")), ("id",))
GOOD = {
    "joined": "SELECT i.id, count(p.id) AS n FROM items i LEFT JOIN items p ON p.name = i.name GROUP BY i.id",
    "derived": "SELECT i.id, d.n FROM items i LEFT JOIN (SELECT id, count(*) AS n FROM prices GROUP BY id) d"
    " ON d.id = i.id",
    "ranked": "SELECT name AS id, max(r) AS r FROM (SELECT name, rank() OVER (PARTITION BY name ORDER BY id) AS r"
    " FROM items) x GROUP BY name",
    "top": "SELECT i.id, x.name FROM items i CROSS JOIN LATERAL"
    " (SELECT j.name FROM items j WHERE j.id = i.id ORDER BY j.id LIMIT 1) x",
}
SLOW = {
    "types": "SELECT i.id, count(p.id) AS n FROM items i LEFT JOIN prices p ON p.item = i.id GROUP BY i.id",
    "derived": "SELECT i.id, d.n FROM items i LEFT JOIN (SELECT name, count(*) AS n FROM items GROUP BY name) d"
    " ON d.name = i.name",
}


def flow(name: str, sql: str) -> Flow:
    return Flow(name=name, sql=sql, key=("id",))


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    return postgres.database()


@pytest.fixture
def engine(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(guard.guard, "__defaults__", (1_000,))
    made = Engine(open_state(dsn), "shop")
    made.ensure_tables([ITEMS, PRICES])
    yield made
    made.close()


def fill(dsn: str, rows: int) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO items SELECT i, 'n' || i / 2, 1 FROM generate_series(1, %s) i", (rows,))
        conn.execute("INSERT INTO prices SELECT i, i, 1 FROM generate_series(1, %s) i", (rows,))


def test_flows_that_find_their_rows_by_index_are_deployed(engine: Engine, dsn: str) -> None:
    fill(dsn, 3_000)
    engine.deploy({name: flow(name, sql) for name, sql in GOOD.items()})


@pytest.mark.parametrize("name", SLOW)
def test_a_flow_that_would_read_a_large_table_per_batch_is_refused(name: str, engine: Engine, dsn: str) -> None:
    fill(dsn, 3_000)
    with pytest.raises(FlowError) as caught:
        engine.deploy({"slow": flow("slow", SLOW[name])})
    assert caught.value.code == "SCAN"
    assert 'table "public.items": every batch would read all 3,000 rows of it' in str(caught.value)
    assert "Scan on " in str(caught.value)
    engine.deploy({"joined": flow("joined", GOOD["joined"])})


def test_a_flow_that_runs_already_goes_on_when_the_table_grows(engine: Engine, dsn: str) -> None:
    fill(dsn, 10)
    engine.deploy({"slow": flow("slow", SLOW["types"])})
    while engine.waiting:
        engine.slice()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("INSERT INTO items SELECT i, 'n', 1 FROM generate_series(11, 3000) i")
    engine.deploy({"slow": flow("slow", SLOW["types"])})
