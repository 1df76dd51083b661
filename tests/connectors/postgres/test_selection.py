"""REPLICA IDENTITY as the settings ask for it."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.fixtures.postgres import PostgresForTests

from instep.errors import SourceError
from instep_connectors.postgres.selection import IdentityRule, Selection, selected, set_identities

TABLES = "CREATE TABLE a (id int PRIMARY KEY, u int NOT NULL UNIQUE); CREATE TABLE b (id int PRIMARY KEY)"


def test_identities_are_set_where_they_differ_and_what_cannot_be_is_told(
    postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instep_connectors.postgres.selection._LOCK_S", 0.05)
    dsn = postgres.database()
    with psycopg.connect(dsn, autocommit=True) as conn, psycopg.connect(dsn) as other:
        conn.execute(TABLES)
        tables = selected(conn, Selection())

        def identities() -> str:
            query = "SELECT string_agg(relreplident, '' ORDER BY relname) FROM pg_class WHERE relname IN ('a', 'b')"
            row = conn.execute(query).fetchone()
            assert row is not None
            return str(row[0])

        set_identities(conn, [IdentityRule("public.a", "INDEX", "a_u_key"), IdentityRule(".*b", "FULL")], tables)
        assert identities() == "if"
        other.execute("SELECT FROM b")  # holds a lock that an ALTER TABLE would wait for
        set_identities(conn, [IdentityRule("public.a", "INDEX", "a_u_key"), IdentityRule(".*b", "FULL")], tables)
        with pytest.raises(ConnectionError, match=r"public\.b is in use"):
            set_identities(conn, [IdentityRule(".*b", "NOTHING")], tables)
        other.rollback()
        with pytest.raises(SourceError, match=r"names the table public\.a twice"):
            set_identities(conn, [IdentityRule(".*a", "FULL"), IdentityRule("public.*", "FULL")], tables)
        with pytest.raises(SourceError, match='index "none" for table "a" does not exist'):
            set_identities(conn, [IdentityRule("public.a", "INDEX", "none")], tables)
        conn.execute("DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN PASSWORD 'pw'")
        with psycopg.connect(make_conninfo(dsn, user="reader", password="pw"), autocommit=True) as reader:
            with pytest.raises(SourceError, match="must be owner of table a"):
                set_identities(reader, [IdentityRule("public.a", "DEFAULT")], tables)
        assert identities() == "if"
