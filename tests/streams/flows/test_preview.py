"""What deploying a flow would do, evaluated on a replica that stays as it is."""

from __future__ import annotations

import json

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.test_engine import drain, engine, entry, flow, row

from instep.change import Op
from instep.errors import StateError
from instep_streams.flows.preview import Preview, Sample, preview


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    """A state with items 1 to 4 and two live flows, `f` and `g`."""
    made = postgres.database()
    with engine(made) as state:
        state.process([(entry(1), [row(n, name=f"n{n}", body="b") for n in range(1, 6)])])
        state.deploy({"f": flow("SELECT id, name FROM items WHERE id <= 4"), "g": flow(name="g")})
        drain(state)
        state.process([(entry(2), [row(5, Op.DELETE)])])
    return made


def one(dsn: str, sql: str, *key: str, name: str = "f", samples: int = 3) -> Preview:
    found = preview(dsn, "shop", {name: flow(sql, *key, name=name), "g": flow(name="g")}, samples)
    return next(each for each in found if each.name == name)


def counts(found: Preview) -> tuple[str, int, int, int]:
    return found.state, found.added, found.changed, found.removed


def held(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        tables = conn.execute("SELECT relname FROM pg_class WHERE relnamespace = 'instep'::regnamespace ORDER BY 1")
        return [*tables.fetchall(), *conn.execute("SELECT * FROM instep.flows ORDER BY id").fetchall()]


def test_what_has_not_changed(dsn: str) -> None:
    found = one(dsn, "SELECT id, name FROM items WHERE id <= 4")
    assert counts(found) == ("same", 0, 0, 0)
    assert found.version == found.deployed != ""


def test_a_changed_select(dsn: str) -> None:
    before = held(dsn)
    found = one(dsn, "SELECT id, CASE id WHEN 2 THEN 'new' ELSE name END AS name FROM items WHERE id > 1", samples=1)
    # 2 differs, 1 vanishes; 3 and 4 stay as they are
    assert counts(found) == ("changed", 0, 1, 1)
    assert found.version != found.deployed != ""
    assert {s.key: s.known for s in found.samples} == {("2",): True, ("1",): True}
    assert {s.key: s.document and json.loads(s.document) for s in found.samples} == {
        ("2",): {"id": 2, "name": "new"}, ("1",): None,
    }  # fmt: skip
    assert held(dsn) == before, "nothing is kept"


def test_another_condition_adds_documents(dsn: str) -> None:
    assert counts(one(dsn, "SELECT id, name FROM items")) == ("changed", 0, 0, 0)
    assert counts(one(dsn, "SELECT id + 1 AS id, name FROM items")) == ("changed", 1, 3, 1)


def test_a_new_flow(dsn: str) -> None:
    found = one(dsn, "SELECT id, name FROM items WHERE name LIKE 'n%'", name="h", samples=2)
    assert counts(found) == ("new", 4, 0, 0)
    assert [s for s in found.samples] == [
        Sample(("1",), '{"id":1,"name":"n1"}', False), Sample(("2",), '{"id":2,"name":"n2"}', False),
    ]  # fmt: skip
    assert json.loads(found.schema)["namespace"] == "flow.h"


def test_a_removed_flow(dsn: str) -> None:
    found = preview(dsn, "shop", {"f": flow("SELECT id, name FROM items WHERE id <= 4")})
    assert [(each.name, each.state) for each in found] == [("f", "same"), ("g", "removed")]


@pytest.mark.parametrize(
    ("sql", "key", "told"),
    [
        ("SELECT id, nope FROM items", "id", "nope"),
        ("SELECT id::text AS id, name FROM items", "id", "key"),
        ("SELECT name, id FROM items", "name", "key"),
        ("SELECT id, 1 / (id - 3) AS x FROM items", "id", "division by zero"),
    ],
)
def test_what_is_refused_holds_up_no_other(sql: str, key: str, told: str, dsn: str) -> None:
    found = {each.name: each for each in preview(dsn, "shop", {"f": flow(sql, key), "g": flow(name="g")})}
    assert found["f"].state == "refused" and told in found["f"].fault
    assert found["f"].deployed and found["g"].state == "same"


def test_a_key_that_is_not_unique(dsn: str) -> None:
    found = one(dsn, "SELECT body, id FROM items", "body", name="h")
    assert found.state == "refused" and "two rows" in found.fault


def test_without_a_replica_there_is_nothing_to_say(postgres: PostgresForTests) -> None:
    assert preview(postgres.database(), "shop", {"f": flow()}) == []


def test_a_state_that_does_not_answer() -> None:
    with pytest.raises((ConnectionError, StateError)):
        preview("postgresql://127.0.0.1:1/x", "shop", {})


def test_a_flow_on_a_source_whose_rows_are_not_there_yet_is_left_out(dsn: str) -> None:
    flows = {
        "g": flow(name="g"),
        "both": flow("SELECT i.id, n.body FROM items i JOIN crm.notes n USING (id)", name="both"),
    }
    told = {each.name: (each.state, each.code) for each in preview(dsn, "shop", flows)}
    assert told == {"both": ("refused", "UNKNOWN_TABLE"), "f": ("removed", ""), "g": ("same", "")}
    assert [each.name for each in preview(dsn, "shop", flows, joined=["crm"])] == ["f", "g"]
