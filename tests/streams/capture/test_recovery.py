"""A lost slot is mended by exactly what was missed: deletes as deletes, the rest as reads, equal rows not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop
from tests.streams.capture.test_stopped import allow

from instep.change import Op
from instep.errors import ConfigError, SourceError
from instep.failpoints import FailpointHit, arm
from instep.settings import KafkaSettings
from instep_streams.capture.gap import gaps
from instep_streams.capture.recovery import Recovered, recover
from instep_streams.capture.report import report
from instep_streams.capture.task import Task
from instep_streams.capture.withheld import waiting

TABLES = (
    "CREATE TABLE t (id int PRIMARY KEY, a text, big text)",
    "CREATE TABLE nokey (a int, b text)", "ALTER TABLE nokey REPLICA IDENTITY FULL",
)  # fmt: skip
BEFORE = (
    "INSERT INTO t SELECT i, 'row ' || i, repeat(md5(i::text), 200) FROM generate_series(1, 200) i",
    "INSERT INTO nokey VALUES (1, 'x'), (1, 'x'), (2, 'y'), (3, NULL)",
)
MISSED = (
    "DELETE FROM t WHERE id <= 20",
    "UPDATE t SET a = 'changed' WHERE id BETWEEN 21 AND 30",
    "UPDATE t SET id = 1000 + id WHERE id BETWEEN 31 AND 33",
    "INSERT INTO t VALUES (500, 'new', NULL)",
    "UPDATE t SET a = 'changed and back' WHERE id = 40", "UPDATE t SET a = 'row 40' WHERE id = 40",
    "DELETE FROM nokey WHERE ctid = (SELECT min(ctid) FROM nokey WHERE a = 1)", "INSERT INTO nokey VALUES (4, 'z')",
)  # fmt: skip


def mended(shop: Shop) -> Recovered:
    return recover(Task(shop.settings, shop.name, threading.Event().wait))


def lost(make_shop: MakeShop, **options: object) -> Shop:
    """A shop whose slot is gone, and whose store went on."""
    shop = make_shop(*TABLES, tables=("public.t", "public.nokey"), **options)
    with shop.capturing() as running:
        # an unchanged TOAST value is absent in the topic: recovery must not take it for a difference
        shop.execute(*BEFORE, "UPDATE t SET a = a || '!' WHERE id > 100")
        shop.await_captured(running)
    shop.drop_slot()
    shop.execute(*MISSED)
    return shop


def assert_whole(shop: Shop) -> None:
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (501, 'afterwards', NULL)", "DELETE FROM t WHERE id = 199")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert len(audit.mended) == 1 and "1 mended" in audit.sentence()


def test_missed_deletes_become_deletes_and_the_rest_reads(make_shop: MakeShop) -> None:
    shop = lost(make_shop, batch_changes=7)
    before = {table: len(shop.records(table)) for table in ("public.t", "public.nokey")}
    found = mended(shop)
    assert "is gone, but the journal stands at" in found.gap.reason and found.gap.end
    assert found.tables == {
        "public.t": {"equal": 167, "reads": 14, "deletes": 23, "rejected": 0},
        "public.nokey": {"equal": 3, "reads": 1, "deletes": 1, "rejected": 0},
    }
    written = [e.op for _, e in shop.changes("public.t") if e and e.snapshot == "incremental"]
    assert sum(op is Op.READ for op in written) == 14 and sum(op is Op.DELETE for op in written) == 23
    assert len(shop.records("public.t")) == before["public.t"] + 14 + 2 * 23  # each delete with its tombstone
    entries = [entry for entry in shop.journal() if entry.snapshot_state]
    assert len(entries) > 5 and all(entry.more for entry in entries)
    (gap,) = gaps(shop.journal())
    assert gap == found.gap
    assert_whole(shop)
    with pytest.raises(ConfigError, match="nothing to recover"):
        mended(shop)


def test_a_recovery_cut_off_is_done_again_and_capture_waits_for_it(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = lost(make_shop, batch_changes=7)
    arm("capture.begun=raise@4")
    try:
        with pytest.raises(FailpointHit):
            mended(shop)
    finally:
        arm("")
    assert isinstance(failure := shop.fails(), SourceError) and "was cut off" in failure.cause
    told = report(shop.settings, shop.name)
    assert "was cut off" in told["state"] and not told["snapshot"]
    found = mended(shop)
    assert "is gone, but the journal stands at" in found.gap.reason
    assert found.tables["public.t"]["deletes"] + found.tables["public.t"]["reads"] < 37  # some were there already
    assert_whole(shop)


def test_a_key_that_was_changed_meanwhile_begins_the_table_anew(make_shop: MakeShop) -> None:
    shop = lost(make_shop)
    shop.execute("ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER id TYPE bigint, ADD PRIMARY KEY (id)")
    found = mended(shop)
    assert found.tables["public.t"] == {"equal": 0, "reads": 181, "deletes": 0, "rejected": 0}
    assert_whole(shop)


def test_what_waited_of_a_stopped_table_does_not_come_behind_what_the_recovery_wrote(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY, a text)")
    with shop.capturing() as running:
        shop.execute("INSERT INTO t VALUES (1, 'one'), (2, 'two')")
        shop.await_captured(running)
    shop.execute("ALTER TABLE t ALTER a TYPE bigint USING 3", "UPDATE t SET a = 5", "DELETE FROM t WHERE id = 2")
    with shop.capturing():
        pass
    assert waiting(shop.settings.kafka, shop.name)["public.t"].changes == 3
    shop.drop_slot()
    shop.execute("UPDATE t SET a = 9", "INSERT INTO t VALUES (2, 7)")
    allow(shop)
    assert mended(shop).tables["public.t"]["reads"] == 2
    assert not waiting(shop.settings.kafka, shop.name)
    with shop.capturing() as running:
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    read = sorted((e.after["id"], e.after["a"]) for _, e in shop.changes("public.t") if e and e.after)
    assert read == [("1", "9"), ("1", "one"), ("2", "7"), ("2", "two")]


def test_a_slot_that_is_another_s_is_never_dropped(make_shop: MakeShop) -> None:
    shop = lost(make_shop)
    other = make_shop()
    other.execute(f"SELECT pg_create_logical_replication_slot('{shop.slot}', 'pgoutput')")
    with pytest.raises(SourceError, match="belongs to the database"):
        mended(shop)
    assert other.value(f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{shop.slot}'") == 1
    with pytest.raises(ConfigError, match="Nothing was captured yet"):
        mended(make_shop())
    other.drop_slot()
    other.execute(f"SELECT pg_drop_replication_slot('{shop.slot}')")


def test_an_older_copy_of_the_store_becomes_a_new_epoch(tmp_path: Path, kafka: KafkaSettings, registry: str) -> None:
    """Its positions lie before those of the journal, which must go on all the same."""
    servers = [PostgresForTests(tmp_path / name, name, durable=False) for name in ("a", "b")]
    for server in servers:
        server.ensure()
        server.start()
    try:
        shop = Shop(servers[0].create_database("shop"), kafka, registry, tables=("public.t", "public.nokey"))
        shop.execute("CREATE TABLE filler AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)", *TABLES)
        with shop.capturing() as running:
            shop.execute(*BEFORE)
            shop.await_captured(running)
        last = shop.last()
        other = Shop(servers[1].create_database("shop"), kafka, registry)
        other.execute(*TABLES, *BEFORE, *MISSED)
        from tests.streams.capture.test_guardian import moved, refused

        moved(shop, other.dsn)
        refused(shop, "is another server")
        found = mended(shop)
        assert found.tables["public.t"]["deletes"] == 23
        now = shop.last()
        assert last and now and now.epoch == last.epoch + 1 and now.last.lsn < last.last.lsn
        assert_whole(shop)
    finally:
        for server in servers:
            server.stop()
