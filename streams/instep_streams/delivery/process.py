"""The deliver process of one target: its flows' topics in, one outcome per document version in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

from instep.failpoints import hit
from instep.flowfile import Flow
from instep.protocols import Sink
from instep.settings import Settings
from instep.topics import flow_topic
from instep_connectors.kafka import ensure_topics, topics
from instep_schemas.client import RegistryClient
from instep_streams.delivery.budget import Budget
from instep_streams.delivery.deadletters import KafkaLetters, topic_spec
from instep_streams.delivery.engine import Engine
from instep_streams.delivery.ledger import Ledger
from instep_streams.delivery.records import sort_out
from instep_streams.delivery.sinks import open_sink, registry_client, target_flows
from instep_streams.delivery.transform import transforms
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app, run_app

log = logging.getLogger("instep.delivery")

PARTITIONS_AT_ONCE: Final = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0

T = TypeVar("T")


class Stopped(Exception):
    """The process was asked to stop while it waited for something."""


def group(settings: Settings, target: str) -> str:
    """The consumer group of a target's delivery."""
    return f"{settings.name}-deliver-{target}"


async def run(settings: Settings, target: str, stop: asyncio.Event) -> None:
    """Deliver a target's documents until `stop` is set.

    Passing faults (Kafka, registry, state database, the target itself) are waited for. Offsets are committed only
    after the outcomes are in the ledger.

    Raises:
        InstepError: a person must mend something; nothing unfinished was committed.
    """
    flows = target_flows(settings, target)
    if not flows:
        log.warning("No flow names the target %s: nothing to deliver.", target)
        await stop.wait()
        return
    registry = registry_client(settings.registry)
    ledger = Ledger(settings.state.dsn.reveal(), target)
    sinks: dict[str, Sink] = {}
    try:
        sinks.update((name, open_sink(settings, flow, late=True)) for name, flow in flows.items())
        await _until_there(ledger.open, stop)
        await _until_there(lambda: _topics(settings, target, flows), stop)
        await _deliver(settings, target, flows, sinks, ledger, registry, stop)
    except Stopped:
        return
    finally:
        for sink in sinks.values():
            await sink.aclose()
        await ledger.aclose()
        registry.close()


async def _deliver(
    settings: Settings,
    target: str,
    flows: Mapping[str, Flow],
    sinks: Mapping[str, Sink],
    ledger: Ledger,
    registry: RegistryClient,
    stop: asyncio.Event,
) -> None:
    app = flow_app(group(settings, target), settings.kafka)
    producer: Any = app  # Faust's type of `app.producer` knows no send_many
    letters = KafkaLetters(target, registry, lambda records: producer.producer.send_many(records))
    own = settings.targets[target]
    budget = Budget(ledger, own.calls_per_second)
    engine = Engine(
        target, flows, sinks, ledger, letters, budget, attempts=own.attempts, patience=float("inf"),
        transforms=transforms(settings, flows),
    )  # fmt: skip
    names = {flow_topic(name): name for name in flows}

    async def deliver(batch: Batch) -> None:
        flow = names[batch.tp[0]]
        waiting, bad = await asyncio.to_thread(sort_out, batch.records, flow, registry.schema)
        if bad:
            await letters.put(bad)
            await ledger.record([entry for _, entry in bad])
        await engine.deliver(waiting, batch)
        hit("delivery.before_commit")

    flow_agent(app, list(names), name=f"deliver {target}", concurrency=PARTITIONS_AT_ONCE)(deliver)
    said = asyncio.ensure_future(_say_ready(app, target, flows))
    try:
        await run_app(app, stop)
    finally:
        said.cancel()


async def _say_ready(app: FlowApp, target: str, flows: Mapping[str, Flow]) -> None:
    await app.in_group.wait()
    log.info("ready: delivering %s to %s", ", ".join(flows), target)


async def _topics(settings: Settings, target: str, flows: Mapping[str, Flow]) -> None:
    await asyncio.to_thread(ensure_topics, settings.kafka, [topic_spec(target)])
    known = await asyncio.to_thread(topics, settings.kafka)
    if missing := [flow_topic(name) for name in flows if flow_topic(name) not in known]:
        raise ConnectionError(f"topic {missing[0]} is not there yet, its worker makes it")


async def _until_there(call: Callable[[], Awaitable[T]], stop: asyncio.Event) -> T:
    """Call until it works; what it waits for is said once. Raises Stopped when asked to stop."""
    pause, said = _FIRST_PAUSE, ""
    while True:
        try:
            return await call()
        except (ConnectionError, TimeoutError) as exc:
            if str(exc) != said:
                said = str(exc)
                log.info("waiting: %s", said)
        try:
            await asyncio.wait_for(stop.wait(), pause)
        except TimeoutError:
            pause = min(_LONGEST_PAUSE, pause * 1.5)
        else:
            raise Stopped
