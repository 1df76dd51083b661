"""A snapshot's rows enter by COPY where nothing is held, and by the position rule everywhere else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep import failpoints
from instep.change import ABSENT, Op, Position, Row, Value
from instep.flowfile import Flow
from instep.journal import JournalEntry
from instep_streams.flows.catalog import Column, Table
from instep_streams.flows.engine import Engine
from instep_streams.flows.rows import RowChange
from instep_streams.flows.session import open_state

ITEMS = Table(
    "public", "items", (Column("id", "integer", True), Column("name", "text"), Column("code", "character(3)")), ("id",)
)
NOTED = """
CREATE TABLE noted (seen text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN INSERT INTO public.noted VALUES (ltrim(current_query())); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT ON items EXECUTE FUNCTION note();
"""
"""The server itself says which statements brought rows; those of a savepoint that was rolled back are gone."""


@contextmanager
def engine(dsn: str) -> Iterator[Engine]:
    with closing(Engine(open_state(dsn), "shop")) as made:
        made.ensure_tables([ITEMS])
        yield made


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    dsn = postgres.database()
    with engine(dsn), psycopg.connect(dsn) as conn:
        conn.execute(NOTED.encode())
    return dsn


def read(id: int, **values: Value) -> RowChange:
    row: Row = {"id": str(id), "name": "n", "code": None} | values
    return RowChange("public.items", Op.READ, (str(id),), row)


def written(id: int, op: Op, name: str = "newer") -> RowChange:
    row: Row | None = None if op is Op.DELETE else {"id": str(id), "name": name, "code": None}
    return RowChange("public.items", op, (str(id),), row)


def process(made: Engine, *entries: Sequence[RowChange]) -> None:
    for number, changes in enumerate(entries, made.progress.entry + 1):
        made.process([(journal(number), changes)])


def journal(number: int) -> JournalEntry:
    at = Position(1, number, 0)
    return JournalEntry("shop", number, 1, "1", 1, at, at, number, number, {}, {})


def statements(dsn: str) -> list[str]:
    with psycopg.connect(dsn) as conn:
        return [seen.split()[0] for (seen,) in conn.execute("SELECT seen FROM noted")]


def held(dsn: str) -> list[tuple[int, str | None, str | None]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT id, name, code FROM items ORDER BY id").fetchall()


def test_rows_of_a_snapshot_are_copied(dsn: str) -> None:
    odd = ["\\N", "a\tb\nc\\", "", "ü", None]
    with engine(dsn) as made:
        process(made, [read(n, name=name) for n, name in enumerate(odd)], [read(9, code="x")])
    assert statements(dsn) == ["COPY", "COPY"]
    assert held(dsn) == [*((n, name, None) for n, name in enumerate(odd)), (9, "n", "x  ")]


@pytest.mark.parametrize("name", ["plain", "\\N", "\\.", "a\tb", "a\nb", "a\rb", "a\\tb", "\n\t"])
def test_rows_without_a_null_are_copied_as_they_are(name: str, dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [read(1, name="first", code="abc"), read(2, name=name, code="abc")])
    assert statements(dsn) == ["COPY"]
    assert held(dsn) == [(1, "first", "abc"), (2, name, "abc")]


def test_a_row_that_is_held_is_replaced_by_the_position_rule(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [written(1, Op.CREATE, "old")], [read(1), read(2), read(2, name="again")])
    assert statements(dsn) == ["WITH", "WITH"]
    assert held(dsn) == [(1, "n", None), (2, "again", None)]


def test_a_newer_row_stays_when_older_entries_are_applied_again(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [], [written(1, Op.CREATE)])
        made.repeat([(journal(1), [read(1), read(2)])])
    assert held(dsn) == [(1, "newer", None), (2, "n", None)]


def test_a_deleted_row_does_not_come_back(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [], [written(1, Op.DELETE)])
        made.repeat([(journal(1), [read(1), read(2)])])
    assert statements(dsn) == ["WITH"]
    assert held(dsn) == [(2, "n", None)]


def test_rows_with_other_changes_are_applied_in_order(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [read(1), read(2), written(1, Op.UPDATE), written(2, Op.DELETE)])
    assert "COPY" not in statements(dsn)
    assert held(dsn) == [(1, "newer", None)]


def test_a_row_without_every_column_is_not_copied(dsn: str) -> None:
    without = RowChange("public.items", Op.READ, ("2",), {"id": "2", "name": "n"})
    with engine(dsn) as made:
        process(made, [written(1, Op.CREATE)], [read(1, name=ABSENT, code="y")], [read(3), without])
    assert "COPY" not in statements(dsn)
    assert held(dsn) == [(1, "newer", "y  "), (2, "n", None), (3, "n", None)]


def test_what_copy_refuses_is_decided_by_the_statement_that_replaces_rows(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, [read(1, code="long")])  # a cast cuts it off, COPY refuses it
        with pytest.raises(psycopg.DataError, match="invalid input syntax for type integer"):
            process(made, [RowChange("public.items", Op.READ, ("x",), {"id": "x", "name": None, "code": None})])
    assert held(dsn) == [(1, "n", "lon")]


def test_a_table_that_refuses_again_and_again_is_no_longer_tried(dsn: str) -> None:
    with engine(dsn) as made:
        process(made, *([read(1), read(number)] for number in range(2, 6)), [read(7)])
    assert statements(dsn) == ["COPY", "WITH", "WITH", "WITH", "WITH"]
    assert [row[0] for row in held(dsn)] == [1, 2, 3, 4, 5, 7]


def test_a_table_that_a_flow_reads_is_not_filled_behind_its_back(dsn: str) -> None:
    with engine(dsn) as made:
        made.deploy({"f": Flow(name="f", sql="SELECT id, name FROM items", key=("id",))})
        while made.waiting:
            made.slice()
        at = Position(1, 1, 0)
        batch = made.process([(JournalEntry("shop", 1, 1, "1", 1, at, at, 1, 1, {}, {}), [read(1)])])
    assert [each.key for each in batch.documents] == [("1",)]
    assert statements(dsn) == ["WITH"]


@pytest.mark.parametrize("point", ["applied", "committed"])
def test_a_seed_that_is_cut_off_goes_on(point: str, dsn: str) -> None:
    parts = [[read(n) for n in range(at, at + 10)] for at in range(0, 50, 10)]
    with engine(dsn) as made:
        process(made, *parts[:2])
        failpoints.arm(f"worker.{point}=raise")
        try:
            with pytest.raises(failpoints.FailpointHit):
                process(made, parts[2])
        finally:
            failpoints.arm("")
    with engine(dsn) as made:
        assert made.progress.entry == (2 if point == "applied" else 3)
        process(made, *parts[made.progress.entry :])
    assert statements(dsn) == ["COPY"] * 5
    assert [row[0] for row in held(dsn)] == list(range(50))
