"""Latencies by stage, measured at the end of each stage by an observer that takes no part in the work."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from instep.errors import InstepError
from instep.settings import Settings
from instep_connectors.kafka import Follower, Record, topics
from instep_ops.demo.project import SOURCE
from instep_schemas.client import RegistryClient
from instep_schemas.decode import Decoder, compile_decoder

_RECENT = 500
_COMMITTED = "instep.committed_us"


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds; None when nothing was measured."""

    p50: float | None
    p99: float | None

    def to_dict(self) -> dict[str, float | None]:
        """As the report shows it."""
        return {"p50": self.p50, "p99": self.p99}


def percentiles(milliseconds: Sequence[float]) -> Percentiles:
    """Median and 99th percentile."""
    if len(milliseconds) < 2:
        return Percentiles(*(2 * [milliseconds[0] if milliseconds else None]))
    cuts = statistics.quantiles(milliseconds, n=100, method="inclusive")
    return Percentiles(round(cuts[49], 1), round(cuts[98], 1))


class Series:
    """Measured latencies of one stage, milliseconds."""

    def __init__(self) -> None:
        self._all: list[float] = []
        self._recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, committed_us: int) -> None:
        """A change committed then has arrived now."""
        took = time.time_ns() / 1e6 - committed_us / 1e3
        self._all.append(took)
        self._recent.append(took)

    def overall(self) -> Percentiles:
        """Of everything measured."""
        return percentiles(list(self._all))

    def recent(self) -> Percentiles:
        """Of the last 500."""
        return percentiles(list(self._recent))


class Observer:
    """Reads the data topics and the flow topics as any consumer may (read_committed), from their present end on.

    Args:
        settings: resolved.
        flows: names of the flow topics to follow.
    """

    def __init__(self, settings: Settings, flows: Sequence[str]) -> None:
        self._settings = settings
        self._flows = frozenset(flows)
        self._client = RegistryClient(settings.registry.url)
        self._decoders: dict[int, Decoder] = {}
        self.to_topic, self.to_flow = Series(), Series()
        self.changes = 0
        self.documents = 0
        self.newest: deque[Record] = deque(maxlen=20)
        self.fault: InstepError | None = None

    def run(self, stop: threading.Event, ready: threading.Event) -> None:
        """Observe until `stop`; sets `ready` when the first record after now would be seen."""
        try:
            names = [name for name in topics(self._settings.kafka) if self._is_data(name) or name in self._flows]
            follower = Follower(self._settings.kafka, names)
            try:
                follower.poll(0.0)
                ready.set()
                while not stop.is_set():
                    record = follower.poll(0.2)
                    if record is not None:
                        self._measure(record)
            finally:
                follower.close()
        except InstepError as exc:
            self.fault = exc
            ready.set()

    def _is_data(self, name: str) -> bool:
        return name.startswith(f"{SOURCE}.") and not name.startswith(f"{SOURCE}.__")

    def _measure(self, record: Record) -> None:
        if record.topic in self._flows:
            self.documents += 1
            self.newest.append(record)
            committed = next((value for name, value in record.headers if name == _COMMITTED), b"")
            if any(committed):
                self.to_flow.add(int.from_bytes(committed, "big"))
        elif record.value is not None:
            self.changes += 1
            if (committed_us := self._committed(record.value)) is not None:
                self.to_topic.add(committed_us)

    def _committed(self, value: bytes) -> int | None:
        """Commit time of a change; None for snapshot rows and while the registry does not answer."""
        schema = int.from_bytes(value[1:5], "big")
        if schema not in self._decoders:
            try:
                self._decoders[schema] = compile_decoder(self._client.schema(schema), columns=())
            except (ConnectionError, TimeoutError):
                return None
        envelope = self._decoders[schema](value[5:])
        return envelope.ts_us if envelope.snapshot == "false" else None
