"""A project's agents on a real broker: documents in, records out; what fails is put away, what is done is done."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.flowtopic import FlowTopic
from tests.streams.delivery.parts import until

from instep.errors import ConfigError
from instep.settings import KafkaSettings
from instep_connectors.kafka import Record, read_topic, topics
from instep_schemas.documents import DocumentColumn
from instep_streams.agents.declare import load_agents
from instep_streams.agents.process import ERROR_HEADER, ORIGIN_HEADER, dead_topic, run

CARD = [DocumentColumn("k", "text"), DocumentColumn("v", "numeric(9,2)")]
LOW = """
from collections.abc import Sequence

from instep_streams.agents import Document, Send, agent


@agent("{flow}", to=["{to}"], attempts=1)
async def {name}(documents: Sequence[Document]) -> Sequence[Send]:
    found = []
    for each in documents:
        if each.key == ("bad",):
            raise ValueError("no such card")
        if each.fields is None:
            found.append(Send("{to}", each.key[0], None))
        elif each.fields["v"] < 5:
            found.append(Send("{to}", each.key[0], dict(each.fields)))
    return found
"""


@pytest.fixture
def cards(tmp_path: Path, kafka: KafkaSettings, registry: str, postgres: PostgresForTests) -> Iterator[FlowTopic]:
    dsn = postgres.database()
    topic = FlowTopic(tmp_path, kafka, registry, dsn, {}, header="", columns=CARD, key="k")
    yield topic
    topic.registry.close()


@asynccontextmanager
async def running(cards: FlowTopic) -> AsyncIterator[None]:
    stop = asyncio.Event()
    process = asyncio.ensure_future(run(cards.settings, stop))
    try:
        yield
    finally:
        stop.set()
        await process


async def records(cards: FlowTopic, topic: str) -> list[Record]:
    """What the topic holds; nothing while the process has not made it."""

    def read() -> list[Record]:
        return list(read_topic(cards.kafka, topic)) if topic in topics(cards.kafka) else []

    return await asyncio.to_thread(read)


async def test_documents_go_in_records_come_out_and_a_bad_one_is_put_away(cards: FlowTopic, tmp_path: Path) -> None:
    name, to = f"low_{uuid.uuid4().hex[:8]}", f"alerts_{uuid.uuid4().hex[:8]}"
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "low.py").write_text(LOW.format(flow=cards.name, to=to, name=name))
    await cards.emit(
        *(cards.record(key, {"k": key, "v": v}, 1) for key, v in [("a", 1.5), ("b", 7), ("bad", 1), ("c", 2)])
    )
    async with running(cards):

        async def sent(count: int) -> bool:
            return len(await records(cards, to)) >= count

        async def put_away() -> bool:
            return bool(await records(cards, dead_topic(name)))

        await until(lambda: sent(2))
        await cards.emit(cards.record("a", None, 2))
        await until(lambda: sent(3))
        await until(put_away)
    found = [((each.key or b"").decode(), each.value and json.loads(each.value)) for each in await records(cards, to)]
    assert sorted(found[:2]) == [("a", {"k": "a", "v": "1.50"}), ("c", {"k": "c", "v": "2.00"})]
    assert found[2:] == [("a", None)]
    (dead,) = await records(cards, dead_topic(name))
    headers = dict(dead.headers)
    assert headers[ERROR_HEADER] == b"ValueError: no such card" and headers[ORIGIN_HEADER].startswith(b"flow.card_")
    async with running(cards):  # it goes on where it stopped
        await cards.emit(cards.record("d", {"k": "d", "v": 3}, 3))
        await until(lambda: sent(4))
    assert len(await records(cards, to)) == 4


async def test_what_an_agent_names_must_be_there(cards: FlowTopic, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no agents"):
        await run(cards.settings, asyncio.Event())
    (tmp_path / "agents").mkdir()
    file = tmp_path / "agents" / "low.py"
    file.write_text(LOW.format(flow="nowhere", to="x", name="low"))
    with pytest.raises(ConfigError, match="names the flow 'nowhere'"):
        await run(cards.settings, asyncio.Event())
    file.write_text("import nowhere_at_all\n")
    with pytest.raises(ConfigError, match="ModuleNotFoundError"):
        load_agents(tmp_path)
    file.write_text(LOW.format(flow="x", to="x", name="low") * 2)
    with pytest.raises(ConfigError, match="Two agents are called low"):
        load_agents(tmp_path)
