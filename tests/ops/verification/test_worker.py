"""A flow's SELECT on a real store, as the worker evaluates it."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import FlowError
from instep.flowfile import Flow
from instep_ops.verification.worker import evaluate

Store = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def dsn(postgres: PostgresForTests) -> str:
    made = postgres.database()
    with psycopg.connect(made) as conn:
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, at timestamptz, price numeric(9,2), tag text)")
        conn.execute(
            "INSERT INTO t VALUES (1, '2026-01-31 12:00+02', 1.50, 'a'), (2, NULL, 2, 'a'), (3, NULL, 3, NULL)"
        )
    return made


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    with psycopg.connect(dsn, options="-c TimeZone=Asia/Tokyo -c search_path=pg_catalog") as conn:
        yield conn


def flow(sql: str, *key: str) -> Flow:
    return Flow(name="f", sql=sql, key=key or ("id",))


def test_rows_by_key_whatever_the_roles_settings(store: Store) -> None:
    found = evaluate(store, flow("SELECT id, at, price FROM t WHERE id = 1; -- done"))
    assert found == {("1",): '{"id":1,"at":"2026-01-31T10:00:00+00:00","price":1.50}'}


def test_a_key_of_several_columns(store: Store) -> None:
    assert list(evaluate(store, flow("SELECT tag, id FROM t WHERE id < 3 ORDER BY 2", "id", "tag"))) == [
        ("1", "a"), ("2", "a"),
    ]  # fmt: skip


def test_a_row_without_a_key_is_no_document(store: Store) -> None:
    assert list(evaluate(store, flow("SELECT tag FROM t WHERE id > 1", "tag"))) == [("a",)]


@pytest.mark.parametrize("name", ["d", "row_to_json", "*", "select"])
def test_any_name_of_an_output_column(name: str, store: Store) -> None:
    assert evaluate(store, flow(f'SELECT id AS "{name}" FROM t WHERE id = 1', name)) == {("1",): f'{{"{name}":1}}'}


@pytest.mark.parametrize(
    ("sql", "key", "told"),
    [
        ("SELECT tag FROM t WHERE id < 3", "tag", "not unique"),
        ("SELECT nope FROM t", "nope", "does not exist"),
        ("SELECT id FROM missing", "id", "does not exist"),
        ("SELECT 1/(id - 1) AS id FROM t", "id", "division by zero"),
    ],
)
def test_what_is_wrong_is_one_sentence(sql: str, key: str, told: str, store: Store) -> None:
    with pytest.raises(FlowError, match=told) as caught:
        evaluate(store, flow(sql, key))
    assert "\n" not in str(caught.value)
