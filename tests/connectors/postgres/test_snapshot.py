from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests

from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.publication import Published, ensure_publication
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.snapshot import Snapshot, parse_copy_line

ESCAPES = {b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t", b"\v": b"\\v", b"\\": b"\\\\"}
FIELD = st.one_of(st.none(), st.binary(max_size=20), st.text(alphabet="\\\t\n\rNnt.", max_size=8).map(str.encode))


def copy_line(row: list[bytes | None]) -> bytes:
    """A row as COPY TO writes it."""
    shown = (
        b"\\N" if field is None else b"".join(ESCAPES.get(bytes([byte]), bytes([byte])) for byte in field)
        for field in row
    )
    return b"\t".join(shown) + b"\n"


@given(st.lists(FIELD, min_size=1, max_size=6))
def test_a_copy_line_is_read_back(row: list[bytes | None]) -> None:
    assert parse_copy_line(copy_line(row)) == tuple(row)


def test_a_line_cut_short_is_refused() -> None:
    with pytest.raises(ValueError, match="without its end"):
        parse_copy_line(b"a\tb")


def test_the_snapshot_holds_what_was_committed_before_the_slot_and_nothing_else(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    with connect(dsn, "test") as conn:
        conn.execute("CREATE TABLE public.t (id int PRIMARY KEY, a text, g int GENERATED ALWAYS AS (id * 2) STORED)")
        conn.execute(
            r"INSERT INTO public.t (id, a) VALUES (1, E'tab\t line\n back\\slash'), (2, NULL), (3, '\N'), (4, '')"
        )
        tables = ensure_publication(conn, "p", ("public.*",))
        replication = ReplicationConnection(dsn, "test")
        try:
            new = replication.create_slot("test_snapshot", lambda seconds: False, temporary=True)
            assert new is not None
            conn.execute("INSERT INTO public.t (id) VALUES (5)")
            snapshot = Snapshot(dsn, "test", new.snapshot, tables)
        finally:
            replication.close()
        try:
            relation = snapshot.relations(tables)[tables[0].oid]
            rows = sorted(snapshot.rows(tables[0], relation), key=lambda row: row[0] or b"")
        finally:
            snapshot.close()
    assert [column.name for column in relation.columns] == ["id", "a"]
    assert rows == [(b"1", b"tab\t line\n back\\slash"), (b"2", None), (b"3", b"\\N"), (b"4", b"")]


def test_an_exported_snapshot_that_died_is_a_passing_fault(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    replication = ReplicationConnection(dsn, "test")
    new = replication.create_slot("test_dead", lambda seconds: False, temporary=True)
    replication.close()
    assert new is not None
    with pytest.raises(ConnectionError):
        Snapshot(dsn, "test", new.snapshot, [])


def test_filters_and_column_lists_of_the_publication_hold_for_the_snapshot_too(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    with connect(dsn, "test") as conn:
        conn.execute("CREATE TABLE public.t (id int PRIMARY KEY, secret text, kind text)")
        conn.execute("INSERT INTO public.t VALUES (1, 's', 'a'), (2, 's', 'b')")
        conn.execute("ALTER TABLE public.t REPLICA IDENTITY FULL")
        conn.execute("CREATE PUBLICATION p FOR TABLE public.t (id, kind) WHERE (id > 1)")
        tables = ensure_publication(conn, "p", ("public.*",))
        assert tables == [Published(tables[0].oid, "public", "t", ("id", "kind"), "(id > 1)")]
        (relation,) = Catalog(conn).relations({t.oid: t.columns for t in tables}).values()
        replication = ReplicationConnection(dsn, "test")
        new = replication.create_slot("test_filter", lambda seconds: False, temporary=True)
        assert new is not None
        snapshot = Snapshot(dsn, "test", new.snapshot, tables)
        assert list(snapshot.rows(tables[0], relation)) == [(b"2", b"b")]
        snapshot.close()
        replication.close()
