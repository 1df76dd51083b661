"""A snapshot at an exact position of a real store."""

import threading
import time
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.change import format_lsn
from instep.errors import SourceError
from instep_connectors.postgres.session import connect
from instep_ops.verification import snapshot


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    made = postgres.database()
    with psycopg.connect(made) as conn:
        conn.execute("CREATE TABLE t (n int)")
        conn.execute("INSERT INTO t VALUES (1)")
    return made


def count(conn: psycopg.Connection[tuple[object, ...]]) -> object:
    (n,) = conn.execute("SELECT count(*) FROM public.t").fetchone() or (None,)
    return n


def slots(dsn: str) -> list[Any]:
    with connect(dsn, "test") as conn:
        return conn.execute(
            "SELECT slot_name FROM pg_replication_slots WHERE slot_name LIKE 'instep_verify%'"
        ).fetchall()


def test_later_commits_are_not_seen_and_lie_behind_the_position(dsn: str) -> None:
    with snapshot.pinned(dsn) as store, psycopg.connect(dsn, autocommit=True) as writer:
        before = writer.execute("SELECT pg_current_wal_lsn() - '0/0'::pg_lsn").fetchone()
        writer.execute("INSERT INTO t VALUES (2)")
        assert count(store.conn) == 1
        assert before is not None and store.lsn <= before[0]
        assert len(slots(dsn)) == 1
    assert slots(dsn) == []


def test_the_transaction_is_read_only(dsn: str) -> None:
    with snapshot.pinned(dsn) as store, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        store.conn.execute("INSERT INTO public.t VALUES (3)")


def test_a_transaction_that_does_not_end_is_told(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "PATIENCE_S", 0.2)
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO t VALUES (4)")
        with pytest.raises(SourceError, match="transaction has been running"), snapshot.pinned(dsn):
            pass
    assert slots(dsn) == []


def test_a_short_transaction_is_waited_for(dsn: str) -> None:
    other = psycopg.connect(dsn)
    other.execute("INSERT INTO t VALUES (5)")

    def end() -> None:
        other.commit()
        other.close()

    ending = threading.Timer(0.3, end)
    ending.start()
    begin = time.monotonic()
    with snapshot.pinned(dsn) as store:
        assert count(store.conn) == 2
    assert time.monotonic() - begin > 0.2
    ending.join()


def test_a_nudge_is_a_transaction_of_its_own(dsn: str) -> None:
    with snapshot.pinned(dsn) as store:
        snapshot.nudge(dsn)
        with connect(dsn, "test") as conn:
            row = conn.execute("SELECT pg_current_wal_lsn() > %s::pg_lsn", (format_lsn(store.lsn),)).fetchone()
    assert row == (True,)


def test_a_wrong_password_is_one_sentence(dsn: str) -> None:
    wrong = psycopg.conninfo.make_conninfo(dsn, password="no")
    with pytest.raises(SourceError, match="refuses the connection"), snapshot.pinned(wrong):
        pass
