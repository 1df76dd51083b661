"""The state database's own tables: made, brought forward, refused."""

from __future__ import annotations

from contextlib import closing

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import StateError
from instep_streams.flows import progress, versions


def test_an_older_database_is_brought_forward_with_what_it_holds(postgres: PostgresForTests) -> None:
    with closing(psycopg.connect(postgres.database(), autocommit=True)) as conn:
        conn.execute("CREATE SCHEMA instep")
        conn.execute(versions.STEPS[0])  # as the first release left it: without a version
        conn.execute("INSERT INTO instep.progress VALUES ('shop', 7, 12, 1, 500, 2, 9, false, 3, 6)")
        before = progress.load(conn, "shop")
        assert before.entry == 7 and before.offsets == {}, "`instep status` works before the worker has migrated"
        for _ in range(2):
            with conn.transaction():
                versions.set_up(conn)
        assert progress.load(conn, "shop") == before
        assert conn.execute("SELECT version FROM instep.version").fetchall() == [(len(versions.STEPS),)]


def test_a_new_database_is_at_the_last_version(postgres: PostgresForTests) -> None:
    with closing(psycopg.connect(postgres.database(), autocommit=True)) as conn:
        with conn.transaction():
            versions.set_up(conn)
        progress.begin(conn, "shop")
        assert progress.load(conn, "shop") == progress.Progress()


def test_a_newer_database_is_refused_and_left_alone(postgres: PostgresForTests) -> None:
    with closing(psycopg.connect(postgres.database(), autocommit=True)) as conn:
        with conn.transaction():
            versions.set_up(conn)
        conn.execute("UPDATE instep.version SET version = 99")
        with pytest.raises(StateError, match="newer Instep: its version is 99"), conn.transaction():
            versions.set_up(conn)
        assert conn.execute("SELECT version FROM instep.version").fetchall() == [(99,)]
