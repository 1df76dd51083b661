"""The slot is watched, and a store that is not what the journal knows is recognised before it is streamed from."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop, until

from instep.change import format_lsn
from instep.errors import SourceError
from instep.settings import KafkaSettings, Secret
from instep.telemetry import METRICS
from instep_ops.embedded.postgres import _system_user, binary
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.guardian import Guardian
from instep_streams.capture.status import preflight

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text)"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresForTests]:
    """A store of the test's own, from which a standby may be made."""
    made = PostgresForTests(tmp_path / "store", "store", durable=False, settings={"hot_standby_feedback": "on"})
    made.ensure()
    made.start()
    yield made
    made.stop()


def moved(shop: Shop, dsn: str) -> None:
    """Let the source's dsn lead elsewhere."""
    own = shop.settings.sources[shop.name].model_copy(update={"dsn": Secret(dsn)})
    shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}})
    shop.dsn = dsn


def refused(shop: Shop, words: str) -> SourceError:
    failure = shop.fails()
    assert isinstance(failure, SourceError), failure
    assert words in failure.cause
    return failure


def test_a_slot_past_its_budget_is_told_with_the_remedy_and_measured(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture
) -> None:
    shop = make_shop(TABLE, wal_budget="1MB")
    with shop.capturing():
        pass
    caplog.set_level("INFO")
    labels = {"source": shop.name}
    with Guardian(shop.settings, shop.name, 0.05):
        shop.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 3000) i")
        until(lambda: METRICS.get_sample_value("instep_slot_health", labels) == 2)
        until(lambda: "Nobody reads it: run `instep capture" in caplog.text)
        assert (METRICS.get_sample_value("instep_slot_retained_bytes", labels) or 0) > 1 << 20
        assert METRICS.get_sample_value("instep_slot_limit_bytes", labels) == 1_000_000
        (bad,) = [check for check in preflight(shop.settings, shop.name) if not check.ok]
        assert (bad.name, "wal_budget" in bad.cause) == ("retained WAL", True)
        with shop.capturing() as running:

            def freed() -> bool:
                shop.await_captured(running)
                shop.execute("CHECKPOINT")
                return METRICS.get_sample_value("instep_slot_health", labels) == 0

            until(freed)
        assert "is fine again" in caplog.text
    assert caplog.text.count("The store keeps") <= 4  # near and past, by this guardian and the one of the capture


def test_an_older_copy_of_the_store_is_recognised(
    server: PostgresForTests, tmp_path: Path, kafka: KafkaSettings, registry: str
) -> None:
    shop = Shop(server.create_database("shop"), kafka, registry)
    shop.execute(TABLE)
    with shop.capturing():
        pass
    server.stop()
    data, copy = tmp_path / "store" / "data", tmp_path / "copy"
    subprocess.run(["cp", "-a", str(data), str(copy)], check=True)
    server.start()
    with shop.capturing() as running:
        shop.execute("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 2000) i")
        shop.await_captured(running)  # what the copy lacks is in the topics
    server.stop()
    shutil.rmtree(data)
    copy.rename(data)
    server.start()
    shop.dsn = server.database_dsn("shop")
    last = shop.last()
    assert last is not None
    failure = refused(shop, "an older copy of the store was put back")
    assert format_lsn(captured_lsn(last)) in failure.cause and "capture recover" in failure.remedy


class Standby(PostgresForTests):
    """A streaming copy of a server."""

    def __init__(self, folder: Path, primary: PostgresForTests) -> None:
        super().__init__(folder, "standby", durable=False, settings={"hot_standby_feedback": "on"})
        folder.mkdir()
        shutil.copy(folder.parent / "store" / "password", folder / "password")
        made, user = folder / "data", _system_user()
        made.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(made, user, user)
        command = [binary("pg_basebackup"), "-d", primary.dsn, "-D", str(made), "-R", "-c", "fast", "--no-sync"]
        command += ["--create-slot", "--slot", "standby"]  # both needed for the slots that are kept here
        subprocess.run(command, check=True, user=user, group=user, extra_groups=None if user is None else [])

    def replayed(self, shop: Shop) -> None:
        """Wait until it has all that the shop's store has now."""
        lsn = shop.value("SELECT pg_current_wal_flush_lsn()::text")
        here = Shop(self.database_dsn("shop"), shop.settings.kafka, shop.settings.registry.url)
        until(lambda: here.value(f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn"))

    def promote(self) -> None:
        Shop(self.database_dsn("shop"), KafkaSettings(), "http://x").execute("SELECT pg_promote()")


def synced(standby: Standby, shop: Shop) -> bool:
    """Whether the standby keeps the shop's slot; asks it to, as its own worker would every few seconds."""
    shop.execute("SELECT pg_log_standby_snapshot()")
    with psycopg.connect(standby.database_dsn("shop"), autocommit=True) as conn:
        conn.execute("SELECT pg_sync_replication_slots()")
        query = "SELECT synced AND NOT temporary AND failover FROM pg_replication_slots WHERE slot_name = %s"
        row = conn.execute(query, (shop.slot,)).fetchone()
    return row is not None and bool(row[0])


@pytest.fixture
def standby(server: PostgresForTests, tmp_path: Path) -> Iterator[Standby]:
    server.create_database("shop")
    made = Standby(tmp_path / "standby", server)
    made.start()
    yield made
    made.stop()


def test_a_promoted_standby_that_has_it_all_is_followed_and_one_that_has_not_is_refused(
    server: PostgresForTests,
    standby: Standby,
    kafka: KafkaSettings,
    registry: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    shop = Shop(server.database_dsn("shop"), kafka, registry, heartbeat_s=0.5, slot_failover=True)
    diverged = Shop(
        server.database_dsn("shop"), kafka, registry, heartbeat_s=0.5, slot_failover=True, publication="other"
    )
    shop.execute(TABLE)
    with shop.capturing():
        shop.execute("INSERT INTO t VALUES (1)")
    with diverged.capturing():
        pass
    standby.replayed(shop)
    here = Shop(standby.database_dsn("shop"), kafka, registry)
    with shop.capturing(), diverged.capturing():  # a slot is kept there once it has moved on behind the standby's start
        until(lambda: synced(standby, shop) and synced(standby, diverged))
    with shop.capturing():
        shop.execute("INSERT INTO t VALUES (2)")
    shop.execute("INSERT INTO t VALUES (3)")  # not captured before the failover
    standby.replayed(shop)
    standby.promote()
    with diverged.capturing():
        diverged.execute("INSERT INTO t VALUES (4)")  # which the standby never got
    moved(shop, here.dsn)
    moved(diverged, here.dsn)
    until(lambda: shop.value("SELECT NOT pg_is_in_recovery()"))
    shop.execute("INSERT INTO t VALUES (5)")
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 4 and "nothing is missing" in caplog.text
    failure = refused(diverged, "was failed over or restored: it stands at")
    assert "on timeline 2" in failure.cause and "on timeline 1" in failure.cause
