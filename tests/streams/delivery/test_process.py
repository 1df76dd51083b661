from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.connectors.crm.contract import Contract, ContractSink, contract
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.flowtopic import FlowTopic
from tests.streams.delivery.parts import until

from instep.errors import ConfigError, TargetError
from instep.flowfile import Flow, load_all
from instep.protocols import Sink
from instep.settings import KafkaSettings, Secret, TargetSettings
from instep_connectors.kafka import OutRecord, read_topic
from instep_schemas import records
from instep_schemas.documents import DocumentColumn
from instep_streams.delivery import deadletters, sinks
from instep_streams.delivery.process import run
from instep_streams.delivery.retry import retry
from instep_streams.delivery.status import applied, latencies, status

CARD = [DocumentColumn("k", "text"), DocumentColumn("v", "integer")]
PRODUCT = [
    DocumentColumn("sku", "text"),
    DocumentColumn("name", "text"),
    DocumentColumn("list_price", "numeric(12,4)"),
    DocumentColumn("description", "text"),
    DocumentColumn("available", "bigint"),
]


@asynccontextmanager
async def delivering(topic: FlowTopic) -> AsyncIterator[None]:
    stop = asyncio.Event()
    process = asyncio.ensure_future(run(topic.settings, "crm", stop))
    try:
        yield
    finally:
        stop.set()
        await process


@pytest.fixture
async def crm(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Contract]:
    async with contract() as state:

        class Factory:
            def open(self, target: TargetSettings, flow: Flow) -> Sink:
                return ContractSink(state.url)

        monkeypatch.setattr(sinks, "sink_factory", lambda name: Factory())
        yield state


@pytest.fixture
def cards(tmp_path: Path, kafka: KafkaSettings, registry: str, postgres: PostgresForTests) -> Iterator[FlowTopic]:
    targets = {"crm": TargetSettings(type="contract")}
    topic = FlowTopic(
        tmp_path, kafka, registry, postgres.database(), targets, header='delete = "delete"', columns=CARD, key="k"
    )
    yield topic
    topic.registry.close()


def card(topic: FlowTopic, key: str, version: int) -> OutRecord:
    return topic.record(key, {"k": key, "v": version}, version)


async def settled(topic: FlowTopic, count: int) -> bool:
    """Whether the ledger holds so many outcomes; asked without Kafka, whose clients take their time to start."""
    async with await psycopg.AsyncConnection.connect(topic.settings.state.dsn.reveal()) as connection:
        found = await connection.execute("SELECT to_regclass('instep_delivery.outcomes') IS NOT NULL")
        if not (await found.fetchone() or (False,))[0]:
            return False
        found = await connection.execute("SELECT count(*) FROM instep_delivery.outcomes")
        return bool((await found.fetchone() or (0,))[0] == count)


async def drained(topic: FlowTopic) -> bool:
    return bool((await status(topic.settings, "crm"))["waiting"] == 0)


async def test_what_the_flow_emits_reaches_the_target_with_one_outcome_each(cards: FlowTopic, crm: Contract) -> None:
    await cards.emit(*(card(cards, f"k{n}", 1) for n in range(50)))
    async with delivering(cards):
        await until(lambda: settled(cards, 50))
        await cards.emit(card(cards, "k1", 2), cards.record("k2", None, 2), card(cards, "k3", 2))
        await until(lambda: settled(cards, 53))
    assert crm.records["k1"]["v"] == 2 and "k2" not in crm.records and len(crm.records) == 49
    found = await status(cards.settings, "crm")
    assert found["outcomes"] == {"written": 53, "unchanged": 0, "superseded": 0, "rejected": 0, "filtered": 0}
    assert found["dead_letters"] == 0 and found["oldest_waiting_us"] is None
    latency = await latencies(cards.settings, "crm")
    assert latency["count"] == 53 and 0 < (latency["p50"] or 0) <= (latency["p99"] or 0) < 30_000
    known = await applied(cards.settings, "crm", cards.name)
    assert len(known) == 50 and known["k2",].deleted and known["k1",].version == 2
    assert list(await applied(cards.settings, "crm", cards.name, [("k1",), ("none",)])) == [("k1",)]


async def test_it_goes_on_where_it_stopped(cards: FlowTopic, crm: Contract) -> None:
    async with delivering(cards):
        await cards.emit(card(cards, "a", 1))
        await until(lambda: settled(cards, 1))
    await cards.emit(card(cards, "a", 2), card(cards, "b", 2))
    found = await status(cards.settings, "crm")
    assert found["waiting"] >= 2 and found["oldest_waiting_us"] > 0
    calls = crm.calls
    async with delivering(cards):
        await until(lambda: settled(cards, 3))
    assert crm.records["a"]["v"] == 2
    assert crm.calls - calls <= 2


async def test_the_target_may_be_away_and_come_back(cards: FlowTopic, crm: Contract) -> None:
    crm.down = True
    await cards.emit(*(card(cards, f"k{n}", 1) for n in range(30)))
    async with delivering(cards):
        await until(lambda: asyncio.sleep(0, crm.calls == 0 and crm.reads > 10))
        await cards.emit(*(card(cards, f"k{n}", 2) for n in range(30)))
        crm.down = False
        await until(lambda: settled(cards, 60))
    assert {each["v"] for each in crm.records.values()} == {2}
    assert (await status(cards.settings, "crm"))["dead_letters"] == 0


async def test_while_the_target_is_away_the_process_stops_at_once(cards: FlowTopic, crm: Contract) -> None:
    crm.down = True
    await cards.emit(card(cards, "a", 1))
    async with asyncio.timeout(20):
        async with delivering(cards):
            await until(lambda: asyncio.sleep(0, crm.reads > 3))
    assert (await status(cards.settings, "crm"))["waiting"] >= 1


async def test_what_is_refused_waits_as_a_dead_letter(cards: FlowTopic, crm: Contract) -> None:
    crm.refused = {"bad"}
    async with delivering(cards):
        await cards.emit(card(cards, "bad", 1), card(cards, "good", 1))
        await cards.emit(OutRecord(cards.topic, b"\0nonsense", b"x"))
        await until(lambda: settled(cards, 3))
        await cards.emit(card(cards, "bad", 2))
        await until(lambda: settled(cards, 4))
    letters = await deadletters.list_open(cards.settings, "crm")
    assert [(letter.code, letter.version) for letter in letters if letter.key == ("bad",)] == [("http 400", 2)]
    assert [letter.code for letter in letters if letter.key != ("bad",)] == ["DECODE"]
    stored = [
        records.decode("dead_letter", records.unframe(record.value or b"")[1])
        for record in await asyncio.to_thread(lambda: list(read_topic(cards.kafka, "dead.crm")))
    ]
    own = [letter for letter in stored if letter["flow"] == cards.name and letter["key"] == ["bad"]]
    assert [letter["version"] for letter in own] == [1, 2]
    assert all(letter["document"] and letter["message"] and letter["topic"] == cards.topic for letter in own)


async def test_a_newer_version_that_is_taken_closes_the_letter(cards: FlowTopic, crm: Contract) -> None:
    crm.refused = {"bad"}
    async with delivering(cards):
        await cards.emit(card(cards, "bad", 1))
        await until(lambda: settled(cards, 1))
        crm.refused = set()
        await cards.emit(card(cards, "bad", 2))
        await until(lambda: settled(cards, 2))
    assert await deadletters.list_open(cards.settings, "crm") == []
    found = await status(cards.settings, "crm")
    assert found["dead_letters"] == 0 and found["outcomes"]["rejected"] == 1


async def test_a_letter_is_delivered_again_when_the_target_takes_it(cards: FlowTopic, crm: Contract) -> None:
    crm.refused = {"bad", "worse"}
    async with delivering(cards):
        await cards.emit(card(cards, "bad", 1), card(cards, "worse", 1), card(cards, "good", 1))
        await until(lambda: settled(cards, 3))
        crm.refused = {"worse"}
        assert await retry(cards.settings, "crm", cards.name, ("bad",)) == {"written": 1}
        assert crm.records["bad"]["v"] == 1
        assert [letter.key for letter in await deadletters.list_open(cards.settings, "crm")] == [("worse",)]
        assert await retry(cards.settings, "crm") == {"rejected": 1}
        (letter,) = await deadletters.list_open(cards.settings, "crm")
        assert letter.attempts > 1
        await cards.emit(card(cards, "bad", 2))
        await until(lambda: settled(cards, 4))
    assert crm.records["bad"]["v"] == 2


async def test_a_refused_key_ends_the_process_with_one_sentence(cards: FlowTopic, crm: Contract) -> None:
    crm.locked_out = True
    await cards.emit(card(cards, "a", 1))
    with pytest.raises(TargetError, match="key"):
        async with asyncio.timeout(20):
            await run(cards.settings, "crm", asyncio.Event())
    assert (await status(cards.settings, "crm"))["waiting"] >= 1


async def test_an_unknown_target_is_named(cards: FlowTopic) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        await run(cards.settings, "nosuch", asyncio.Event())


CHILD = textwrap.dedent("""
    import asyncio, signal, sys
    from pathlib import Path
    from instep.settings import Settings
    from instep_streams.delivery.process import run

    async def main():
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        settings = Settings.model_validate_json(sys.argv[1])
        await run(settings.model_copy(update={"root": Path(sys.argv[2])}), "crm", stop)

    asyncio.run(main())
""")


async def child(topic: FlowTopic, failpoints: str = "") -> asyncio.subprocess.Process:
    env = {**os.environ, "INSTEP_FAILPOINTS": failpoints}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, topic.settings.model_dump_json(), str(topic.settings.root), env=env
    )


@pytest.fixture
def products(
    tmp_path: Path, kafka: KafkaSettings, registry: str, postgres: PostgresForTests, tryton: TargetSettings
) -> Iterator[FlowTopic]:
    header = 'object = "product.product"\nfields = ["name", "list_price", "description"]'
    dsn = postgres.database()
    targets = {"crm": tryton}
    topic = FlowTopic(tmp_path, kafka, registry, dsn, targets, header=header, columns=PRODUCT, key="sku")
    yield topic
    topic.registry.close()


def product(topic: FlowTopic, sku: str, version: int, **more: Any) -> OutRecord:
    fields = {"sku": sku, "name": f"Product {sku}", "list_price": version + 0.5, "description": "x", "available": 3}
    return topic.record(sku, {**fields, **more}, version)


@pytest.mark.parametrize("place", ["written=kill@3", "recorded=kill@3", "before_commit=kill@2"])
async def test_killed_anywhere_nothing_is_lost_and_nothing_twice(products: FlowTopic, place: str) -> None:
    run_id = uuid.uuid4().hex[:6]
    skus = [f"{run_id}-{n}" for n in range(24)]
    await products.emit(*(product(products, sku, 1) for sku in skus))
    await products.emit(*(product(products, sku, 2) for sku in skus[:12]))
    await products.emit(products.record(skus[0], None, 3))
    process = await child(products, f"delivery.{place}")
    assert await asyncio.wait_for(process.wait(), 30) == -signal.SIGKILL
    process = await child(products)
    await until(lambda: settled(products, 37), 40)
    await until(lambda: drained(products), 40)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0
    flow = load_all(products.settings.flows_dir)[products.name]
    sink = sinks.open_sink(products.settings, flow)
    held = await sink.read([(sku,) for sku in skus])
    await sink.aclose()
    assert {key[0]: fields["list_price"] for key, fields in held.items()} == {
        sku: Decimal("2.5") if sku in skus[:12] else Decimal("1.5") for sku in skus[1:]
    }


async def test_a_sink_without_listed_fields_learns_the_columns(cards: FlowTopic, tryton: TargetSettings) -> None:
    flow = load_all(cards.settings.flows_dir)[cards.name]
    assert sinks.delivered_columns(flow, cards.registry) == ("k", "v")
    assert sinks.delivered_columns(flow.model_copy(update={"name": "nothing_yet"}), cards.registry) is None
    with pytest.raises(ConfigError, match="object"):
        sinks.open_sink(
            cards.settings.model_copy(update={"targets": {"crm": tryton.model_copy(update={"key": Secret("x")})}}), flow
        )
