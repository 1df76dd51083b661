from __future__ import annotations

import os
import select
import signal
import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import Advice, SourceError, advice
from instep_connectors.postgres.publication import matcher
from instep_connectors.postgres.replication import BUSY, Keepalive, ReplicationConnection
from instep_connectors.postgres.session import PINNED, connect, connection_failure, conninfo, store_failure, where
from instep_connectors.postgres.streamed import Streamed


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ('FATAL:  password authentication failed for user "x"', SourceError),
        ('FATAL:  database "x" does not exist', SourceError),
        ('FATAL:  no pg_hba.conf entry for replication connection from host "1.2.3.4"', SourceError),
        ("FATAL:  the database system is starting up", ConnectionError),
        ("FATAL:  sorry, too many clients already", ConnectionError),
        ("Connection refused\n\tIs the server running on that host?", ConnectionError),
        ("FATAL:  Passwort-Authentifizierung fehlgeschlagen", ConnectionError),
    ],
)
def test_what_a_person_must_mend_is_told_from_what_passes(message: str, kind: type[Exception]) -> None:
    failure = connection_failure("host=h dbname=d password=geheim", f"connection failed: {message}\n")
    assert type(failure) is kind
    assert "geheim" not in str(failure) and "h:5432/d" in str(failure)


def test_the_users_own_connection_settings_win() -> None:
    text = conninfo("postgresql://u:p@h/d?keepalives_idle=5&application_name=theirs", "instep capture shop")
    assert "keepalives_idle=5" in text and "application_name='instep capture shop'" in text
    assert where("postgresql://u:p@h:77/d") == "h:77/d"


def test_text_settings_are_pinned_on_both_kinds_of_connection(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("ALTER ROLE postgres SET DateStyle = 'German'")
        admin.execute("ALTER ROLE postgres SET extra_float_digits = -5")
        admin.execute("ALTER ROLE postgres SET IntervalStyle = 'iso_8601'")
        admin.execute("ALTER ROLE postgres SET bytea_output = 'escape'")
        admin.execute("ALTER ROLE postgres SET TimeZone = 'Asia/Tokyo'")
        try:
            query = "SELECT date '2026-01-31', 1/3::float8, interval '1 day', '\\x00'::bytea, timestamptz 'epoch'"
            expected = '(2026-01-31,0.3333333333333333,"1 day","\\\\x00","1970-01-01 00:00:00+00")'
            with connect(dsn, "test") as conn:
                row = conn.execute(f"SELECT row(q.*)::text FROM ({query}) q").fetchone()
                assert row == (expected,)
            replication = ReplicationConnection(dsn, "test")
            result = replication._run(f"SELECT row(q.*)::text FROM ({query}) q")
            assert result.get_value(0, 0) == expected.encode()
            replication.close()
        finally:
            admin.execute("ALTER ROLE postgres RESET ALL")
    assert len({statement.split()[1] for statement in PINNED}) == len(PINNED)


def test_a_failed_statement_is_passing_or_the_stores_own_words(postgres: PostgresForTests) -> None:
    with connect(postgres.database(), "test") as conn:
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("SELECT nothing")
        failure = store_failure(caught.value)
        assert isinstance(failure, SourceError) and "42703" in failure.cause
        with pytest.raises(psycopg.Error) as caught:
            conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    assert advice(store_failure(caught.value)) is Advice.AGAIN


def test_table_patterns() -> None:
    wanted = matcher(("public.*", "stock", "sales.order_?"))
    assert [name for name in ("public.a", "public.stock", "other.a", "sales.order_?", "sales.order_1")
            if wanted.fullmatch(name)] == ["public.a", "public.stock", "sales.order_?"]  # fmt: skip


def test_a_stream_answers_and_ends(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    with connect(dsn, "test") as conn:
        conn.execute("CREATE PUBLICATION p")
        replication = ReplicationConnection(dsn, "test")
        new = replication.create_slot("test_stream", lambda seconds: False, temporary=True)
        assert new is not None
        replication.start("test_stream", new.lsn, "p")
        replication.send_status(new.lsn, ask=True)
        seen = _next(replication)
        while not (isinstance(seen, Keepalive) and seen.end >= new.lsn):
            seen = _next(replication)
        conn.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'test_stream'"
        )
        with pytest.raises(ConnectionError):
            while True:
                _next(replication)
        replication.close()


def test_others_have_their_turn_while_a_large_transaction_is_put_aside_and_while_it_is_given(
    postgres: PostgresForTests,
) -> None:
    """The caller answers the store and hands batches over in between; nothing is read from the store meanwhile."""
    dsn = postgres.database()
    with connect(dsn, "test") as conn:
        conn.execute("CREATE TABLE public.t (id int)")
        conn.execute("CREATE PUBLICATION p FOR TABLE public.t")
        conn.execute(f"ALTER DATABASE {conn.info.dbname} SET logical_decoding_work_mem = '64kB'".encode())
        with closing(ReplicationConnection(dsn, "test")) as replication:
            new = replication.create_slot("test_turns", lambda seconds: False, temporary=True)
            assert new is not None
            replication.start("test_turns", new.lsn, "p", Streamed())
            conn.execute("INSERT INTO public.t SELECT generate_series(1, 5000)")
            _await_sent(conn)
            kinds = [b""]
            while kinds[-1] != b"C":
                frame = _next(replication)
                kinds.append(b"busy" if frame is BUSY else b"" if isinstance(frame, Keepalive) else frame[:1])
    begun = kinds.index(b"B")
    assert kinds[begun:].count(b"I") == 5000
    # at the commit the last part is still to come: the others filled some turns
    assert kinds[:begun].count(b"busy") >= 4 and kinds[begun:].count(b"busy") == 5


def test_a_name_the_store_refuses(postgres: PostgresForTests) -> None:
    replication = ReplicationConnection(postgres.dsn, "test")
    with pytest.raises(SourceError, match="Not Allowed"):
        replication.create_slot("Not Allowed", lambda seconds: False, temporary=True)
    replication.close()


def test_a_connection_that_fell_silent_is_given_up(postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped walsender: its connection stays open, and says nothing more."""
    dsn = postgres.database()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("CREATE PUBLICATION p")
        replication = ReplicationConnection(dsn, "test")
        new = replication.create_slot("test_silent", lambda seconds: False, temporary=True)
        assert new is not None
        replication.start("test_silent", new.lsn, "p")
        row = conn.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'test_silent'").fetchone()
        assert row is not None
        replication.check_silence()
        os.kill(row[0], signal.SIGSTOP)
        try:
            monkeypatch.setattr("instep_connectors.postgres.replication._SILENCE_S", 0.2)
            with pytest.raises(ConnectionError, match="is silent for"):
                for _ in range(400):
                    replication.send_status(new.lsn, ask=True)
                    select.select([replication], [], [], 0.05)
                    while replication.receive() is not None:
                        pass
                    replication.check_silence()
        finally:
            os.kill(row[0], signal.SIGCONT)
            replication.close()


def _await_sent(conn: psycopg.Connection[Any]) -> None:
    """Wait until all that is committed has been sent: from then on no frame lets its reader wait."""
    here = conn.execute("SELECT pg_current_wal_lsn()").fetchone()
    sent = "SELECT bool_or(sent_lsn >= %s) FROM pg_stat_replication WHERE application_name = 'test'"
    deadline = time.monotonic() + 30
    while conn.execute(sent, here).fetchone() != (True,):
        assert time.monotonic() < deadline, "the store does not send"


def _next(replication: ReplicationConnection) -> bytes | Keepalive:
    while (frame := replication.receive()) is None:
        ready, _, _ = select.select([replication], [], [], 10)
        assert ready, "nothing arrived"
    return frame
