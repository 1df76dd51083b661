"""Gathers what the live picture shows."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping

from instep.errors import InstepError
from instep.settings import Settings
from instep_ops.demo.figures import NOTHING, Figures, Pair, Stage
from instep_ops.demo.latency import Observer
from instep_ops.demo.pairs import Pairs
from instep_ops.demo.project import TARGET
from instep_ops.demo.proof import to_crm
from instep_ops.demo.store import Life
from instep_ops.supervisor import Supervisor
from instep_streams.delivery.status import status

_WINDOW_S = 10.0
_RECENTLY_S = 30.0
_PAIRS_EVERY_S = 2.0


class Gauge:
    """Measures a moment.

    Args:
        settings: resolved.
        life: the shop's.
        observer: measures the stages up to the flow topics.
        supervisor: of Instep's processes.
        pairs: looks up records on both sides; None: nobody sees them.
    """

    def __init__(
        self, settings: Settings, life: Life, observer: Observer, supervisor: Supervisor, pairs: Pairs | None
    ) -> None:
        self._settings = settings
        self._life = life
        self._observer = observer
        self._supervisor = supervisor
        self._pairs = pairs
        self._looked_up: tuple[float, list[Pair]] = (0.0, [])
        self._opened = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque([(self._opened, 0)])

    async def measure(self, phase: str, event: str) -> Figures:
        """The present figures."""
        outcomes, crm = await self._delivery()
        return Figures(
            phase=phase,
            seconds=time.monotonic() - self._opened,
            rate=self._rate(),
            changes=self._life.changes,
            stages=[*self._kafka_stages(), *crm],
            outcomes=outcomes,
            pairs=await self._newest_pairs(),
            processes={name: self._supervisor.pids().get(name) for name in self._supervisor.logs()},
            restarts=self._supervisor.restarts(),
            event=event,
            places=self._places(),
        )

    async def _newest_pairs(self) -> list[Pair]:
        # every look costs the CRM calls, which the documents need too
        if self._pairs is not None and time.monotonic() - self._looked_up[0] > _PAIRS_EVERY_S:
            self._looked_up = (time.monotonic(), await self._pairs.of(list(self._observer.newest)))
        return self._looked_up[1]

    def _rate(self) -> float:
        now, changes = time.monotonic(), self._life.changes
        self._seen.append((now, changes))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()
        then, before = self._seen[0]
        return (changes - before) / (now - then) if now > then else 0.0

    def _kafka_stages(self) -> list[Stage]:
        observer = self._observer
        return [
            Stage("topic", observer.to_topic.recent(), observer.changes, "changes"),
            Stage("flow", observer.to_flow.recent(), observer.documents, "documents"),
        ]

    async def _delivery(self) -> tuple[Mapping[str, int], list[Stage]]:
        if TARGET not in self._settings.targets:
            return {}, []
        try:
            found = await status(self._settings, TARGET)
            outcomes: dict[str, int] = found["outcomes"]
            latency = await to_crm(self._settings, time.time_ns() // 1000 - int(_RECENTLY_S * 1e6))
        except (ConnectionError, TimeoutError, InstepError):  # a picture for people: it draws the next moment instead
            return {}, [Stage("CRM", NOTHING, 0, "outcomes")]
        more = {"retried": found.get("retries", 0), "waiting": found["waiting"]}
        return outcomes | more, [Stage("CRM", latency, sum(outcomes.values()), "outcomes")]

    def _places(self) -> list[tuple[str, str]]:
        root = self._settings.root
        places = [
            ("status, proof", f"instep status --project {root}    instep verify --project {root}"),
            ("schemas", f"{self._settings.registry.url}/subjects"),
            ("Kafka", self._settings.kafka.bootstrap),
            ("logs, flows", f"{root}/logs/    {root}/flows/"),
        ]
        if TARGET in self._settings.targets:
            places.append(("CRM (Tryton, REST)", f"{self._settings.targets[TARGET].url}/rest/model/product.product"))
        return places
