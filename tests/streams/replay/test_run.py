"""Replay on real parts: records damaged in a real CRM are mended, newer ones left alone, the live group never moves."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.flowtopic import FlowTopic
from tests.streams.delivery.parts import until
from tests.streams.delivery.test_process import PRODUCT, drained, product, settled

from instep.change import Position
from instep.errors import ConfigError
from instep.flowfile import load_all
from instep.journal import Counts, JournalEntry
from instep.protocols import Document, Fields, Key
from instep.settings import KafkaSettings, TargetSettings
from instep.topics import journal_topic, value_subject
from instep_connectors.kafka import OutRecord, Publisher, TopicSpec, committed, ensure_topics
from instep_schemas import records
from instep_streams.delivery import deadletters
from instep_streams.delivery.process import group
from instep_streams.delivery.process import run as deliver
from instep_streams.delivery.retry import retry
from instep_streams.delivery.sinks import open_sink
from instep_streams.replay import plan, run


class Shop:
    """A flow topic with its journal: version n was committed at second n."""

    def __init__(self, topic: FlowTopic) -> None:
        self.topic = topic
        self.prefix = uuid.uuid4().hex[:6]
        source = f"s{self.prefix}"
        own = topic.settings.sources["shop"]
        topic.settings = topic.settings.model_copy(update={"sources": {source: own}})
        self.source = source
        self.zero = time.time_ns() // 1_000_000_000 - 100
        name = journal_topic(source)
        ensure_topics(topic.kafka, [TopicSpec(name, 1)])
        self.schema_id = topic.registry.register(value_subject(name), records.schema_text("journal_entry"))

    def sku(self, number: int) -> str:
        return f"{self.prefix}-{number}"

    def at(self, version: int) -> datetime:
        return datetime.fromtimestamp(self.zero + version, UTC)

    def entry(self, version: int) -> OutRecord:
        committed = (self.zero + version) * 1_000_000
        position = Position(1, version * 8)
        counts = {"public.products": Counts(update=1)}
        entry = JournalEntry(self.source, version, 1, "1", 1, position, position, committed, committed, {}, {}, counts)
        body = records.frame(self.schema_id, records.encode_journal(entry))
        return OutRecord(journal_topic(self.source), b"batch", body)

    async def emit(self, *documents: OutRecord, versions: range) -> None:
        publisher = Publisher(self.topic.kafka, f"test-{uuid.uuid4().hex}")
        await publisher.start()
        await publisher.publish([*documents, *(self.entry(version) for version in versions)])
        await publisher.aclose()

    def product(self, number: int, version: int, **more: object) -> OutRecord:
        return product(self.topic, self.sku(number), version, **more)

    async def held(self) -> dict[Key, Fields]:
        sink = open_sink(self.topic.settings, load_all(self.topic.settings.flows_dir)[self.topic.name])
        try:
            return dict(await sink.read([(self.sku(number),) for number in range(20)]))
        finally:
            await sink.aclose()

    async def damage(self, *numbers: int, gone: bool = False) -> None:
        """Change records behind Instep's back, as a person in the CRM would."""
        sink = open_sink(self.topic.settings, load_all(self.topic.settings.flows_dir)[self.topic.name])
        fields = None if gone else {"name": "damaged", "list_price": Decimal(666), "description": None}
        documents = [Document("x", (self.sku(n),), fields, 1, Position(1, 1)) for n in numbers]
        await sink.write(documents)
        await sink.aclose()


@pytest.fixture
def shop(
    tmp_path: Path, kafka: KafkaSettings, registry: str, postgres: PostgresForTests, tryton: TargetSettings
) -> Iterator[Shop]:
    header = 'object = "product.product"\nfields = ["name", "list_price", "description"]'
    dsn = postgres.database()
    topic = FlowTopic(tmp_path, kafka, registry, dsn, {"crm": tryton}, header=header, columns=PRODUCT, key="sku")
    yield Shop(topic)
    topic.registry.close()


@asynccontextmanager
async def delivered(shop: Shop, count: int) -> AsyncIterator[None]:
    """Run delivery until so many versions have their outcome; then do the body beside it."""
    stop = asyncio.Event()
    process = asyncio.ensure_future(deliver(shop.topic.settings, "crm", stop))
    try:
        await until(lambda: settled(shop.topic, count), 40)
        await until(lambda: drained(shop.topic))
        yield
    finally:
        stop.set()
        await process


async def test_a_damaged_crm_is_mended_beside_the_live_flow(shop: Shop) -> None:
    settings, name = shop.topic.settings, shop.topic.name
    await shop.emit(*(shop.product(n, 1) for n in range(10)), versions=range(1, 2))
    await shop.emit(*(shop.product(n, 5) for n in range(6)), versions=range(5, 6))
    await shop.emit(shop.topic.record(shop.sku(9), None, 6), versions=range(6, 7))
    async with delivered(shop, 17):
        sound = await shop.held()
        assert len(sound) == 9
        live = committed(settings.kafka, group(settings, "crm"), [shop.topic.topic])
        await shop.damage(0, 1, 8, 9)
        await shop.damage(2, gone=True)

        found = await plan(settings, name, since=shop.at(4))
        assert found.to_dict() | {"calls": 0, "since": None} == {
            "flow": name,
            "target": "crm",
            "from_position": "1:0/28:0",
            "since": None,
            "journal_batches": [5, 6],
            "changes": 2,
            "documents": 7,
            "keys": 7,
            "would_change": 4,
            "waiting": 0,
            "equal": 3,
            "left_alone": 0,
            "ignored": 0,
            "calls": 0,
            "seconds": 0,
        }
        assert await shop.held() != sound  # a plan changes nothing

        told: list[tuple[int, int]] = []
        assert await run(settings, found, lambda done, total: told.append((done, total))) == {
            "written": 4,
            "unchanged": 3,
        }
        assert told == [(7, 7)]
        mended = await shop.held()
        assert mended.pop((shop.sku(8),))["name"] == "damaged"  # not in the stretch
        assert mended == {key: fields for key, fields in sound.items() if key != (shop.sku(8),)}

        found = await plan(settings, name, position=Position(1, 8), keys=[(shop.sku(8),)])
        assert len(found.newest) == 1 and len(found.forecast.change) == 1
        assert await run(settings, found) == {"written": 1}
        assert await shop.held() == sound
        assert committed(settings.kafka, group(settings, "crm"), [shop.topic.topic]) == live
        assert (await plan(settings, name, since=shop.at(0))).forecast.change == ()


async def test_what_became_newer_after_the_plan_is_left_alone(shop: Shop) -> None:
    settings, name = shop.topic.settings, shop.topic.name
    await shop.emit(*(shop.product(n, 1) for n in range(2)), versions=range(1, 2))
    async with delivered(shop, 2):
        await shop.damage(0, 1)
        found = await plan(settings, name, since=shop.at(0))
        await shop.emit(shop.product(0, 2), versions=range(2, 3))
        await until(lambda: settled(shop.topic, 3))
        assert await run(settings, found) == {"superseded": 1, "written": 1}
        held = await shop.held()
        assert held[(shop.sku(0),)]["list_price"] == Decimal("2.5")
        assert held[(shop.sku(1),)]["list_price"] == Decimal("1.5")


async def test_a_letter_stays_open_until_its_cause_is_mended(shop: Shop) -> None:
    settings = shop.topic.settings
    await shop.emit(shop.product(0, 1, name=None), shop.product(1, 1), versions=range(1, 2))
    async with delivered(shop, 2):
        (letter,) = await deadletters.list_open(settings, "crm")
        assert letter.key == (shop.sku(0),) and letter.code == "http 400" and "Name" in letter.message
        assert await retry(settings, "crm") == {"rejected": 1}
        await shop.emit(shop.product(0, 2, name="mended"), versions=range(2, 3))
        await until(lambda: settled(shop.topic, 3))
        assert await deadletters.list_open(settings, "crm") == []
        assert await retry(settings, "crm") == {}
        assert (await shop.held())[(shop.sku(0),)]["name"] == "mended"


async def test_before_the_beginning_and_behind_the_end(shop: Shop) -> None:
    settings, name = shop.topic.settings, shop.topic.name
    await shop.emit(versions=range(1, 3))
    empty = await plan(settings, name, since=shop.at(3) + timedelta(days=1))
    assert empty.stretch is None and await run(settings, empty) == {}
    with pytest.raises(ConfigError, match="beginning"):
        await plan(settings, name)
    with pytest.raises(ConfigError, match="nosuch"):
        await plan(settings, "nosuch", since=shop.at(1))
