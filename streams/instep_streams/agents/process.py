"""Runs a project's agents: documents in, records out, acknowledged before they count; what keeps failing put away."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from instep.errors import ConfigError
from instep.flowfile import load_all
from instep.settings import Settings
from instep.topics import dead_letter_topic, flow_topic
from instep_connectors.kafka import OutRecord, Record, TopicSpec, ensure_topics, topics
from instep_schemas.client import RegistryClient
from instep_streams.agents.declare import Agent, Send, load_agents
from instep_streams.delivery.records import waiting_of
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app, run_app

log = logging.getLogger("instep.agents")

ERROR_HEADER: Final = "instep.error"
ORIGIN_HEADER: Final = "instep.origin"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


def group(settings: Settings, agent: str) -> str:
    """The consumer group of an agent."""
    return f"{settings.name}-agent-{agent}"


def dead_topic(agent: str) -> str:
    """Where documents wait that an agent fails for: the record as it was, with headers that say why and whence."""
    return dead_letter_topic(f"agent.{agent}")


async def run(settings: Settings, stop: asyncio.Event) -> None:
    """Run every agent of `agents/*.py` until `stop` is set.

    Passing faults (Kafka, registry) are waited for.

    Raises:
        ConfigError: there is no agent, or one names a flow that is not there.
        InstepError: a person must mend something; nothing unfinished was committed.
    """
    agents = load_agents(settings.root)
    flows = load_all(settings.flows_dir)
    if not agents:
        raise ConfigError(
            "This project has no agents.", "Write one: @agent in a file of agents/ (docs/guides/flows.md)."
        )
    for each in agents.values():
        for name in each.flows:
            if name not in flows:
                known = ", ".join(flows) or "none"
                raise ConfigError(f"Agent {each.name} names the flow {name!r}.", f"There are: {known}.")
    registry = RegistryClient.of(settings.registry)
    try:
        async with asyncio.TaskGroup() as running:
            for each in agents.values():
                running.create_task(_run(settings, each, registry, stop))
    except BaseExceptionGroup as faults:
        raise faults.exceptions[0] from None
    finally:
        registry.close()


async def _run(settings: Settings, agent: Agent, registry: RegistryClient, stop: asyncio.Event) -> None:
    if not await _there(settings, agent, stop):
        return
    names = {flow_topic(flow): flow for flow in agent.flows}
    app = flow_app(group(settings, agent.name), settings.kafka, batch_size=agent.batch)

    async def work(batch: Batch) -> Sequence[OutRecord]:
        flow = names[batch.tp[0]]
        documents = await asyncio.to_thread(
            lambda: [waiting_of(record, flow, registry.schema).document for record in batch.records]
        )
        return [_record(agent, each) for each in await agent.work(documents) or ()]

    async def dead_letter(record: Record, error: Exception, failures: int) -> Sequence[OutRecord]:
        if isinstance(error, (ConnectionError, TimeoutError)):
            raise error  # a part is away: no fault of the document
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        origin = f"{record.topic}/{record.partition}/{record.offset}"
        log.warning("agent %s: %s is put away after %d failures: %s", agent.name, origin, failures, words)
        headers = [*record.headers, (ERROR_HEADER, words.encode()), (ORIGIN_HEADER, origin.encode())]
        return [OutRecord(dead_topic(agent.name), record.key, record.value, None, headers)]

    flow_agent(app, list(names), name=agent.name, max_attempts=agent.attempts, dead_letter=dead_letter)(work)
    said = asyncio.create_task(_say_ready(app, agent))
    try:
        await run_app(app, stop)
    finally:
        said.cancel()


async def _say_ready(app: FlowApp, agent: Agent) -> None:
    await app.in_group.wait()
    log.info("ready: agent %s reads %s", agent.name, ", ".join(agent.flows))


async def _there(settings: Settings, agent: Agent, stop: asyncio.Event) -> bool:
    """Make the agent's topics and wait for those of its flows; False when the process is to stop."""
    pause, told = _FIRST_PAUSE, ""
    while not stop.is_set():
        try:
            specs = [TopicSpec(name) for name in (*agent.to, dead_topic(agent.name))]
            await asyncio.to_thread(ensure_topics, settings.kafka, specs)
            known = await asyncio.to_thread(topics, settings.kafka)
            missing = [flow for flow in agent.flows if flow_topic(flow) not in known]
            if not missing:
                return True
            reason = f"the worker has not made the topic {flow_topic(missing[0])} yet"
        except (ConnectionError, TimeoutError) as exc:
            reason = str(exc)
        if reason != told:
            log.info("agent %s waits: %s", agent.name, reason)
        told = reason
        try:
            await asyncio.wait_for(stop.wait(), pause)
        except TimeoutError:
            pause = min(_LONGEST_PAUSE, pause * 1.5)
    return False


def _record(agent: Agent, send: Send) -> OutRecord:
    if send.topic not in agent.to:
        raise ConfigError(f"Agent {agent.name} sends to {send.topic!r}.", "Name the topic in its `to`.")
    value = None if send.value is None else json.dumps(send.value, ensure_ascii=False, default=_plain).encode()
    return OutRecord(send.topic, send.key.encode(), value)


def _plain(value: Any) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
