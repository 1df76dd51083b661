"""Store, broker and registry go and come back: capture waits, loses nothing, and says so once."""

from __future__ import annotations

import time

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop, until
from tests.streams.capture.test_kill import COUNTERS, HISTORY, Load, assert_every_version_once_and_in_order

from instep.settings import KafkaSettings, Secret
from instep_ops.embedded import Kafka

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"


def test_the_store_stops_starts_and_crashes(
    own_postgres: PostgresForTests, kafka: KafkaSettings, registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(own_postgres.database(), kafka, registry, heartbeat_s=1.0)
    shop.execute(TABLE, "INSERT INTO t VALUES (0)")
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (1)")
        started = time.monotonic()
        own_postgres.stop()  # waits for the walsender, which waits until capture has confirmed everything
        assert time.monotonic() - started < 40  # PostgreSQL itself gives up after 60 s
        until(lambda: "capture of" in caplog.text and "waits: " in caplog.text)
        own_postgres.start()
        shop.execute("INSERT INTO t VALUES (2)")
        shop.await_captured(running)
        own_postgres.kill()
        own_postgres.start()
        shop.execute("INSERT INTO t VALUES (3)")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 4


def test_the_broker_goes_away_under_load(
    own_postgres: PostgresForTests, own_kafka: Kafka, registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop(own_postgres.database(), own_kafka.settings, registry, tables=("public.counters",))
    shop.execute(COUNTERS, HISTORY)
    senders = f"SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    with shop.capturing() as running, Load(shop, 3).running():
        until(lambda: sum(entry.changes for entry in shop.journal()) > 50)
        own_kafka.kill()
        sender = shop.value(senders)
        killed = shop.value("SELECT now()::text")
        heard = (
            f"SELECT reply_time > timestamptz '{killed}' + interval '5 s' FROM pg_stat_replication WHERE pid = {sender}"
        )
        until(lambda: shop.value(heard), what="status messages go on for longer than wal_sender_timeout")
        assert shop.value(senders) == sender
        own_kafka.start()
        shop.await_captured(running, 60)
        own_kafka.restart()
        shop.await_captured(running, 60)
    with shop.capturing(seconds=120):
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert_every_version_once_and_in_order(shop)


def test_a_new_table_waits_for_the_registry_and_the_stream_stays_open(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = make_shop(TABLE)
    with shop.capturing() as running:
        from instep_schemas.client import RegistryClient

        register = RegistryClient.register
        calls: list[str] = []

        def broken(self: RegistryClient, subject: str, text: str) -> int:
            calls.append(subject)
            if len(calls) < 3:
                raise ConnectionError("the registry is away")
            return register(self, subject, text)

        monkeypatch.setattr(RegistryClient, "register", broken)
        shop.execute("ALTER TABLE t ADD a int", "INSERT INTO t VALUES (1, 2)")
        shop.await_captured(running)
        assert len(calls) >= 3
    assert caplog.text.count("a table's schema waits") == 1
    assert "capture of" not in caplog.text


def test_passing_faults_at_the_start_are_waited_for(make_shop: MakeShop, caplog: pytest.LogCaptureFixture) -> None:
    shop = make_shop(TABLE, "INSERT INTO t VALUES (1)")
    right = shop.settings.sources[shop.name]
    away = right.model_copy(update={"dsn": Secret("host=127.0.0.1 port=1 dbname=x user=x")})
    shop.settings.sources[shop.name] = away
    with shop.capturing(ready=False):
        until(lambda: "cannot be reached" in caplog.text)
        shop.settings.sources[shop.name] = right
        shop.await_captured()
        assert shop.audit().ok
    assert caplog.text.count("cannot be reached") == 1
