"""`instep verify --rolling`: a few keys again and again, gently, until it is stopped; it gives lines and metrics.

Each round takes some keys of the topics and some that the store draws, and judges them as a whole proof does, at one
position. A key that cannot be decided is looked at again in the next rounds; one that differs, too, until it does not.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from prometheus_client import Counter, Gauge

from instep.errors import ConfigError, InstepError
from instep.flowfile import Flow
from instep.protocols import Fields, Key
from instep.settings import Settings
from instep.telemetry import METRICS
from instep_ops.verification.compare import Difference
from instep_ops.verification.report import Proof
from instep_ops.verification.rounds import ROUNDS, Rounds
from instep_ops.verification.sample import Sampled, sampled, settle
from instep_ops.verify import by_source

ROUND_S: Final = 5.0
"""Seconds between the beginnings of two rounds, at least."""
LOAD: Final = 0.05
"""Part of the time that a store may be busy with the rounds, at most."""
_LONG_S: Final = 0.5
_AGAIN: Final = 20

KEYS: Final = Counter("instep_verify_keys", "Keys compared with the store.", ["flow"], registry=METRICS)
FOUND: Final = Counter("instep_verify_differences", "Keys found to differ.", ["flow"], registry=METRICS)
DIFFERING: Final = Gauge(
    "instep_verify_differing_keys", "Keys that differ as far as known.", ["flow"], registry=METRICS
)
FAILED: Final = Counter("instep_verify_failed_rounds", "Rounds that came to no end.", ["source"], registry=METRICS)
AGE: Final = Gauge(
    "instep_verify_round_age_seconds", "Seconds since the last round that came to an end.", ["source"], registry=METRICS
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one round found out about one flow.

    Attributes:
        flow: its name.
        position: where it was judged.
        keys: keys compared.
        undecided: those to be looked at again.
        waiting: those that differ since a change waits for the flow's time.
        differing: how many keys differ as far as known.
        differences: of keys that were not known to differ.
    """

    flow: str
    position: str
    keys: int
    undecided: int
    waiting: int
    differing: int
    differences: Sequence[Difference]

    def to_dict(self) -> dict[str, Any]:
        """As one JSON line."""
        counts = {
            name: getattr(self, name) for name in ("flow", "position", "keys", "undecided", "waiting", "differing")
        }
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        return {"time": now, **counts, "differences": [each.to_dict() for each in self.differences]}

    def lines(self) -> list[str]:
        """As a person reads it."""
        found = f"{self.flow}: {self.keys} keys compared at {self.position}, {self.differing} differ"
        shown = [
            f"  {', '.join(each.key)} {each.field or '(row)'}: store {each.store}, topic {each.topic}"
            for each in self.differences
        ]
        return [found, *shown]


class Rolling(Rounds):
    """The rounds of one source. Its parts are opened by the first round and kept.

    Args:
        settings: resolved.
        source: its name.
        flows: its flows.
        most: keys that one round may take, of all flows.
    """

    def __init__(self, settings: Settings, source: str, flows: Mapping[str, Flow], most: int) -> None:
        super().__init__(settings, source, flows, lambda text: None)
        self._most = self._count = max(most, len(flows))
        self._sampled: dict[str, Sampled] = {}
        self._tries: dict[str, Tally[Key]] = {name: Tally() for name in flows}
        self._differ: dict[str, set[Key]] = {name: set() for name in flows}
        self._asked: dict[str, set[Key]] = {}
        self.busy_s = 0.0

    async def step(self) -> list[Round]:
        """One round over all flows; raises as `Rounds.run`."""
        self.busy_s, names = 0.0, list(self._flows)
        for name in names:
            if name not in self._sampled:
                self._sampled[name] = await asyncio.to_thread(sampled, self._settings, name)
        await self._sides[self._source].barrier.deployed(names)
        self.proofs = {name: Proof(name, "", "") for name in names}
        try:
            await self._round(names)
        except BaseException:
            self._sampled.clear()  # the store's tables may have changed
            for name in names:
                self._open[name].left = set(self._tries[name])
            raise
        # as many keys as the store gives quickly
        self._count = max(len(names), self._count // 2) if self.busy_s > _LONG_S else min(self._most, self._count * 2)
        return [self._result(name) for name in names]

    def _rows(self, conn: psycopg.Connection[Any], flow: Flow) -> dict[Key, Fields]:
        each, one = self._open[flow.name], self._sampled[flow.name]
        count = max(1, self._count // len(self._flows))
        fold = self._topics.folds[flow.name] if self._topics is not None else None
        keys = list(fold.keys()) if fold is not None else []
        wanted = self._again(flow.name, count)
        count -= len(wanted)  # what is looked at again takes the place of new keys: the store is not to be asked more
        wanted |= set(random.sample(keys, min(len(keys), (count + 1) // 2)))
        begun = time.monotonic()
        settle(conn)
        anchors = one.draw(conn, (count + 1) // 2)
        rows = one.rows(conn, anchors | {one.anchor(key) for key in wanted})
        self.busy_s += time.monotonic() - begun
        each.left = wanted | rows.keys()
        self._asked[flow.name] = each.left
        return self._evaluator.typed(flow, rows)

    def _again(self, name: str, count: int) -> set[Key]:
        """Keys that are not decided yet, those nearest to it first, and some that differ; no more than `count`."""
        tries = self._tries[name]
        undecided = sorted(self._open[name].left or (), key=lambda key: -tries[key])
        return set([*sorted(self._differ[name])[: min(_AGAIN, count // 4)], *undecided][:count])

    def _result(self, name: str) -> Round:
        each, proof, tries, known = self._open[name], self.proofs[name], self._tries[name], self._differ[name]
        left, differing = each.left or set(), {found.key for found in proof.differences}
        asked = self._asked[name]
        new = differing - known
        # whoever was looked at and is neither different nor open is equal now
        known.intersection_update(differing | left | (known - asked))
        known |= differing
        self._tries[name] = Tally({key: tries[key] + 1 for key in left if tries[key] + 1 < ROUNDS})
        each.left = set(self._tries[name])
        KEYS.labels(name).inc(len(asked))
        FOUND.labels(name).inc(len(new))
        DIFFERING.labels(name).set(len(known))
        told = [found for found in proof.differences if found.key in new]
        return Round(name, proof.position, len(asked), len(left), proof.waiting, len(known), told)


async def roll(
    settings: Settings, flows: Sequence[str] | None, stop: asyncio.Event, tell: Callable[[Round], None],
    rate: float, complain: Callable[[str], None],
) -> bool:  # fmt: skip
    """Compare keys until `stop` is set; gives whether none was found to differ.

    Args:
        settings: resolved.
        flows: their names; None: all.
        stop: ends it at once.
        tell: told each round's outcome per flow.
        rate: keys per second of each source, at most.
        complain: told in words why a round came to no end; the next one is tried.

    Raises:
        ConfigError: no such flow, or one of joined sources.
    """
    chosen = by_source(settings, flows)
    joined = [source for source in chosen if settings.joined(source)]
    if joined:
        raise ConfigError(
            f"Flows of several stores ({', '.join(joined)}) cannot be compared key by key.",
            "Name other flows, or run `instep verify` without --rolling.",
        )
    last = {source: time.monotonic() for source in chosen}
    for source in chosen:
        AGE.labels(source).set_function(lambda source=source: time.monotonic() - last[source])  # type: ignore[misc]  # mypy infers no default of a lambda
    rolling = {source: Rolling(settings, source, mine, int(rate * ROUND_S)) for source, mine in chosen.items()}
    clean, ended = True, asyncio.create_task(stop.wait())
    try:
        while not stop.is_set():
            begun, busy_s = time.monotonic(), 0.0
            for source, each in rolling.items():
                rounds = await _unless(ended, _tried(each, source, complain))
                for one in rounds or ():
                    tell(one)
                    clean = clean and not one.differences
                last[source] = time.monotonic() if rounds else last[source]
                busy_s = max(busy_s, each.busy_s)
            await _unless(ended, asyncio.sleep(max(ROUND_S, busy_s / LOAD) - (time.monotonic() - begun)))
    finally:
        ended.cancel()
        await asyncio.get_running_loop().shutdown_default_executor()  # what reads now may not lose its connection
        for each in rolling.values():
            each.close()
    return clean


async def _tried(rolling: Rolling, source: str, complain: Callable[[str], None]) -> list[Round]:
    try:
        return await rolling.step()
    except ConfigError:
        raise
    except (InstepError, ConnectionError, TimeoutError) as exc:
        FAILED.labels(source).inc()
        complain(f"{source}: this round came to no end: {exc}")
        return []


async def _unless(ended: asyncio.Task[Any], work: Any) -> Any:
    """The outcome of the work; None when it was cut off, since all is to end."""
    task = asyncio.ensure_future(work)
    await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return None
