"""Brings documents to a target and every one of them to exactly one outcome in the ledger.

The sink says what happened to one call; everything else is here: conflation, the stale-write guard, batches, order per
key, looking into a refused batch by halves, back-off, the account's pauses, reading back after an unknown answer,
giving up on one document (never on all of them: when the target itself is away, documents wait).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

from instep.flowfile import Flow
from instep.protocols import Sink
from instep_streams.delivery.batch import Batch, Health, Letters, Means, TargetAway
from instep_streams.delivery.budget import Budget
from instep_streams.delivery.conflate import Newest, Waiting, conflate
from instep_streams.delivery.decide import Kind
from instep_streams.delivery.ledger import Ledger
from instep_streams.delivery.transform import Transform

PATIENCE: Final = 10.0
"""Seconds after which documents that cannot be delivered are given back to wait in their partition."""


class Lease(Protocol):
    """For how long documents are this process's to deliver."""

    @property
    def revoked(self) -> bool:
        """They are for another process, or this one stops."""
        ...

    async def wait_revoked(self) -> None:
        """Return when `revoked` becomes true."""
        ...


class Engine:
    """Delivers to one target.

    Args:
        target: its name.
        flows: the flows delivered to it, by name.
        sinks: one per flow, by name.
        ledger: of this target, opened.
        letters: its dead letters.
        budget: of its account.
        attempts: tries of one document, while the target answers, before it becomes a dead letter.
        rewrite: a replay: what the target holds counts, not what the ledger says it took.
        patience: seconds that one `deliver` keeps trying while the target is away.
        sleep: waits for some seconds.
        transforms: the flows' functions, by flow.
    """

    def __init__(
        self,
        target: str,
        flows: Mapping[str, Flow],
        sinks: Mapping[str, Sink],
        ledger: Ledger,
        letters: Letters,
        budget: Budget,
        *,
        attempts: int = 8,
        rewrite: bool = False,
        patience: float = PATIENCE,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        self._flows, self._sinks, self._transforms = flows, sinks, transforms or {}
        self._means = Means(target, ledger, letters, budget, Health(target), attempts, rewrite, patience, tries={})
        self._sleep = sleep
        self._turns = {name: asyncio.Semaphore(sink.capabilities.concurrency) for name, sink in sinks.items()}

    async def deliver(self, waiting: Sequence[Waiting], lease: Lease | None = None) -> Counter[Kind]:
        """Bring every document to its outcome; returns when all of them are in the ledger.

        Documents of one key must not be in two calls at a time.

        Args:
            waiting: the documents, of any flows.
            lease: says when the documents are for another process; None: never.

        Returns:
            How many ended how; versions that had their outcome already are not counted.

        Raises:
            ConnectionError: the target (`TargetAway`) or the state database does not answer: deliver the same
                documents again later.
            InstepError: a person must mend the target or the flow.
        """
        deadline = time.monotonic() + self._means.patience
        parts = list(self._parts(conflate(waiting)))
        runs = (self._batch(*part, deadline, lease) for part in parts)
        results = await asyncio.gather(*runs, return_exceptions=True)
        faults = [result for result in results if isinstance(result, BaseException)]
        if faults:  # one that a person must mend goes before those that pass
            raise min(faults, key=lambda fault: isinstance(fault, ConnectionError))
        return sum((result for result in results if isinstance(result, Counter)), Counter())

    def _parts(self, newest: Sequence[Newest]) -> list[tuple[str, list[Newest]]]:
        parts = []
        for name, sink in self._sinks.items():
            own = [each for each in newest if each.waiting.document.flow == name]
            size = max(1, sink.capabilities.batch_size)
            parts += [(name, own[start : start + size]) for start in range(0, len(own), size)]
        return parts

    async def _batch(self, flow: str, newest: Sequence[Newest], deadline: float, lease: Lease | None) -> Counter[Kind]:
        async with self._turns[flow]:
            if lease is not None and lease.revoked:
                raise TargetAway("the documents are delivered by another process now")
            if self._means.health.away and time.monotonic() > deadline:
                raise TargetAway("the target is still away")
            sleep = self._sleep if lease is None else _until(lease)
            documents = [each.waiting.document for each in newest]
            async with self._means.ledger.claim(flow, documents) as applied:
                transform = self._transforms.get(flow)
                batch = Batch(self._means, self._flows[flow], self._sinks[flow], applied, deadline, sleep, transform)
                return await batch.finish(newest)


def _until(lease: Lease) -> Callable[[float], Awaitable[None]]:
    async def sleep(seconds: float) -> None:
        try:
            await asyncio.wait_for(lease.wait_revoked(), seconds)
        except TimeoutError:
            return
        raise TargetAway("the documents are delivered by another process now")

    return sleep
