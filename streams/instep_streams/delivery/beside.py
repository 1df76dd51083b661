"""Delivering beside the live process: replay and retried dead letters. The live group's offsets are never touched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from instep.flowfile import Flow
from instep.protocols import Sink
from instep.settings import KafkaSettings, Settings
from instep_connectors.kafka import OutRecord, Publisher, ensure_topics
from instep_schemas.client import RegistryClient
from instep_streams.delivery.budget import Budget, Lane
from instep_streams.delivery.deadletters import KafkaLetters, topic_spec
from instep_streams.delivery.engine import Engine
from instep_streams.delivery.ledger import Ledger
from instep_streams.delivery.sinks import open_sink, registry_client
from instep_streams.delivery.transform import Transform, transforms

PATIENCE: Final = 60.0
"""Seconds that a person waits for a target that does not answer."""


class _Sender:
    """Produces the few records of a run; connects when the first one comes."""

    def __init__(self, kafka: KafkaSettings, name: str) -> None:
        self._kafka, self._name = kafka, name
        self._publisher: Publisher | None = None

    async def send(self, records: Sequence[OutRecord]) -> None:
        if self._publisher is None:
            self._publisher = Publisher(self._kafka, self._name)
            await self._publisher.start()
        await self._publisher.publish(records)

    async def aclose(self) -> None:
        if self._publisher is not None:
            await self._publisher.aclose()


class Beside:
    """An engine that rewrites what the target has lost, with what it works on.

    Attributes:
        engine: calls the target within the budget's replay share.
        ledger: of the target.
        sinks: per flow.
        registry: for documents' schemas.
        transforms: the flows' functions.
    """

    def __init__(
        self, engine: Engine, ledger: Ledger, sinks: Mapping[str, Sink], registry: RegistryClient,
        transforms: Mapping[str, Transform],
    ) -> None:  # fmt: skip
        self.engine, self.ledger, self.sinks, self.registry = engine, ledger, sinks, registry
        self.transforms = transforms


@asynccontextmanager
async def beside(settings: Settings, target: str, flows: Mapping[str, Flow]) -> AsyncIterator[Beside]:
    """Open an engine for some flows of a target.

    Raises:
        ConnectionError, TimeoutError: the state database or the registry does not answer.
        InstepError: one of them refuses, or a flow has emitted nothing yet.
    """
    functions = transforms(settings, flows)
    registry = registry_client(settings.registry)
    ledger = Ledger(settings.state.dsn.reveal(), target)
    sender = _Sender(settings.kafka, f"{settings.name}-beside-{target}-{os.getpid()}")
    sinks: dict[str, Sink] = {}
    try:
        await ledger.open()
        for flow in flows.values():
            sinks[flow.name] = await asyncio.to_thread(open_sink, settings, flow, registry)
        await asyncio.to_thread(ensure_topics, settings.kafka, [topic_spec(target)])
        own = settings.targets[target]
        letters = KafkaLetters(target, registry, sender.send)
        budget = Budget(ledger, own.calls_per_second, Lane.REPLAY)
        engine = Engine(
            target, flows, sinks, ledger, letters, budget, attempts=own.attempts, rewrite=True, patience=PATIENCE,
            transforms=functions,
        )  # fmt: skip
        yield Beside(engine, ledger, sinks, registry, functions)
    finally:
        for sink in sinks.values():
            await sink.aclose()
        await sender.aclose()
        await ledger.aclose()
        registry.close()
