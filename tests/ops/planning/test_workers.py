"""A move from one worker to several, as `instep plan` shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.ops.planning.test_plan import CARD, SCHEMA
from tests.streams.flows.harness import Shop
from tests.streams.flows.test_shards import share_among

from instep.settings import KafkaSettings
from instep_ops.planning.asking import flows_of
from instep_ops.planning.steps import Step
from instep_ops.planning.workers import previews_of, share_steps
from instep_ops.verify import verify
from instep_streams.flows import layout


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.flow("card", "sku", CARD)
    yield made
    made.close()


def only(shop: Shop) -> Step:
    (step,) = share_steps(shop.settings)
    return step


def test_a_move_is_shown_before_during_and_not_after(shop: Shop) -> None:
    assert list(share_steps(shop.settings)) == []
    with shop.capturing() as capture:
        with shop.working() as worker:
            shop.settle(capture, worker)
        share_among(shop, 2)
        step = only(shop)
        assert (step.was, step.wanted, step.by_others) == ({"workers": "1"}, {"workers": "2"}, True)
        assert step.notes[0] == "worker 1: a database of its own is made and filled from the topics"
        layout.take(shop.settings, shop.name)  # the workers have begun, and were killed
        step = only(shop)
        assert step.notes[0].startswith("worker 0 is at journal entry ") and "entry 0" not in step.notes[0]
        assert step.notes[1] == "worker 1 is at journal entry 0"
        with shop.working() as worker:
            shop.settle(capture, worker)
            assert list(share_steps(shop.settings)) == []
            report = asyncio.run(verify(shop.settings, target=False))
            assert report.ok and report.rows_compared == 9
        shop.flow("card", "sku", CARD.replace("name", "upper(name) AS name"))
        (found,) = previews_of(shop.settings, shop.name, flows_of(shop.settings, shop.name), 1)
        assert (found.state, found.added, found.changed, found.removed) == ("changed", 0, 9, 0)
        assert len(found.samples) == 2, "one of each worker"
