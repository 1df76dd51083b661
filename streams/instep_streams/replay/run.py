"""Replay: plan it from the journal and the flow topic, then deliver again beside the live flow."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from instep.change import POSITION_HEADER, Position
from instep.errors import ConfigError
from instep.flowfile import Flow, load_all
from instep.journal import JournalEntry, TopicPartition
from instep.protocols import Fields, Key, Sink
from instep.settings import KafkaSettings, Settings
from instep.topics import flow_topic, journal_topic
from instep_connectors.kafka import RangeReader, Record, end_offsets, offsets_for_time, partitions, start_offsets
from instep_schemas.records import decode_journal, unframe
from instep_streams.delivery.beside import Beside, beside
from instep_streams.delivery.conflate import Newest, Waiting, conflate
from instep_streams.delivery.decide import Applied
from instep_streams.delivery.records import Schema, waiting_of
from instep_streams.delivery.sinks import delivered_columns
from instep_streams.delivery.transform import Untransformable, transformed
from instep_streams.replay.plan import ReplayPlan, Stretch, forecast, stretch

SKEW_MS: Final = 300_000
"""How far the clocks of the store and of Kafka may differ: records are looked for from this much earlier on."""
PAGE: Final = 200
"""Documents compared or delivered at a time."""

Progress = Callable[[int, int], None]
"""Told how many documents of how many have their outcome."""


@dataclass(frozen=True, slots=True)
class _Start:
    """Where a person wants it to begin: exactly one is set."""

    since_us: int | None
    position: Position | None


async def plan(
    settings: Settings,
    flow: str,
    *,
    since: datetime | None = None,
    position: Position | None = None,
    keys: Sequence[Key] = (),
) -> ReplayPlan:
    """Say what a replay would deliver and change; changes nothing.

    Args:
        settings: the project's.
        flow: the flow's name; it must have a target.
        since: from this commit time on (aware).
        position: from this source position on.
        keys: only these; empty: all.

    Raises:
        ConfigError: no such flow, no target, sources joined to its own, or not exactly one of since and position.
        ConnectionError, TimeoutError: a part does not answer.
        InstepError: one refuses, or retention deleted what is asked for.
    """
    if (since is None) == (position is None):
        raise ConfigError("A replay needs a beginning.", "Give either a time or a source position.")
    chosen = _flow(settings, flow)
    start = _Start(None if since is None else round(since.timestamp() * 1e6), position)
    source = _source(settings, chosen)
    if settings.joined(source):
        raise ConfigError(
            f"Flow {flow} may read several sources ({', '.join([source, *settings.joined(source)])}): no one position"
            " tells where a replay of it would begin.",
            "`instep verify --repair` delivers every key again that differs.",
        )
    part = await asyncio.to_thread(_stretch, settings, source, start)
    assert chosen.target is not None
    if part is None:
        return ReplayPlan(flow, chosen.target, None)
    async with beside(settings, chosen.target, {flow: chosen}) as parts:
        waiting = await asyncio.to_thread(_documents, settings.kafka, flow, part, parts.registry.schema)
        waiting = [each for each in waiting if not keys or each.document.key in keys]
        return await _plan(settings, chosen, part, waiting, parts)


async def run(settings: Settings, plan: ReplayPlan, progress: Progress | None = None) -> dict[str, int]:
    """Deliver what was planned, beside the live flow; a version that the target has left behind stays so.

    Returns:
        How many documents (the newest of each key) had which outcome; `superseded`: newer ones were left alone.

    Raises:
        ConnectionError, TimeoutError: a part does not answer; what was delivered stays, the replay may be repeated.
        InstepError: one refuses.
    """
    counts: Counter[str] = Counter()
    if not plan.newest:
        return {}
    async with beside(settings, plan.target, {plan.flow: _flow(settings, plan.flow)}) as parts:
        for start in range(0, len(plan.newest), PAGE):
            page = [each.waiting for each in plan.newest[start : start + PAGE]]
            counts.update({kind.value: count for kind, count in (await parts.engine.deliver(page)).items()})
            if progress is not None:
                progress(start + len(page), len(plan.newest))
    return dict(counts)


async def _plan(settings: Settings, flow: Flow, part: Stretch, waiting: Sequence[Waiting], parts: Beside) -> ReplayPlan:
    newest = conflate(waiting)
    sink = parts.sinks[flow.name]
    columns = [
        name for name in await asyncio.to_thread(delivered_columns, flow, parts.registry) or () if name not in flow.key
    ]
    applied: dict[Key, Applied] = {}
    held: dict[Key, Fields] = {}
    for start in range(0, len(newest), PAGE):
        page = newest[start : start + PAGE]
        applied |= await parts.ledger.known(flow.name, [each.waiting.document for each in page])
        held |= await sink.read([each.waiting.document.key for each in page])
    found = forecast(flow, columns, [_made(each, flow, parts) for each in newest], applied, held)
    assert flow.target is not None
    calls, seconds = _cost(settings, flow.target, sink, newest)
    return ReplayPlan(flow.name, flow.target, part, len(waiting), tuple(newest), found, calls, seconds)


def _made(newest: Newest, flow: Flow, parts: Beside) -> Newest:
    """As the target would get it; a document that the flow's function fails for counts as one that would change."""
    try:
        document = transformed(newest.waiting.document, flow, parts.transforms.get(flow.name))
    except Untransformable:
        return newest
    return replace(newest, waiting=replace(newest.waiting, document=document))


def _cost(settings: Settings, target: str, sink: Sink, newest: Sequence[Newest]) -> tuple[float, float]:
    calls = len(newest) * sink.capabilities.calls_per_document
    rate = settings.targets[target].calls_per_second
    return calls, calls / rate if rate else 0.0


def _flow(settings: Settings, name: str) -> Flow:
    flows = load_all(settings.flows_dir)
    if name not in flows:
        raise ConfigError(f"There is no flow {name!r}.", f"Known: {', '.join(flows) or 'none'}.")
    if flows[name].target is None:
        raise ConfigError(f"Flow {name} has no target to replay into.", "Its topic may be read by anyone again.")
    return flows[name]


def _source(settings: Settings, flow: Flow) -> str:
    if flow.source:
        return settings.leader(flow.source) if flow.source in settings.sources else flow.source
    if len(settings.leaders) != 1:
        raise ConfigError(f"Flow {flow.name} does not say which source it reads.", 'Add source = "…" to its header.')
    return settings.leaders[0]


def _stretch(settings: Settings, source: str, start: _Start) -> Stretch | None:
    return stretch(_journal(settings.kafka, source, start), since_us=start.since_us, position=start.position)


def _journal(kafka: KafkaSettings, source: str, start: _Start) -> Iterator[JournalEntry]:
    since_ms = None if start.since_us is None else start.since_us // 1000 - SKEW_MS
    for record in _read(kafka, journal_topic(source), since_ms):
        if record.value is not None:
            yield decode_journal(unframe(record.value)[1])


def _documents(kafka: KafkaSettings, flow: str, part: Stretch, schema: Schema) -> list[Waiting]:
    since_ms = part.since_us // 1000 - SKEW_MS if part.since_us else None
    records = _read(kafka, flow_topic(flow), since_ms)
    return [waiting_of(record, flow, schema) for record in records if _position(record) >= part.first]


def _position(record: Record) -> Position:
    return Position.unpack(dict(record.headers)[POSITION_HEADER])


def _read(kafka: KafkaSettings, topic: str, since_ms: int | None) -> Iterator[Record]:
    """Every record from about this time (None: from the start) to the end as it is now; belongs to no group."""
    tps: list[TopicPartition] = [(topic, number) for number in range(partitions(kafka, topic))]
    if not tps:
        raise ConfigError(f"There is no topic {topic} yet.", "Start the processes first: `instep up`.")
    starts, ends = start_offsets(kafka, tps), end_offsets(kafka, tps)
    if since_ms is not None and since_ms > 0:
        starts |= offsets_for_time(kafka, tps, since_ms)
    reader = RangeReader(kafka, "instep-replay")
    try:
        yield from reader.read({tp: (starts[tp], ends[tp]) for tp in tps})
    finally:
        reader.close()
