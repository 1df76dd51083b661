"""Parts of tables: what a snapshot sees, keys compared as the store does, several connections on one snapshot."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.chunks import KeyOrder, Part, View, committing, read_part, read_row, viewing
from instep_connectors.postgres.pieces import Readers, Work, split
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import Snapshot

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


def test_several_connections_read_one_snapshot_to_the_last_row(store: Connection, dsn: str) -> None:
    table = published(store)
    relation = Catalog(store).relations({table.oid: None})[table.oid]
    replication = ReplicationConnection(dsn, "test")
    try:
        new = replication.create_slot("pieces", lambda seconds: False, temporary=True)
        assert new is not None
        snapshot = Snapshot(dsn, "test", new.snapshot, [table])
        expected = sorted(snapshot.rows(table, relation), key=repr)
        store.execute("DELETE FROM public.t WHERE b < 200")
        parts = split(snapshot, table, relation.key, 3000, 5)
        assert 3 <= len(parts) <= 6 and parts[0].after is None and parts[-1].upto is None
        assert snapshot.sizes([table])[table.oid][0] == 3001
        works = [Work(n, table, relation, relation.key, part) for n, part in enumerate(parts)]
        readers = Readers(dsn, "test", new.snapshot, works, 3, 100)
        found, over = [], []
        for piece in readers:
            if piece is not None:
                assert len(piece.rows) <= 100
                found += piece.rows
                over += [piece.work.owner] if piece.over else []
        readers.close()
        snapshot.close()
        assert sorted(found, key=repr) == expected and sorted(over) == [work.owner for work in works]
        missing = Readers(dsn, "test", "00000003-0000001B-1", works, 1, 100)
        with pytest.raises(ConnectionError, match="snapshot ended"):
            list(missing)
        missing.close()
    finally:
        replication.close()
