"""The engine on a real state database: refusals that PostgreSQL finds, TOAST, keys, schema changes, faults."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.change import ABSENT, Op, Position, Row, Value
from instep.errors import FlowError, StateError
from instep.flowfile import Flow
from instep.journal import JournalEntry
from instep_streams.flows import progress
from instep_streams.flows.batch import Batch
from instep_streams.flows.catalog import Column, Table
from instep_streams.flows.engine import Engine
from instep_streams.flows.locality import AGGREGATES
from instep_streams.flows.rows import RowChange
from instep_streams.flows.session import open_state

ITEMS = Table(
    "public", "items",
    (Column("id", "integer", True), Column("name", "text"), Column("body", "text"), Column("made", "timestamptz")),
    ("id",),
)  # fmt: skip


def flow(sql: str = "SELECT id, name, body FROM items", *key: str, name: str = "f") -> Flow:
    return Flow(name=name, sql=sql, key=key or ("id",))


def entry(number: int, *, more: bool = False) -> JournalEntry:
    at = Position(1, number, 0)
    return JournalEntry("shop", number, 1, "1", 1, at, at, number, number, {}, {}, more=more)


def row(id: int, op: Op = Op.CREATE, moved_from: int | None = None, **values: Value) -> RowChange:
    after: Row = {"id": str(id), "name": None, "body": None, "made": None} | values
    old = None if moved_from is None else (str(moved_from),)
    return RowChange("public.items", op, (str(id),), None if op is Op.DELETE else after, old)


@contextmanager
def engine(dsn: str) -> Iterator[Engine]:
    made = Engine(open_state(dsn), "shop")
    try:
        made.ensure_tables([ITEMS])
        yield made
    finally:
        made.close()


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    return postgres.database()


def drain(made: Engine) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    while made.waiting:
        found += keys(made.slice())
    return found


def keys(batch: Batch) -> list[tuple[str, ...]]:
    return [each.key for each in batch.documents]


REFUSED = [
    ("VOLATILE", "SELECT id, random() AS r FROM items"),
    ("VOLATILE", "SELECT id, gen_random_uuid() AS r FROM items"),
    ("VOLATILE", "SELECT id, age(made) AS r FROM items"),
    ("VOLATILE", "SELECT id, pg_relation_size('items') AS r FROM items"),
    ("RESOLVE", "SELECT id, no_such_function(name) AS r FROM items"),
    ("RESOLVE", "SELECT id, name + 1 AS r FROM items"),
    ("OUTPUT", "SELECT id, name, body AS name FROM items"),
    ("OUTPUT", "SELECT id, name || body FROM items"),
    ("KEY_EXPR", "SELECT date_trunc('day', made) AS id, count(*) AS n FROM items GROUP BY date_trunc('day', made)"),
]


@pytest.mark.parametrize(("code", "sql"), REFUSED)
def test_refused_by_postgresql_s_own_reading(code: str, sql: str, dsn: str) -> None:
    with engine(dsn) as made, pytest.raises(FlowError) as caught:
        made.deploy({"f": flow(sql)})
    assert caught.value.code == code, str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_are_pinned_so_stable_functions_are_allowed(dsn: str) -> None:
    with engine(dsn) as made:
        made.deploy({"f": flow("SELECT id, to_char(made, 'YYYY') AS y, made + interval '1 day' AS d FROM items")})


def test_the_aggregates_are_postgresql_s(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "SELECT DISTINCT proname FROM pg_proc WHERE prokind = 'a' AND pronamespace = 'pg_catalog'::regnamespace"
        ).fetchall()
    assert {name for (name,) in rows} <= AGGREGATES


def test_an_unchanged_toast_column_keeps_its_stored_value(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, body="long")])])
        made.deploy({"f": flow()})
        drain(made)
        batch = made.process([(entry(2), [row(1, Op.UPDATE, name="n", body=ABSENT)])])
        assert batch.documents[0].document == '{"id":1,"name":"n","body":"long"}'


def test_a_key_change_takes_unchanged_values_along(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, body="one"), row(2, body="two")])])
        made.deploy({"f": flow()})
        drain(made)
        moved = [row(1, Op.DELETE), row(3, moved_from=1, body=ABSENT)]
        again = [row(2, Op.UPDATE, name="n", body=ABSENT), row(2, Op.DELETE), row(4, moved_from=2, body=ABSENT)]
        batch = made.process([(entry(2), [*moved, *again])])
        found = {each.key: each.document for each in batch.documents}
        assert found == {
            ("1",): None, ("2",): None, ("3",): '{"id":3,"name":null,"body":"one"}',
            ("4",): '{"id":4,"name":null,"body":"two"}',
        }  # fmt: skip


def test_a_value_that_is_nowhere_stops_the_worker(dsn: str) -> None:
    with engine(dsn) as made:
        with pytest.raises(StateError, match="lacks a row"):
            made.process([(entry(1), [row(1, Op.UPDATE, body=ABSENT)])])
        assert made.progress.entry == 0


def test_a_missing_entry_stops_the_worker(dsn: str) -> None:
    with engine(dsn) as made, pytest.raises(StateError, match=r"goes on with entry 2; the replica needs 1"):
        made.process([(entry(2), [])])


def test_documents_wait_for_the_end_of_the_transaction(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name="a")])])
        made.deploy({"f": flow()})
        drain(made)
        assert keys(made.process([(entry(2, more=True), [row(1, Op.UPDATE, name="b")])])) == []
        assert not made.waiting and made.progress.settled == 1
        made.process([(entry(3), [row(2)])])
        assert sorted([*drain(made), ("2",)]) == [("1",), ("2",)]
        assert made.progress.settled == 3


def test_two_rows_with_one_key_are_a_fault_of_that_key_only(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name="a"), row(2, name="a"), row(3, name="c")])])
        made.deploy({"f": flow("SELECT name, id FROM items", "name")})
        assert drain(made) == [("c",)]
        assert made.fault("f").startswith("Flow f, key (name): two rows")
        batch = made.process([(entry(2), [row(2, Op.DELETE)])])
        assert keys(batch) == [("a",)]


def test_a_changed_key_needs_a_new_name(dsn: str) -> None:
    with engine(dsn) as made:
        made.deploy({"f": flow()})
        with pytest.raises(FlowError) as caught:
            made.deploy({"f": flow("SELECT id::bigint AS id, name FROM items")})
        assert caught.value.code in ("KEY_CHANGED", "KEY_EXPR")
        with pytest.raises(FlowError) as caught:
            made.deploy({"f": flow("SELECT name, id FROM items", "name")})
        assert caught.value.code == "KEY_CHANGED"


def test_a_column_that_appears_and_one_whose_type_changes(dsn: str) -> None:
    wider = replace(
        ITEMS, columns=(Column("id", "bigint", True), *ITEMS.columns[1:], Column("n", "integer", default="7"))
    )
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name="a")])])
        made.deploy({"f": flow()})
        drain(made)
        assert made.ensure_tables([wider]) == {"public.items"}
        assert made.ensure_tables([wider]) == set()
        made.deploy({"g": flow("SELECT name, n, id FROM items", "name", name="g")})
        drain(made)
        batch = made.process([(entry(2), [row(9876543210, name="b", n="1")])])
        assert batch.documents[0].document == '{"name":"b","n":1,"id":9876543210}'
        batch = made.process([(entry(3), [row(1, Op.UPDATE, name="c")])])
        assert {each.document for each in batch.documents} == {None, '{"name":"c","n":7,"id":1}'}
        assert made.ensure_tables([replace(wider, columns=wider.columns[:-1])]) == set()  # dropped in the store: kept
        assert "n" in made.tables["public.items"]


def test_enums_domains_and_unknown_types(dsn: str) -> None:
    columns = (
        Column("id", "integer", True), Column("stage", "crm.stage", labels=("a", "c")),
        Column("stages", "crm.stage[]", labels=("a", "c")), Column("price", "crm.price", base="numeric(5,2)"),
        Column("shape", "geometry"),
    )  # fmt: skip
    table = Table("crm", "t", columns, ("id",))
    with engine(dsn) as made:
        made.ensure_tables([table])
        grown = replace(columns[1], labels=("a", "b", "c"))
        made.ensure_tables([replace(table, columns=(columns[0], grown, *columns[2:]))])
        values = {"id": "1", "stage": "b", "stages": "{a,b}", "price": "1.5", "shape": "x"}
        made.process([(entry(1), [RowChange("crm.t", Op.CREATE, ("1",), values)])])
        made.deploy({"f": flow("SELECT id, stage, stages, price, stage < 'c' AS early FROM crm.t")})
        assert made.slice().documents == []
        (found,) = made.slice().documents
        assert found.document == '{"id":1,"stage":"b","stages":["a","b"],"price":1.50,"early":true}'
        with pytest.raises(FlowError) as caught:
            made.deploy({"f": flow("SELECT id, shape FROM crm.t")})
        assert caught.value.code == "TYPE"


def test_many_dirty_keys_are_evaluated_in_slices(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(number, name="1") for number in range(2500)])])
        made.deploy({"f": flow()})
        assert len(drain(made)) == 2500
        changed = [row(number, Op.UPDATE, name="2") for number in range(2500)]
        made.process([(entry(2, more=True), changed)])
        assert keys(made.process([(entry(3), [row(2500)])])) == [("2500",)]
        first = made.slice(1000)
        assert len(first.documents) == 1000 and made.progress.settled == 1
        assert len(drain(made)) == 1500 and made.progress.settled == 3


PARTED = (
    "SELECT i.id, d.n FROM items i JOIN (SELECT a.name, count(*) AS n FROM items a JOIN items b ON b.id = a.id"
    " GROUP BY a.name) d ON d.name = i.name"
)


@pytest.mark.parametrize("meanwhile", [{}, {"f": flow("SELECT id, 0::int8 AS n FROM items")}])
def test_an_intermediate_result_that_nobody_kept_up_is_made_anew(meanwhile: dict[str, Flow], dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name="a")])])
        made.deploy({"f": flow(PARTED)})
        assert made.parts
        drain(made)
        made.deploy(meanwhile)
        made.process([(entry(2), [row(2, name="a"), row(3, name="a")])])
        drain(made)
        made.deploy({"f": flow(PARTED)})
        drain(made)
        made.process([(entry(3), [row(1, Op.UPDATE, name="a", body="touched"), row(4, name="a")])])
        drain(made)
        assert {str(each.document) for each in made.unsent(0).documents} == {
            f'{{"id":{n},"n":4}}' for n in (1, 2, 3, 4)
        }


def test_one_failing_key_of_a_table_in_a_schema_with_a_dot_holds_up_no_other(dsn: str) -> None:
    table = replace(ITEMS, schema="we.st")
    with engine(dsn) as made:
        made.ensure_tables([table])
        made.process([(entry(1), [row(n, name=str(n))._replace(table=table.id) for n in (0, 1, 2)])])
        made.deploy({"f": flow('SELECT id, 10 / name::int AS share FROM "we.st".items')})
        assert sorted(drain(made)) == [("1",), ("2",)]
        assert "division by zero" in made.fault("f")


def test_an_unsent_document_that_cannot_be_made_any_more_holds_up_no_other(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name="1"), row(2, name="2")])])
        made.deploy({"f": flow("SELECT id, 10 / name::int AS share FROM items")})
        drain(made)
        sent = made.progress.batch
        made.process([(entry(2), [row(1, Op.UPDATE, name="5"), row(2, Op.UPDATE, name="10")])])
        made.process([(entry(3), [row(1, Op.UPDATE, name="0")])])
        drain(made)
    with engine(dsn) as made:
        made.deploy({"f": flow("SELECT id, 10 / name::int AS share FROM items")})
        assert keys(made.unsent(sent)) == [("2",)]
        assert "division by zero" in made.fault("f")
        made.process([(entry(4), [row(1, Op.UPDATE, name="5")])])  # the very document that was never sent
        found = [each for each in made.unsent(sent).documents if each.key == ("1",)]
        assert [str(each.document) for each in found] == ['{"id":1,"share":2}']
        drain(made)
        assert made.fault("f") == ""


def test_what_the_topic_holds_is_asked_for_until_it_was_taken(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1)])])
        assert made.deploy({"f": flow()}) == {"f"}
    with engine(dsn) as made:
        assert made.deploy({"f": flow()}) == {"f"}
        made.adopt("f", [])
    with engine(dsn) as made:
        assert made.deploy({"f": flow()}) == set()
        assert progress.generation(made._conn, "shop") == 0
        made.start_above(made.progress.batch + 1)
        assert progress.generation(made._conn, "shop") == progress.NOT_ADOPTED


def noise(length: int) -> str:
    """A text that hardly compresses."""
    return "".join(hashlib.sha256(str(n).encode()).hexdigest() for n in range(length // 64))


@pytest.mark.parametrize(
    "length", [6_400, 64_000]
)  # an entry of the first is refused by the index, of the second before
@pytest.mark.parametrize("on", ["j.name = i.name", "j.name = i.name AND j.body = i.body"])
def test_a_value_too_long_for_an_index_entry_is_joined_by(length: int, on: str, dsn: str) -> None:
    pairs = flow(f"SELECT i.id, count(j.id) AS alike FROM items i LEFT JOIN items j ON {on} GROUP BY i.id")
    name = noise(length)
    with engine(dsn) as made:
        made.process([(entry(1), [row(1)])])
        made.deploy({"f": pairs})
        drain(made)
        made.process([(entry(2), [row(2, name=name, body="b"), row(3, name=name, body="b")])])
        drain(made)
        found = made.process([(entry(3), [row(4, name=name, body="b")])]).documents + made.slice().documents
        assert {each.key: each.document for each in found}[("2",)] == '{"id":2,"alike":3}'
    with engine(dsn) as made:  # and indexed when it is there already
        made.deploy({"f": pairs, "again": pairs.model_copy(update={"name": "again"})})
        assert ("4",) in drain(made)


def test_a_value_too_long_is_there_before_the_index(dsn: str) -> None:
    with engine(dsn) as made:
        made.process([(entry(1), [row(1, name=noise(64_000)), row(2, name=noise(64_000))])])
        made.deploy({"f": flow("SELECT i.id, count(j.id) AS n FROM items i JOIN items j USING (name) GROUP BY i.id")})
        assert sorted(drain(made)) == [("1",), ("2",)]


def test_the_server_notices_that_a_workers_machine_is_gone(dsn: str) -> None:
    conn = open_state(dsn)
    try:
        assert conn.execute("SHOW tcp_keepalives_idle").fetchone() == ("30",)
        assert conn.info.get_parameters()["keepalives_idle"] == "30"
    finally:
        conn.close()
