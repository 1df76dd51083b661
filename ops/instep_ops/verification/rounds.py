"""The store's SELECT against the flow topics: round by round, until every key is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import psycopg

from instep.change import Position
from instep.flowfile import Flow
from instep.protocols import Fields, Key
from instep.settings import Settings
from instep_ops.stores import gathered
from instep_ops.verification.barrier import Barrier
from instep_ops.verification.compare import topic_differences
from instep_ops.verification.fold import Fold, Verdict
from instep_ops.verification.report import Proof, Undecided
from instep_ops.verification.snapshot import nudge, pinned
from instep_ops.verification.topics import FlowTopics, JournalTail
from instep_ops.verification.worker import Evaluator, decoder
from instep_ops.verification.written import WrittenTopics
from instep_schemas.client import RegistryClient
from instep_streams.delivery.sinks import registry_client
from instep_streams.flows.unshown import Unshown, unshown

Tell = Callable[[str], None]

ROUNDS = 8
"""Positions tried until a key that may straddle is left undecided."""

CONVINCING = 4
"""A suspect at this many positions in a row is a difference: else it would have changed back around each of them."""


@dataclass(slots=True)
class Open:
    """What is still to be decided about one flow.

    Attributes:
        rows: the SELECT's rows at the last position.
        left: keys to judge; None: all.
        suspected: at how many positions in a row a key was a suspect.
    """

    rows: dict[Key, Fields] = field(default_factory=dict)
    left: set[Key] | None = None
    suspected: dict[Key, int] = field(default_factory=dict)

    def candidates(self, fold: Fold) -> Iterable[Key]:
        """Keys to judge now."""
        return dict.fromkeys([*self.rows, *fold.keys()]) if self.left is None else sorted(self.left)


class _Side:
    """One source of a proof: its store, its journal, the worker's progress with it."""

    def __init__(self, settings: Settings, source: str, registry: RegistryClient) -> None:
        own = settings.sources[source]
        self.dsn = own.dsn.reveal()
        self.tail: Any = JournalTail(settings.kafka, source) if own.journal else WrittenTopics(settings, source)
        self.barrier = Barrier(settings, source, registry)


class Rounds:
    """The topic side of the proof of one source, with those that are joined to it.

    Args:
        settings: resolved.
        source: its name.
        flows: its flows.
        tell: told what is being done.
    """

    def __init__(self, settings: Settings, source: str, flows: Mapping[str, Flow], tell: Tell) -> None:
        self._settings, self._source, self._flows, self._tell = settings, source, flows, tell
        self._registry = registry_client(settings.registry)
        self._sides = {name: _Side(settings, name, self._registry) for name in (source, *settings.joined(source))}
        self._evaluator = Evaluator(self._registry)
        self._open = {name: Open() for name in flows}
        self.proofs = {name: Proof(name, "", "") for name in flows}
        self.rows: dict[str, dict[Key, Fields]] = {}
        self._topics: FlowTopics | None = None

    async def run(self) -> FlowTopics:
        """Judge every key of every flow; fills `proofs`, gives the topics as they were read.

        Raises:
            InstepError: a part does not answer or does not get on.
        """
        await self._sides[self._source].barrier.deployed(self._flows)
        for number in range(1, ROUNDS + 1):
            left = [name for name, each in self._open.items() if each.left is None or each.left]
            if not left:
                break
            self._tell(f"{self._source}: round {number}: evaluating {', '.join(left)} on the store")
            await self._round(left)
        for name, each in self._open.items():
            reason = f"a batch of changes straddled each of {ROUNDS} positions"
            self.proofs[name].undecided += [Undecided(name, key, "", reason) for key in sorted(each.left or ())]
        assert self._topics is not None
        return self._topics

    async def _round(self, names: list[str]) -> None:
        marks = {name: await asyncio.to_thread(side.tail.mark) for name, side in self._sides.items()}
        lsns = await asyncio.to_thread(self._select, names)
        self._tell(f"{self._source}: waiting until capture and worker have passed the position")
        at = {}
        for name, side in self._sides.items():
            await asyncio.to_thread(nudge, side.dsn)
            at[name] = Position(await side.barrier.passed(lsns[name]), lsns[name], 0)
        waiting = await asyncio.to_thread(unshown, self._settings, self._source, [self._flows[name] for name in names])
        at_rest = await asyncio.to_thread(self._read, at, marks)
        for name in names:
            self._judge(name, at, at_rest, waiting.get(name, ()))

    def _select(self, names: list[str]) -> dict[str, int]:
        """Evaluate flows on a snapshot of each store; gives their positions."""
        flows = [self._flows[name] for name in names]
        with ExitStack() as stack:
            stores = {name: stack.enter_context(pinned(side.dsn)) for name, side in self._sides.items()}
            conn = stores[self._source].conn
            if len(stores) > 1:
                conns = {name: each.conn for name, each in stores.items()}
                place = stack.enter_context(gathered(self._settings, self._source, conns))
                place.fill(flows)
                conn = place.conn
            for flow in flows:
                self._open[flow.name].rows = self._rows(conn, flow)
                self.rows.setdefault(flow.name, self._open[flow.name].rows)
            return {name: each.lsn for name, each in stores.items()}

    def _rows(self, conn: psycopg.Connection[Any], flow: Flow) -> dict[Key, Fields]:
        return self._evaluator.rows(conn, flow)

    def _read(self, places: Mapping[str, Position], marks: Mapping[str, Any]) -> bool:
        at, joined = places[self._source], {name: each for name, each in places.items() if name != self._source}
        if self._topics is None:
            decoders = {name: decoder(self._registry, flow) for name, flow in self._flows.items()}
            self._topics = FlowTopics(self._settings.kafka, decoders, at, joined)
        self._topics.advance(at, joined)
        self._topics.catch_up()
        return all(side.tail.at_rest(marks[name], places[name]) for name, side in self._sides.items())

    def _judge(self, name: str, at: Mapping[str, Position], at_rest: bool, waiting: Sequence[Unshown]) -> None:
        assert self._topics is not None
        fold, each, proof = self._topics.folds[name], self._open[name], self.proofs[name]
        others = (f"{source} {place}" for source, place in at.items() if source != self._source)
        proof.position = ", ".join([str(at[self._source]), *others])
        candidates = list(each.candidates(fold))
        if each.left is None:
            proof.rows, proof.topic_compared = len(each.rows), len(candidates)
        left, suspected = set(), {}
        for key in candidates:
            verdict = fold.judge(key, each.rows.get(key), at_rest, any(some.has(key) for some in waiting))
            if verdict is Verdict.SUSPECT:
                suspected[key] = each.suspected.get(key, 0) + 1
            if verdict is Verdict.DIFFERENT or suspected.get(key, 0) >= CONVINCING:
                held = fold.held(key)
                proof.differences += topic_differences(name, key, each.rows.get(key), held.fields if held else None)
            elif verdict is Verdict.WAITING:
                proof.waiting += 1
            elif verdict is not Verdict.EQUAL:
                left.add(key)
        each.left, each.suspected = left, suspected

    def close(self) -> None:
        """Disconnect."""
        self._registry.close()
        if self._topics is not None:
            self._topics.close()
