"""A flow whose file is gone: its documents stay until a person says what is to become of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.ops.planning.test_plan import CARD, SCHEMA, Project
from tests.streams.flows.harness import InThread, Shop

from instep.errors import ConfigError
from instep.flowfile import load_all
from instep.protocols import Fields, Key
from instep.settings import KafkaSettings, TargetSettings
from instep.topics import flow_topic
from instep_connectors.kafka import topics
from instep_ops.planning.removal import Fate, decisions, remove
from instep_schemas.administration import RegistryAdmin
from instep_streams.delivery import process as delivery
from instep_streams.delivery.sinks import open_sink

SOLD = "SELECT sku, name, price::numeric(12,2) AS list_price FROM products"


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.execute(f"UPDATE products SET sku = '{os.urandom(3).hex()}-' || sku")
    made.flow("card", "sku", CARD)
    yield made
    made.close()


def ran(shop: Shop) -> None:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)


def without(shop: Shop, flow: str) -> None:
    (shop.folder / "flows" / f"{shop.named(flow)}.sql").unlink()
    shop.flow("other", "id", "SELECT id FROM products")
    ran(shop)


def test_nothing_happens_until_it_is_decided(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project(shop, capsys)
    ran(shop)
    count, card = len(shop.records("card")), project.card
    without(shop, "card")
    step = project.steps()["remove flow", card]
    assert step["asks"].startswith("its 9 documents: `instep apply --documents ") and not step["by_others"]
    assert f"remove flow: {card}" in project.json("apply", "--yes", code=1)["left"]
    assert len(shop.records("card")) == count and len(shop.folded("card")) == 9
    assert "it is not FLOW=keep" in project.text("apply", "--yes", "--documents", f"{card}=burn", code=2)

    done = project.json("apply", "--yes", "--documents", f"{card}=keep")["done"]
    assert f"remove flow: {card}" in done and len(shop.folded("card")) == 9
    assert ("remove flow", card) not in {(step["act"], step["name"]) for step in project.json("plan")["steps"]}
    with psycopg.connect(shop.state) as conn:
        left = conn.execute("SELECT count(*) FROM pg_class WHERE relname ~ '^(out|dirty|pending)_[0-9]+$'").fetchone()
        assert left == (3,), "only the other flow has tables"

    shop.flow("card", "sku", CARD)  # it comes back: what stands in the topic is known, nothing is emitted again
    ran(shop)
    assert len(shop.records("card")) == count

    without(shop, "card")
    project.json("apply", "--yes", "--documents", f"{card}=delete")
    until(lambda: flow_topic(card) not in topics(shop.settings.kafka), 30, "the topic is deleted")


def test_tombstones_reach_the_target(shop: Shop, tryton: TargetSettings) -> None:
    shop.settings = shop.settings.model_copy(update={"targets": {"crm": tryton}})
    name = shop.named("sold")
    header = 'key = "sku"\ntarget = "crm"\nobject = "product.product"\ndelete = "deactivate"'
    (shop.folder / "flows" / f"{name}.sql").write_text(f"/* instep\n{header}\n*/\n{SOLD}\n", encoding="utf-8")
    flow = load_all(shop.folder / "flows")[name]
    ran(shop)
    keys = list(shop.folded("sold"))

    def held() -> dict[Key, Fields]:
        async def read() -> dict[Key, Fields]:
            sink = open_sink(shop.settings, flow, shop.registry)
            try:
                return dict(await sink.read(keys))
            finally:
                await sink.aclose()

        return asyncio.run(read())

    delivering = InThread(delivery.run, shop.settings, "crm")
    try:
        until(lambda: len(held()) == 9, 60, "delivered")
    finally:
        delivering.stop()
    delivering.check()
    without(shop, "sold")
    assert len(held()) == 9
    with RegistryAdmin(shop.settings.registry.url) as admin:
        remove(shop.settings, admin, name, Fate.TOMBSTONE)
        assert shop.folded("sold") == {} and held() == {}
        count = len(shop.records("sold"))
        remove(shop.settings, admin, name, Fate.TOMBSTONE)
    assert len(shop.records("sold")) == count, "repeated, it finds nothing to do"


def test_only_three_answers_are_understood() -> None:
    assert decisions(["a=keep", "b=tombstone", "c=delete"]) == {"a": Fate.KEEP, "b": Fate.TOMBSTONE, "c": Fate.DELETE}
    for wrong in ("a", "a=", "=keep", "a=Keep"):
        with pytest.raises(ConfigError):
            decisions([wrong])
