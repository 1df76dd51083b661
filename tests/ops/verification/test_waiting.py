"""Flows with a schedule on real parts, with a clock that the tests move: held, released, proven, cut off between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.conftest import SCHEMA
from tests.streams.flows.harness import Shop
from tests.streams.flows.test_releases import Clock
from tests.streams.flows.test_worker import await_captured

from instep.settings import KafkaSettings
from instep.topics import journal_topic
from instep_connectors.kafka import read_topic
from instep_ops.planning.workers import previews_of
from instep_ops.verify import Report, by_source, verify
from instep_streams.flows.outbox import read_marker
from instep_streams.flows.worker import Worker

SELECT = "SELECT p.sku, p.name, s.name AS supplier FROM products p JOIN suppliers s ON s.id = p.supplier_id"
NIGHTLY = 'schedule = "0 2 * * *"'


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.flow("nightly", "sku", SELECT, NIGHTLY)
    yield made
    made.close()


def prove(shop: Shop) -> Report:
    return asyncio.run(verify(shop.settings, target=False))


def differing(report: Report) -> set[tuple[str, ...]]:
    return {each.key for each in report.differences}


def test_held_until_the_time_and_proven_meanwhile(shop: Shop) -> None:
    clock, name = Clock(), shop.named("nightly")
    with shop.capturing() as capture, shop.working(clock) as worker:
        shop.settle(capture, worker)
        assert shop.folded("nightly") == shop.expected("nightly")
        before = shop.folded("nightly")
        shop.execute("UPDATE products SET name = 'new' WHERE id < 4")
        shop.settle(capture, worker)
        assert shop.folded("nightly") == before
        told = shop.status()["flows"][name]
        assert (told["held"], told["waiting"], told["next_release"]) == (3, 0, "2026-07-02T02:00:00Z")
        report = prove(shop)
        assert report.ok and report.waiting == 3 and "3 wait for their flow's time" in report.sentence()
        with psycopg.connect(shop.state, autocommit=True) as conn:  # behind the worker's back
            conn.execute("UPDATE suppliers SET name = 'damaged' WHERE id = 3")
        shop.execute("UPDATE products SET name = 'new' WHERE id = 7")
        shop.settle(capture, worker)
        clock.to("2026-07-02 02:00:00")
        until(lambda: shop.folded("nightly")["sku7",]["supplier"] == "damaged", 60, "the release is out")
        report = prove(shop)
        assert differing(report) == {("sku2",), ("sku7",)} and report.waiting == 0
        shop.execute("UPDATE products SET name = 'newer' WHERE id = 1")
        shop.settle(capture, worker)
        report = prove(shop)
        assert differing(report) == {("sku2",), ("sku7",)}, (
            "what waits hides no document that is wrong without a change"
        )
        assert report.waiting == 1
        shop.flow("nightly", "sku", SELECT, 'min_interval = "5s"')
        (found,) = previews_of(shop.settings, shop.name, by_source(shop.settings, None)[shop.name], 1)
        assert found.state == "same" and found.timing == "at 0 2 * * * (UTC)"


def test_cut_off_between_release_and_emission(shop: Shop) -> None:
    clock = Clock()
    with shop.capturing() as capture:
        with shop.working(clock) as worker:
            shop.settle(capture, worker)
        before = shop.folded("nightly")
        shop.execute("UPDATE products SET name = 'new' WHERE id = 1")
        await_captured(shop)
        kafka = shop.settings.kafka
        made = Worker(shop.settings, shop.name, clock=clock)
        try:
            assert list(made.start(read_marker(kafka, shop.name))) == []
            journal = [
                r for r in read_topic(kafka, journal_topic(shop.name)) if made._inbox.entry(r).batch > made.entry
            ]
            assert list(made.step(journal)) == [] and list(made.slice()) == []
            clock.to("2026-07-02 02:00:00")
            assert [[each.key for each in out.batch.documents] for out in made.slice()] == [[("sku1",)]]
        finally:
            made.close()
        assert shop.folded("nightly") == before
        shop.execute("UPDATE products SET name = 'new' WHERE id = 2")
        with shop.working(clock) as worker:
            shop.settle(capture, worker)
            held = shop.folded("nightly")
            assert held["sku1",]["name"] == "new" and held["sku2",] == before["sku2",]
            assert len(shop.records("nightly")) == len(before) + 1
            clock.to("2026-07-03 02:00:00")
            until(lambda: shop.folded("nightly") == shop.expected("nightly"), 60, "the next release is out")
