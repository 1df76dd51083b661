"""The store's SELECT against the flow topics: round by round, until every key is decided."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from instep.change import Position
from instep.flowfile import Flow
from instep.protocols import Fields, Key
from instep.settings import Settings
from instep_ops.verification.barrier import Barrier
from instep_ops.verification.compare import topic_differences
from instep_ops.verification.fold import Fold, Verdict
from instep_ops.verification.report import Proof, Undecided
from instep_ops.verification.snapshot import nudge, pinned
from instep_ops.verification.topics import FlowTopics, JournalTail
from instep_ops.verification.worker import Evaluator, decoder
from instep_ops.verification.written import WrittenTopics
from instep_streams.delivery.sinks import registry_client

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


class Rounds:
    """The topic side of the proof of one source.

    Args:
        settings: resolved.
        source: its name.
        flows: its flows.
        tell: told what is being done.
    """

    def __init__(self, settings: Settings, source: str, flows: Mapping[str, Flow], tell: Tell) -> None:
        self._settings, self._source, self._flows, self._tell = settings, source, flows, tell
        self._dsn = settings.sources[source].dsn.reveal()
        own = settings.sources[source].journal
        self._tail: Any = JournalTail(settings.kafka, source) if own else WrittenTopics(settings, source)
        self._registry = registry_client(settings.registry)
        self._barrier = Barrier(settings, source, self._registry)
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
        await self._barrier.deployed(self._flows)
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
        mark = await asyncio.to_thread(self._tail.mark)
        lsn = await asyncio.to_thread(self._select, names)
        self._tell(f"{self._source}: waiting until capture and worker have passed the position")
        await asyncio.to_thread(nudge, self._dsn)
        epoch = await self._barrier.passed(lsn)
        at = Position(epoch, lsn, 0)
        at_rest = await asyncio.to_thread(self._read, at, mark)
        for name in names:
            self._judge(name, at, at_rest)

    def _select(self, names: list[str]) -> int:
        with pinned(self._dsn) as store:
            for name in names:
                self._open[name].rows = self._evaluator.rows(store.conn, self._flows[name])
                self.rows.setdefault(name, self._open[name].rows)
            return store.lsn

    def _read(self, at: Position, mark: Any) -> bool:
        if self._topics is None:
            decoders = {name: decoder(self._registry, flow) for name, flow in self._flows.items()}
            self._topics = FlowTopics(self._settings.kafka, decoders, at)
        self._topics.advance(at)
        self._topics.catch_up()
        at_rest: bool = self._tail.at_rest(mark, at)
        return at_rest

    def _judge(self, name: str, at: Position, at_rest: bool) -> None:
        assert self._topics is not None
        fold, each, proof = self._topics.folds[name], self._open[name], self.proofs[name]
        proof.position = str(at)
        candidates = list(each.candidates(fold))
        if each.left is None:
            proof.rows, proof.topic_compared = len(each.rows), len(candidates)
        left, suspected = set(), {}
        for key in candidates:
            verdict = fold.judge(key, each.rows.get(key), at_rest)
            if verdict is Verdict.SUSPECT:
                suspected[key] = each.suspected.get(key, 0) + 1
            if verdict is Verdict.DIFFERENT or suspected.get(key, 0) >= CONVINCING:
                held = fold.held(key)
                proof.differences += topic_differences(name, key, each.rows.get(key), held.fields if held else None)
            elif verdict is not Verdict.EQUAL:
                left.add(key)
        each.left, each.suspected = left, suspected

    def close(self) -> None:
        """Disconnect."""
        self._registry.close()
        if self._topics is not None:
            self._topics.close()
