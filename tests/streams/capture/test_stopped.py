"""A table whose new schema the registry refuses stands still; the others go on, and nothing of it is lost."""

from __future__ import annotations

import httpx
import pytest
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Killable, Shop, until

from instep.change import Op
from instep.telemetry import METRICS
from instep.topics import held_topic
from instep_connectors.kafka import start_offsets
from instep_streams.capture.report import report
from instep_streams.capture.withheld import waiting

TABLES = ("CREATE TABLE t (id int PRIMARY KEY, a text, big text)", "CREATE TABLE u (id int PRIMARY KEY)")
HELD = (
    "ALTER TABLE t ALTER a TYPE bigint USING 5",
    "INSERT INTO t VALUES (3, 30, 'x'), (4, NULL, NULL)",
    "UPDATE t SET a = a + 1",  # the TOAST value of row 1 is unchanged
    "UPDATE t SET id = 40 WHERE id = 4",
    "INSERT INTO u VALUES (1)",
    "DELETE FROM t WHERE id = 2",
)


def stopped(make_shop: MakeShop, **options: object) -> Shop:
    shop = make_shop(*TABLES, **options)
    with shop.capturing() as running:
        shop.execute(
            "INSERT INTO t VALUES (1, 'a', (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 900) i))"
        )
        shop.execute("INSERT INTO t VALUES (2, 'b', 'c')")
        shop.await_captured(running)
    shop.execute(*HELD)
    return shop


def allow(shop: Shop, *names: str) -> None:
    for name in names or ("t-value",):
        url = f"{shop.settings.registry.url}/config/{shop.name}.public.{name}"
        assert httpx.put(url, json={"compatibility": "NONE"}).status_code == 200


def gauge(shop: Shop) -> float | None:
    return METRICS.get_sample_value("instep_table_stopped", {"source": shop.name, "table": "public.t"})


def test_the_others_go_on_and_the_table_is_told_and_held(make_shop: MakeShop, caplog: pytest.LogCaptureFixture) -> None:
    shop = stopped(make_shop)
    before = len(shop.records("public.t"))
    with shop.capturing() as running:
        shop.await_captured(running)
        assert len(shop.records("public.u")) == 1 and len(shop.records("public.t")) == before
        assert caplog.text.count("public.t is stopped: The table public.t has changed") == 1
        assert "compatibility" in caplog.text and "the other tables go on" in caplog.text
        assert gauge(shop) == 1
        audit = shop.audit()
        assert audit.faults == 1 and "public.t: stopped, 8 changes wait" in audit.problems[0]
        (told,) = report(shop.settings, shop.name)["stopped"]
        assert (told["table"], told["changes"]) == ("public.t", 8) and "has changed" in told["reason"]
    shop.execute("TRUNCATE t", "INSERT INTO t VALUES (5, 50, 'y')")
    with shop.capturing() as running:  # started again, it still waits
        shop.await_captured(running)
        assert waiting(shop.settings.kafka, shop.name)["public.t"].changes == 10


def test_allowed_it_goes_on_from_exactly_there_without_a_restart(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instep_streams.capture.stopped._LOOK_S", 0.2)
    shop = stopped(make_shop)
    with shop.capturing() as running:
        shop.await_captured(running)
        allow(shop)
        until(lambda: not waiting(shop.settings.kafka, shop.name))
        shop.execute("UPDATE t SET a = 99 WHERE id = 3")
        shop.await_captured(running)
        audit = shop.audit()
        assert gauge(shop) == 0
    assert audit.ok, audit.problems
    assert audit.rows == 4
    changes = [(e.op, e.after and e.after["id"]) for _, e in shop.changes("public.t") if e]
    assert sorted(changes, key=str) == sorted(
        [
            (Op.CREATE, "1"), (Op.CREATE, "2"), (Op.CREATE, "3"), (Op.CREATE, "4"), (Op.UPDATE, "1"), (Op.UPDATE, "2"),
            (Op.UPDATE, "3"), (Op.UPDATE, "4"), (Op.DELETE, None), (Op.CREATE, "40"), (Op.DELETE, None),
            (Op.UPDATE, "3"),
        ],
        key=str,
    )  # fmt: skip


def test_a_kill_while_it_goes_on_doubles_and_loses_nothing(make_shop: MakeShop) -> None:
    shop = stopped(make_shop, batch_changes=2)
    with shop.capturing():
        pass
    allow(shop)
    Killable(shop, "capture.before_entry=kill@3").dies()
    assert 0 < waiting(shop.settings.kafka, shop.name, settled=False)["public.t"].changes < 8
    Killable(shop, "capture.before_entry=kill@1").dies()
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert not waiting(shop.settings.kafka, shop.name)
    at = (held_topic(shop.name), 0)
    assert start_offsets(shop.settings.kafka, [at])[at] >= 8, "what was released is deleted"
    stop_again(shop)


def stop_again(shop: Shop) -> None:
    """The offsets go on behind what was deleted."""
    url = f"{shop.settings.registry.url}/config/{shop.name}.public.t-value"
    assert httpx.put(url, json={"compatibility": "BACKWARD"}).status_code == 200
    shop.execute("ALTER TABLE t ALTER a TYPE boolean USING true", "UPDATE t SET a = false")
    with shop.capturing():
        assert waiting(shop.settings.kafka, shop.name)["public.t"].changes == 3
    allow(shop)
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert not waiting(shop.settings.kafka, shop.name)


def test_copies_of_it_do_not_end_capture_and_one_of_a_table_that_came_again_waits(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("instep_streams.capture.incremental.AFTER_FAULT_S", 0.2)
    monkeypatch.setattr("instep_streams.capture.chunking.AFTER_FAULT_S", 0.2)
    shop = stopped(make_shop)
    with shop.capturing() as running:
        shop.ask("run", "public.t")
        until(lambda: "the copy of public.t is given up: The table public.t has changed" in caplog.text)
        shop.execute("DROP TABLE u", "CREATE TABLE u (id text PRIMARY KEY)", "INSERT INTO u VALUES ('7')")
        shop.execute(
            f"ALTER PUBLICATION {shop.settings.sources[shop.name].publication} ADD TABLE u",
            "CREATE TABLE late (id int PRIMARY KEY)",
            "INSERT INTO late VALUES (1), (2)",
            f"ALTER PUBLICATION {shop.settings.sources[shop.name].publication} ADD TABLE late",
        )
        until(lambda: "public.u cannot be copied yet: The table public.u has changed" in caplog.text)
        until(lambda: len(shop.records("public.late")) == 2)  # the others go first
        shop.await_captured(running)
    allow(shop, "u-key", "u-value")
    with shop.capturing():
        until(lambda: [e.after for _, e in shop.changes("public.u") if e and e.op is Op.READ] == [{"id": "7"}])
    assert Op.TRUNCATE in [e.op for _, e in shop.changes("public.u") if e]
