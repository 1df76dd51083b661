from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.relation import Relation, ReplicaIdentity, TypeKind
from instep_connectors.postgres.catalog import Catalog, Connection
from instep_connectors.postgres.pgoutput import RelationColumn, RelationMessage
from instep_connectors.postgres.session import connect


@pytest.fixture
def store(postgres: PostgresForTests) -> Iterator[Connection]:
    with connect(postgres.database(), "test") as conn:
        conn.execute("SET search_path = public, pg_catalog")
        yield conn
        conn.execute("SET search_path = pg_catalog")


def oid(store: Connection, table: str) -> int:
    row = store.execute("SELECT %s::regclass::oid::bigint", (table,)).fetchone()
    assert row is not None
    return int(row[0])


def relation(store: Connection, table: str) -> Relation:
    number = oid(store, table)
    store.execute("SET search_path = pg_catalog")
    try:
        return Catalog(store).relations({number: None})[number]
    finally:
        store.execute("SET search_path = public, pg_catalog")


def test_types_are_resolved_down_to_their_elements(store: Connection) -> None:
    store.execute("CREATE TYPE state AS ENUM ('new', 'old'); ALTER TYPE state ADD VALUE 'middle' BEFORE 'old'")
    store.execute("CREATE DOMAIN amount AS numeric(9,3) NOT NULL")
    store.execute("CREATE TABLE t (id serial PRIMARY KEY, s state DEFAULT 'new', l state[], d amount, r int4range,"
                  " m int4multirange, v varchar(20) NOT NULL, n numeric(10,2), o oidvector)")  # fmt: skip
    columns = {column.name: column for column in relation(store, "t").columns}
    assert columns["s"].type.labels == ("new", "middle", "old")
    assert columns["s"].sql_type == "public.state" and columns["s"].default == "'new'::public.state"
    assert (columns["l"].type.kind, columns["l"].type.element) == (TypeKind.ARRAY, columns["s"].type)
    domain = columns["d"].type
    assert domain.kind is TypeKind.DOMAIN and domain.element is not None and domain.element.name == "numeric"
    assert domain.modifier == ((9 << 16) | 3) + 4 and columns["d"].not_null
    assert columns["r"].type.element == columns["id"].type
    assert columns["m"].type.element == columns["r"].type
    assert columns["v"].sql_type == "character varying(20)" and columns["v"].not_null
    assert columns["o"].type.kind is TypeKind.BASE  # looks like an array, but is written otherwise
    assert "nextval" in (columns["id"].default or "")


@pytest.mark.parametrize(
    ("statements", "key", "identity", "primary"),
    [
        ("CREATE TABLE t (b int, a int, PRIMARY KEY (a, b))", ("a", "b"), {"a", "b"}, True),
        ("CREATE TABLE t (a int NOT NULL, b int NOT NULL UNIQUE, c int UNIQUE)", ("b",), set(), False),
        ("CREATE TABLE t (a int)", (), set(), False),
        ("CREATE TABLE t (a int PRIMARY KEY, b int); ALTER TABLE t REPLICA IDENTITY FULL", ("a",), {"a", "b"}, True),
        ("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL); CREATE UNIQUE INDEX i ON t (b);"
         "ALTER TABLE t REPLICA IDENTITY USING INDEX i", ("b",), {"b"}, False),
        ("CREATE TABLE t (a int NOT NULL, b int NOT NULL); CREATE UNIQUE INDEX ON t (a) WHERE b > 0", (), set(), False),
        ("CREATE TABLE t (a int, b int, PRIMARY KEY (a) INCLUDE (b))", ("a",), {"a"}, True),
    ],
)  # fmt: skip
def test_the_key_is_what_deletes_can_name(
    store: Connection, statements: str, key: tuple[str, ...], identity: set[str], primary: bool
) -> None:
    store.execute(statements)
    found = relation(store, "t")
    assert found.key == key
    assert {column.name for column in found.columns if column.identity} == identity
    assert found.primary_key is primary


def test_a_relation_message_wins_over_a_newer_catalog(store: Connection) -> None:
    store.execute("CREATE TABLE t (id int PRIMARY KEY, a int NOT NULL DEFAULT 5, added text)")
    number = oid(store, "t")
    message = RelationMessage(
        number, "public", "t", "d",
        (RelationColumn("id", 23, -1, 1), RelationColumn("a", 25, -1, 0), RelationColumn("dropped", 23, -1, 0)),
    )  # fmt: skip
    store.execute("SET search_path = pg_catalog")
    joined = Catalog(store).joined(message)
    assert [(c.name, c.type.name, c.not_null, c.default) for c in joined.columns] == [
        ("id", "int4", True, None),
        ("a", "text", False, None),  # another type then: today's NOT NULL and default say nothing
        ("dropped", "int4", False, None),
    ]
    assert joined.key == ("id",) and joined.primary_key


def test_a_table_that_is_gone_is_described_by_its_message_alone(store: Connection) -> None:
    message = RelationMessage(
        4_000_000, "public", "gone", "d", (RelationColumn("id", 23, -1, 1), RelationColumn("x", 4_000_001, -1, 0))
    )
    joined = Catalog(store).joined(message)
    assert joined.key == ("id",) and joined.replica_identity is ReplicaIdentity.DEFAULT
    assert [c.type.name for c in joined.columns] == ["int4", "unknown"]


def test_the_identity_of_that_time_is_the_key_when_the_primary_key_has_changed_since(store: Connection) -> None:
    store.execute("CREATE TABLE t (id int, code text, PRIMARY KEY (code))")
    message = RelationMessage(
        oid(store, "t"), "public", "t", "d", (RelationColumn("id", 23, -1, 1), RelationColumn("code", 25, -1, 0))
    )
    assert Catalog(store).joined(message).key == ("id",)
