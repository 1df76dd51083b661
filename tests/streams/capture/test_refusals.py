"""What keeps capture from starting: one sentence, a remedy, the same from `preflight` and from the process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop, until

from instep.errors import SourceError
from instep.settings import KafkaSettings, Secret
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.slot import read_slot
from instep_streams.capture.snapshotting import Snapshotting
from instep_streams.capture.status import preflight, status

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"


def failed(shop: Shop) -> list[tuple[str, str, str]]:
    return [(c.name, c.cause, c.remedy) for c in preflight(shop.settings, shop.name) if not c.ok]


def refused(shop: Shop, words: str) -> SourceError:
    """Capture ends with a SourceError that says this."""
    failure = shop.fails()
    assert isinstance(failure, SourceError), failure
    assert words in failure.cause, failure.cause
    assert failure.remedy
    assert "\n" not in str(failure)
    return failure


@pytest.fixture
def role(postgres: PostgresForTests) -> Iterator[str]:
    """A user without any right."""
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute("DROP ROLE IF EXISTS clerk")
        conn.execute("CREATE ROLE clerk LOGIN PASSWORD 'pw'")
    yield "clerk"


def with_user(dsn: str, user: str, password: str = "pw") -> str:
    return make_conninfo(dsn, user=user, password=password)


def test_everything_right_is_said_check_by_check(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    checks = preflight(shop.settings, shop.name)
    assert [c.name for c in checks if c.ok] == [
        "connection",
        "server",
        "replication",
        "slot",
        "retained WAL",
        "publication",
    ]
    assert shop.value("SELECT count(*) FROM pg_publication") == 0  # a look changes nothing
    with shop.capturing():
        until(lambda: status(shop.settings, shop.name)["slot"]["active_pid"])
        assert failed(shop) == []
        # the server's other databases write, too: what they wrote is passed by and by
        until(lambda: status(shop.settings, shop.name)["lag_bytes"] < 100_000, what="the slot follows")
        now = status(shop.settings, shop.name)
    assert now["slot"]["name"] == shop.slot
    assert now["journal"]["more"] is False and now["lag_seconds"] == 0.0


def test_wrong_password(make_shop: MakeShop, postgres: PostgresForTests, kafka: KafkaSettings) -> None:
    shop = Shop(with_user(make_shop(TABLE).dsn, "postgres", "wrong"), kafka, "http://127.0.0.1:1")
    refused(shop, "password authentication failed")
    ((name, cause, _),) = failed(shop)
    assert name == "connection" and "wrong" not in cause


def test_unknown_database(make_shop: MakeShop, kafka: KafkaSettings) -> None:
    shop = Shop(make_conninfo(make_shop(TABLE).dsn, dbname="nowhere"), kafka, "http://127.0.0.1:1")
    refused(shop, 'database "nowhere" does not exist')


def test_wal_level_too_low(tmp_path: Path, kafka: KafkaSettings, registry: str) -> None:
    server = PostgresForTests(tmp_path / "pg", "replica", durable=False, settings={"wal_level": "replica"})
    server.ensure()
    server.start()
    try:
        shop = Shop(server.database(), kafka, registry)
        shop.execute(TABLE)
        failure = refused(shop, "wal_level=replica")
        assert "ALTER SYSTEM SET wal_level = 'logical'" in failure.remedy
        assert failed(shop)[0][0] == "server"
    finally:
        server.stop()


def test_all_slots_taken(tmp_path: Path, kafka: KafkaSettings, registry: str) -> None:
    server = PostgresForTests(tmp_path / "pg", "slots", durable=False, settings={"max_replication_slots": "1"})
    server.ensure()
    server.start()
    try:
        shop = Shop(server.database(), kafka, registry)
        shop.execute(TABLE, "SELECT pg_create_physical_replication_slot('taken')")
        refused(shop, "All 1 replication slots of the store are taken")
    finally:
        server.stop()


def test_missing_replication_right(make_shop: MakeShop, role: str, kafka: KafkaSettings, registry: str) -> None:
    shop = Shop(with_user(make_shop(TABLE).dsn, role), kafka, registry)
    assert "REPLICATION" in refused(shop, "may not replicate").remedy


def test_missing_right_to_publish_names_the_statement(
    make_shop: MakeShop, role: str, kafka: KafkaSettings, registry: str
) -> None:
    owner = make_shop(TABLE, f"ALTER ROLE {role} REPLICATION")
    shop = Shop(with_user(owner.dsn, role), kafka, registry)
    assert failed(shop)[0][0] == "publication"
    failure = refused(shop, "may not create the publication instep")
    statement = failure.remedy.partition(": ")[2]
    owner.execute(statement)
    refused(shop, "may not read the table public.t")
    assert owner.value("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()") == 0
    owner.execute(f"GRANT SELECT ON t TO {role}")
    assert failed(shop) == []
    with shop.capturing():
        pass
    shop = Shop(owner.dsn, kafka, registry)
    owner.execute(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"
    )


def test_a_named_table_that_is_missing_or_without_a_key(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE nokey (a int)", tables=("public.nokey",))
    failure = refused(shop, "public.nokey has no primary key")
    assert "REPLICA IDENTITY FULL" in failure.remedy
    refused(make_shop(TABLE, tables=("public.other",)), "no table public.other")
    refused(make_shop(tables=("public.*",)), "No table of the store matches public.*")


def test_a_table_without_a_key_is_left_out_so_that_the_store_goes_on_working(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = make_shop(TABLE, "CREATE TABLE nokey (a int)", "INSERT INTO nokey VALUES (1)")
    with shop.capturing():
        shop.execute("UPDATE nokey SET a = 2", "DELETE FROM nokey")
    assert "public.nokey has no primary key" in caplog.text


def test_a_publication_that_leaves_something_out(make_shop: MakeShop) -> None:
    refused(
        make_shop(TABLE, "CREATE PUBLICATION instep FOR TABLE t WITH (publish = 'insert, update')"), "delete, truncate"
    )
    shop = make_shop(
        TABLE, "CREATE TABLE u (id int PRIMARY KEY)", "CREATE PUBLICATION instep FOR TABLE t", tables=("public.u",)
    )
    failure = refused(shop, "does not hold the table public.u")
    assert failure.remedy == "ALTER PUBLICATION instep ADD TABLE public.u;"


def test_a_publication_that_is_gone_is_never_made_again(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    shop.execute("DROP PUBLICATION instep")
    refused(shop, "The publication instep is gone")


def test_a_publication_dropped_for_a_while_is_noticed_at_the_changes_it_left_out(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    shop.execute(
        "INSERT INTO t VALUES (1)", "DROP PUBLICATION instep", "INSERT INTO t VALUES (2)",
        "CREATE PUBLICATION instep FOR TABLE t", "INSERT INTO t VALUES (3)",
    )  # fmt: skip
    refused(shop, "instep")
    captured = sum(entry.changes for entry in shop.journal())
    assert captured <= 1  # nothing behind the gap is taken for complete


def test_a_slot_that_goes_during_the_first_copy_ends_it_at_once(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make_shop(TABLE, "INSERT INTO t SELECT generate_series(1, 3000)", batch_changes=100)
    plan = Snapshotting._plan

    def planned(self: Snapshotting, *given: Any) -> Any:
        works = plan(self, *given)
        shop.drop_slot()
        return works

    with monkeypatch.context() as patch:
        patch.setattr("instep_streams.capture.snapshotting._LOOK_AT_SLOT_S", 0.0)
        patch.setattr(Snapshotting, "_plan", planned)
        refused(shop, "is gone, but the journal stands at")
    assert 0 < sum(entry.changes for entry in shop.journal()) < 3000
    with shop.capturing():  # the copy is made again, under a new slot
        audit = shop.audit()
    assert audit.ok and audit.rows == 3000, audit.problems


def test_a_first_start_waits_for_long_transactions_whatever_the_timeouts_are(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    place = f"FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    waits = (
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'"
        " AND now() - query_start > interval '0.3 s'"
    )
    with psycopg.connect(shop.dsn) as long:
        long.execute("INSERT INTO t VALUES (1)")
        shop.execute(f"ALTER DATABASE {shop.value('SELECT current_database()')} SET lock_timeout = '100ms'")
        with shop.capturing(ready=False) as running:
            until(lambda: shop.value(waits))
            running.check()
            assert shop.value(f"SELECT confirmed_flush_lsn IS NULL {place}")
            with shop.store() as conn:
                slot = read_slot(conn, shop.slot)
            assert slot is not None and slot.confirmed == slot.restart
            assert preflight(shop.settings, shop.name)  # says what there is
            long.commit()
            shop.await_captured(running)
            audit = shop.audit()
    assert audit.ok and audit.rows == 1, audit.problems


def test_a_slot_of_another_kind(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    shop.execute(f"SELECT pg_create_physical_replication_slot('{shop.slot}')")
    refused(shop, "uses physical replication, not pgoutput")
    shop = make_shop(TABLE)
    other = make_shop(TABLE, slot=shop.slot)
    other.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    refused(shop, "belongs to the database")


def test_a_slot_that_kafka_does_not_know(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    shop.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    failure = refused(shop, "Kafka has no journal of it")
    assert f"pg_drop_replication_slot('{shop.slot}')" in failure.remedy


def test_a_slot_that_is_gone_is_never_made_again(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    shop.drop_slot()
    refused(shop, "is gone, but the journal stands at")
    assert shop.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{shop.slot}'") == 0


def test_a_slot_made_again_is_recognised_by_its_position(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    shop.drop_slot()
    shop.execute("INSERT INTO t VALUES (1)", f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    refused(shop, "past the journal at")


def test_an_invalidated_slot(tmp_path: Path, kafka: KafkaSettings, registry: str) -> None:
    server = PostgresForTests(
        tmp_path / "pg", "lost", durable=False,
        settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"},
    )  # fmt: skip
    server.ensure()
    server.start()
    try:
        shop = Shop(server.database(), kafka, registry)
        shop.execute(TABLE, "CREATE TABLE filler (a text)")
        with shop.capturing():
            pass
        for _ in range(4):
            shop.execute(
                "INSERT INTO filler SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
                "SELECT pg_switch_wal()", "CHECKPOINT",
            )  # fmt: skip
        refused(shop, "is lost")
        assert failed(shop)[0][0] == "slot"
    finally:
        server.stop()


def test_another_capture_of_the_slot_is_named(make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_streams.capture.session._PATIENCE_S", 0.5)
    shop = make_shop(TABLE)
    with shop.capturing():
        failure = refused(shop, "already captured by instep capture")
        assert "server process" in failure.cause
        assert shop.audit().ok  # the first one goes on


def test_a_stranger_on_the_slot_is_named(make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_streams.capture.session._PATIENCE_S", 0.5)
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    stranger = ReplicationConnection(shop.dsn, "stranger")
    try:
        stranger.start(shop.slot, 0, "instep")
        failure = refused(shop, "is held by the store's process")
        assert "stranger" in failure.cause and "pg_terminate_backend" in failure.remedy
        assert failed(shop)[0][0] == "slot"
    finally:
        stranger.close()


def test_our_own_walsender_left_behind_is_ended(make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_streams.capture.session._PATIENCE_S", 0.5)
    shop = make_shop(TABLE)
    with shop.capturing():
        pass
    zombie = ReplicationConnection(shop.dsn, f"instep capture {shop.name}")
    try:
        zombie.start(shop.slot, 0, "instep")
        with shop.capturing():
            assert shop.audit().ok
    finally:
        zombie.close()


def test_another_server_behind_the_same_address(tmp_path: Path, kafka: KafkaSettings, registry: str) -> None:
    server = PostgresForTests(tmp_path / "a", "a", durable=False)
    server.ensure()
    server.start()
    shop = Shop(server.create_database("store"), kafka, registry)
    shop.execute(TABLE)
    with shop.capturing():
        pass
    server.stop()
    other = PostgresForTests(tmp_path / "b", "b", durable=False)
    other.ensure()
    other.start()
    try:
        moved = Shop(other.create_database("store"), kafka, registry)
        moved.execute(TABLE)
        own = shop.settings.sources[shop.name].model_copy(update={"dsn": Secret(moved.dsn)})
        shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}})
        refused(shop, "is another server")
    finally:
        other.stop()
