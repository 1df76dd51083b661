"""A broker that misses a dead member early, and may be killed; topics with records; running apps."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from instep.settings import KafkaSettings
from instep_connectors.kafka import OutRecord, Publisher, TopicSpec, ensure_topics
from instep_ops.embedded import Kafka
from instep_streams.runtime import Batch, FlowApp, run_app
from instep_streams.runtime.chunks import Chunks
from instep_streams.runtime.consumer import Consumer


@pytest.fixture(scope="session")
def rough_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """May be killed and restarted; misses a dead group member after 3 s."""
    settings = {"group.consumer.session.timeout.ms": "3000", "group.consumer.heartbeat.interval.ms": "500"}
    server = Kafka(tmp_path_factory.mktemp("rough"), settings=settings)
    server.ensure()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name nobody else uses."""
    tag = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{tag}"


async def fill(kafka: KafkaSettings, topic: str, partitions: int, count: int, first: int = 0) -> None:
    """Records `first` to `first + count - 1` (as text) in each partition, in one transaction."""
    await asyncio.to_thread(ensure_topics, kafka, [TopicSpec(topic, partitions)])
    publisher = Publisher(kafka, f"fill-{topic}")
    await publisher.start()
    await publisher.publish(
        OutRecord(topic, b"k%d" % number, b"%d" % n, number, [("h", b"%d" % n)])
        for n in range(first, first + count)
        for number in range(partitions)
    )
    await publisher.aclose()


@asynccontextmanager
async def running(app: FlowApp) -> AsyncIterator[asyncio.Event]:
    """Run the app inside of the block; give its stop event. At the end it is stopped and must not fail."""
    stop = asyncio.Event()
    task = asyncio.create_task(run_app(app, stop))
    try:
        yield stop
    finally:
        stop.set()
        await task


def numbers(batch: Batch) -> list[int]:
    return [int(record.value or b"") for record in batch.records]


def chunks_of(app: FlowApp) -> Chunks:
    consumer = app.consumer
    assert isinstance(consumer, Consumer)
    return consumer.chunks
