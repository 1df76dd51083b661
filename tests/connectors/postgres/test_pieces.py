"""Parts of tables: what a snapshot sees, keys compared as the store does, several connections on one snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import psycopg
import pytest
from psycopg import sql
from tests.fixtures.postgres import PostgresForTests

from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.chunks import KeyOrder, Part, View, committing, part_query, read_part, read_row, viewing
from instep_connectors.postgres.pieces import Piece, Readers, Work, split, split_blocks
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import Snapshot, TextRow

TABLE = """CREATE TABLE t (a text COLLATE "C", b numeric, v text, PRIMARY KEY (a, b));
INSERT INTO t SELECT chr(65 + i % 50), i / 7.0, 'x' FROM generate_series(1, 3000) i;
INSERT INTO t VALUES ('q''"\\', 'NaN', 'odd');
ANALYZE t"""


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    found = postgres.database()
    with psycopg.connect(found, autocommit=True) as conn:
        conn.execute(TABLE)
    return found


@pytest.fixture
def store(dsn: str) -> Iterator[Connection]:
    with connect(dsn, "test") as conn:
        yield conn


@pytest.fixture
def exported(dsn: str) -> Iterator[str]:
    """The snapshot of a slot."""
    replication = ReplicationConnection(dsn, "test")
    try:
        new = replication.create_slot("pieces", lambda seconds: False, temporary=True)
        assert new is not None
        yield new.snapshot
    finally:
        replication.close()


def published(conn: Connection) -> Published:
    row = conn.execute("SELECT 'public.t'::regclass::oid::bigint").fetchone()
    assert row is not None
    return Published(row[0], "public", "t")


@pytest.mark.parametrize("xid", [7, 9, (1 << 32) + 5, (5 << 32) - 1])
def test_a_view_knows_what_it_sees(xid: int) -> None:
    view = View.parse(f"{xid - 2}:{xid + 2}:{xid - 2},{xid}")
    assert [view.sees(view.full((xid + n) % (1 << 32))) for n in range(-3, 4)] == [
        True, False, True, False, True, False, False,
    ]  # fmt: skip
    assert view.full(xid % (1 << 32)) == xid


def test_a_view_is_the_stores(store: Connection, dsn: str) -> None:
    with psycopg.connect(dsn) as other:
        row = other.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert row is not None
        (running,) = row
        with viewing(store) as view:
            assert not view.sees(running) and view.sees(view.oldest - 1)
            assert committing(store, [running]) == set()  # it waits for its client
        assert committing(store, [running + 1000]) == {running + 1000}
    with viewing(store) as view:
        assert view.sees(running)


def test_keys_are_compared_as_the_store_orders_them(store: Connection) -> None:
    table = published(store)
    relation = Catalog(store).relations({table.oid: None})[table.oid]
    order = KeyOrder(store, relation, relation.key)
    rows = read_part(store, table, relation, relation.key, Part())
    keys = [[(cell or b"").decode() for cell in row[:2]] for row in rows]
    after, upto = keys[1000], keys[2000]
    part = Part(after, upto)
    assert read_part(store, table, relation, relation.key, part) == rows[1001:2001]
    assert [order.within(key, part) for key in keys[990:1010]] == [False] * 11 + [True] * 9
    assert order.within(upto, part) and not order.within(keys[2001], part) and order.within(upto, Part())
    odd = read_row(store, relation, ["q'\"\\", "NaN"])
    assert odd is not None and odd[2] == b"odd" and read_row(store, relation, ["q", "1"]) is None


def read(dsn: str, exported: str, works: Sequence[Work[int]], threads: int) -> list[Piece]:
    """All pieces of the parts, of 100 rows at most."""
    readers = Readers(dsn, "test", exported, works, threads, 100)
    try:
        pieces = [piece for piece in readers if piece is not None]
    finally:
        readers.close()
    assert all(len(piece.rows) <= 100 for piece in pieces)
    assert sorted(piece.work.owner for piece in pieces if piece.over) == [work.owner for work in works]
    return pieces


def rows(pieces: Iterable[Piece]) -> list[TextRow]:
    return sorted((row for piece in pieces for row in piece.rows), key=repr)


def test_several_connections_read_one_snapshot_to_the_last_row(store: Connection, dsn: str, exported: str) -> None:
    table = published(store)
    relation = Catalog(store).relations({table.oid: None})[table.oid]
    snapshot = Snapshot(dsn, "test", exported, [table])
    expected = sorted(snapshot.rows(table, relation), key=repr)
    store.execute("DELETE FROM public.t WHERE b < 200")
    parts = split(snapshot, table, relation.key, 3000, 5)
    assert 3 <= len(parts) <= 6 and parts[0].after is None and parts[-1].upto is None
    assert snapshot.sizes([table])[table.oid][0] == 3001
    snapshot.close()
    works = [Work(n, table, relation, relation.key, part) for n, part in enumerate(parts)]
    assert rows(read(dsn, exported, works, 3)) == expected
    with pytest.raises(ConnectionError, match="snapshot ended"):
        read(dsn, "00000003-0000001B-1", works, 1)


def test_a_table_without_a_key_is_read_by_its_blocks(store: Connection, dsn: str, exported: str) -> None:
    store.execute("ALTER TABLE public.t DROP CONSTRAINT t_pkey")
    table = published(store)
    relation = Catalog(store).relations({table.oid: None})[table.oid]
    snapshot = Snapshot(dsn, "test", exported, [table])
    expected = sorted(snapshot.rows(table, relation), key=repr)
    store.execute("INSERT INTO public.t SELECT 'new', i, 'x' FROM generate_series(1, 3000) i")
    parts = split_blocks(snapshot, table, 4)
    snapshot.close()
    store.execute("UPDATE public.t SET v = 'y' WHERE b < 200")
    assert len(parts) == 4 and parts[0].after is None and parts[-1].upto is None
    pieces = read(dsn, exported, [Work(n, table, relation, (), part) for n, part in enumerate(parts)], 3)
    assert rows(pieces) == expected
    assert len({piece.work.owner for piece in pieces if piece.rows}) >= 2
    plan = store.execute(sql.SQL("EXPLAIN ") + part_query(table, relation, (), parts[1])).fetchall()
    assert plan[0][0].startswith("Tid Range Scan")


def test_a_partitioned_table_has_one_part(store: Connection, dsn: str, exported: str) -> None:
    store.execute(
        "CREATE TABLE public.p (v int) PARTITION BY RANGE (v); CREATE TABLE public.p1 PARTITION OF public.p DEFAULT;"
        "INSERT INTO public.p SELECT generate_series(1, 5000)"
    )
    row = store.execute("SELECT 'public.p'::regclass::oid::bigint").fetchone()
    assert row is not None
    snapshot = Snapshot(dsn, "test", exported, ())
    assert split_blocks(snapshot, Published(row[0], "public", "p"), 4) == [Part()]
    snapshot.close()
