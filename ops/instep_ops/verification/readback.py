"""The flow topics against the CRM: what the ledger says was applied, read back from the target."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from instep.flowfile import Flow
from instep.protocols import Delete, Document, Fields, Key, Sink
from instep.settings import Settings
from instep_ops.verification.compare import MISSING
from instep_ops.verification.delivered import Delivered, Ledgered, Waiting
from instep_ops.verification.report import Proof, Undecided
from instep_ops.verification.topics import FlowTopics
from instep_streams.delivery.sinks import open_sink
from instep_streams.delivery.status import AppliedState, applied
from instep_streams.delivery.transform import Untransformable, transformed, transforms

PATIENCE_S = 60.0
"""How long delivery may make no progress."""

_READ_AT_ONCE = 200
_PAUSE_S = 0.3


class ReadBack:
    """The CRM side of the proof of one flow.

    Args:
        settings: resolved.
        flow: a flow with a target.
        topics: read up to the position.
        rows: the SELECT's rows at the position.
        proof: gets what is found.
    """

    def __init__(
        self, settings: Settings, flow: Flow, topics: FlowTopics, rows: Mapping[Key, Fields], proof: Proof
    ) -> None:
        assert flow.target is not None
        self._settings, self._flow, self._topics, self._rows, self._proof = settings, flow, topics, rows, proof
        self._target = flow.target
        self._fold = topics.folds[flow.name]
        self._transform = transforms(settings, {flow.name: flow}).get(flow.name)
        self._rule = Delivered(self._target, flow.name, flow.key, flow.delivered, flow.delete, self._fold, self._made)

    async def run(self, patience: float = PATIENCE_S) -> None:
        """Judge every key; waits while delivery makes progress.

        Raises:
            InstepError: the target or the ledger refuses.
        """
        self._proof.target = self._target
        ledger = await self._ledger(None)
        left = [key for key in dict.fromkeys([*self._fold.keys(), *ledger]) if self._counts(key)]
        self._proof.crm_compared = len(left)
        sink = await asyncio.to_thread(open_sink, self._settings, self._flow)
        async with aclosing(sink):
            waiting, since = await self._judge(sink, left), time.monotonic()
            while waiting and time.monotonic() - since < patience:
                await asyncio.sleep(_PAUSE_S)
                before, waiting = waiting, await self._judge(sink, [each.key for each in waiting])
                since = time.monotonic() if waiting != before else since
        self._proof.undecided += [Undecided(self._flow.name, w.key, self._target, w.reason) for w in waiting]

    def _made(self, document: Document) -> Document:
        """What the target was given. A version was applied that the function, as it is now, fails for: all differs."""
        try:
            return transformed(document, self._flow, self._transform)
        except Untransformable:
            return replace(document, fields={name: MISSING for name in self._flow.delivered or ()})

    def _counts(self, key: Key) -> bool:
        newest = self._fold.newest(key)
        gone = newest is not None and newest.fields is None
        return not (gone and self._flow.delete is Delete.IGNORE)

    async def _judge(self, sink: Sink, keys: Sequence[Key]) -> list[Waiting]:
        waiting: list[Waiting] = []
        for chunk in _chunks(keys):
            try:
                waiting += await self._judge_chunk(sink, chunk)
            except (ConnectionError, TimeoutError) as exc:
                waiting += [Waiting(key, f"{self._target} or a part before it does not answer: {exc}") for key in chunk]
        return waiting

    async def _judge_chunk(self, sink: Sink, chunk: Sequence[Key]) -> list[Waiting]:
        before = await self._ledger(chunk)
        asked = [key for key in chunk if self._rule.must_read(key, before.get(key, Ledgered()))]
        held = await sink.read(asked) if asked else {}
        after = await self._ledger(chunk)
        # last: whatever the CRM held above, its version is in the topic by now
        await asyncio.to_thread(self._topics.catch_up)
        waiting: list[Waiting] = []
        for key in chunk:
            states = before.get(key, Ledgered()), after.get(key, Ledgered())
            for found in self._rule.judge(key, *states, held.get(key), self._rows.get(key)):
                if isinstance(found, Waiting):
                    waiting.append(found)
                else:
                    self._proof.differences.append(found)
                    self._proof.rejected += bool(found.reason)
        return waiting

    async def _ledger(self, keys: Iterable[Key] | None) -> dict[Key, Ledgered]:
        wanted = None if keys is None else list(keys)
        states = await applied(self._settings, self._target, self._flow.name, wanted)
        return {key: _ledgered(state) for key, state in states.items()}


def _ledgered(state: AppliedState) -> Ledgered:
    rejected = state.rejected_version or 0
    reason = f"{state.code}: {state.message}" if rejected > state.version else ""
    return Ledgered(state.version, max(state.version, rejected), reason)


def _chunks(keys: Sequence[Key]) -> Iterator[Sequence[Key]]:
    for begin in range(0, len(keys), _READ_AT_ONCE):
        yield keys[begin : begin + _READ_AT_ONCE]
