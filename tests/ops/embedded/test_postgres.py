import socket
from pathlib import Path

import psycopg
import pytest
from psycopg import pq
from tests.fixtures.postgres import PostgresForTests

from instep.errors import EnvironmentFault
from instep_ops.embedded import Postgres


def test_server_streams_logical_changes_and_makes_databases(postgres: PostgresForTests) -> None:
    first, second = postgres.database(), postgres.database()
    assert first != second
    with psycopg.connect(first) as conn:
        assert conn.execute("SHOW wal_level").fetchone() == ("logical",)
        assert conn.execute("SELECT current_setting('server_version_num')::int / 10000").fetchone() == (18,)


def test_restart_and_kill_keep_data_and_port(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "pg", "kept")
    server.ensure()
    server.start()
    try:
        dsn = server.create_database("shop")
        with psycopg.connect(dsn) as conn:
            conn.execute("CREATE TABLE t AS SELECT 42 AS n")
        for end in (server.stop, server.kill):
            end()
            assert not server.alive()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(dsn)
            server.start()
            with psycopg.connect(dsn) as conn:
                assert conn.execute("SELECT n FROM t").fetchone() == (42,)
    finally:
        server.stop()


def test_a_start_waits_for_the_busy_children_of_a_killed_server(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "pg", "busy")
    server.ensure()
    server.start()
    try:
        conn = pq.PGconn.connect(server.dsn.encode())
        conn.send_query(
            b"DO $$ DECLARE until timestamptz := clock_timestamp() + interval '3 s';"
            b" BEGIN RAISE NOTICE 'busy'; WHILE clock_timestamp() < until LOOP END LOOP; END $$"
        )
        said: list[object] = []
        conn.notice_handler = said.append
        while not said:
            conn.consume_input()
            conn.is_busy()  # reads what has come
        server.kill()
        conn.finish()
        server.start()
        assert server.alive()
    finally:
        server.stop()


def test_next_start_ends_what_a_crash_left_behind(tmp_path: Path) -> None:
    crashed = Postgres(tmp_path, "left")
    crashed.ensure()
    crashed.start()
    again = Postgres(tmp_path, "left")
    again.ensure()
    again.start()
    try:
        assert crashed.pid is None
        assert again.port == crashed.port
    finally:
        again.stop()


def test_wrong_password_is_refused(postgres: PostgresForTests) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres.database_dsn("postgres", password="guess"))


def test_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = Postgres(tmp_path, "store", port)
        server.ensure()
        with pytest.raises(EnvironmentFault, match=rf"127\.0\.0\.1:{port}: the port is in use") as fault:
            server.start()
        assert fault.value.remedy
    assert not server.alive()


def test_without_the_wheel_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_ops.embedded.postgres.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="embedded PostgreSQL is not installed") as fault:
        Postgres(tmp_path).ensure()
    assert "instep[embedded]" in fault.value.remedy


def test_a_server_that_cannot_start_quotes_its_log(tmp_path: Path) -> None:
    server = Postgres(tmp_path, "odd", durable=False, settings={"wal_level": "sideways"})
    server.ensure()
    with pytest.raises(EnvironmentFault, match=r"ended while starting: .*wal_level"):
        server.start()
