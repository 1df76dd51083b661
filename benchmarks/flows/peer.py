"""The same join by hand on stock Faust tables, over the same topics: its speed, and what it gets wrong."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from benchmarks.capture import meters
from benchmarks.capture.bed import open_bed
from benchmarks.flows.engine import Figures, Sizes
from benchmarks.flows.path import PathBench
from benchmarks.flows.state import running_state
from benchmarks.flows.stock import CHANGELOGS, PARTITIONS, READY, TOPIC
from benchmarks.flows.workload import CARD, World
from instep.settings import KafkaSettings
from instep_connectors.kafka import TopicSpec, ensure_topics, read_topic
from instep_ops.embedded.server import Server

_BROKER: Final = {"compression.type": "uncompressed"}
"""Faust's client reads lz4 only with one more library."""
_QUIET_S = 10.0
"""So long nothing new may come until the peer counts as done: its commits do not tell."""
_FIRST_S = 120.0
"""It may take longer until the first: a killed one's place in the group is kept for a minute."""
_CARD = (
    "SELECT product_id::text, ARRAY[sku, name, price::text, supplier, available::text, low_sites::text,"
    f" to_char(last_order AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') || '+00'] FROM ({CARD}) q"
)


class PeerBench(PathBench):
    """A store that is captured, and stock Faust in the place of the worker."""

    def open(self) -> None:
        """Fill the store and capture it; the peer reads what the worker would."""
        self._fill()
        self.start("capture")
        self._captured()
        log = self._folder / "stock.log"
        command = [sys.executable, "-m", "benchmarks.flows.stock", self._bed.kafka.bootstrap, self._bed.registry_url]
        self._peer = Server("stock", log, self._folder / "stock.pid"), [*command, "shop", str(self._folder)]
        self._kafka = KafkaSettings(bootstrap=self._bed.kafka.bootstrap)
        ensure_topics(self._kafka, [TopicSpec(topic, PARTITIONS) for topic in (TOPIC, *CHANGELOGS)])

    def begin(self) -> None:
        """Start the peer, until it has its tables."""
        server, command = self._peer
        server.start(command, lambda: True, 5)
        deadline = time.monotonic() + 300
        while READY not in server.log.read_text(encoding="utf-8"):
            if not server.alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the peer does not start: {server.last_words()}")
            time.sleep(0.05)

    def end(self) -> None:
        """Stop it in order."""
        self._peer[0].stop(signal.SIGTERM, 60)

    def work_off(self) -> tuple[float, float]:
        """Wait until nothing comes any more; gives CPU seconds and seconds until the last record."""
        before, started = meters.cpu_s(self._peer[0].pid), time.monotonic()
        last, count = started + _FIRST_S, self._sent()
        while time.monotonic() - last < _QUIET_S:
            time.sleep(0.2)
            if not self._peer[0].alive():
                raise RuntimeError(f"the peer ended: {self._peer[0].last_words()}")
            if (now := self._sent()) != count:
                last, count = time.monotonic(), now
        return meters.cpu_s(self._peer[0].pid) - before, last - started

    def follow(self, count: int) -> Figures:
        """Changes that wait are worked off by a fresh process."""
        self.end()
        self._change(count)
        self._captured()
        sent = self._sent()
        self.begin()
        cpu, wall = self.work_off()
        return {
            "changes": count, "documents": self._sent() - sent, "changes_per_core_s": count / cpu,
            "changes_per_s": count / wall if wall else 0.0, "cpu_s": cpu,
        } | self._wrong()  # fmt: skip

    def killed(self, count: int) -> Figures:
        """The peer is killed while changes come, and started again."""
        self._change(count // 2)
        self._peer[0].kill()
        self._change(count // 2)
        self._captured()
        self.begin()
        self.work_off()
        return {"changes": count} | self._wrong()

    def _change(self, count: int) -> None:
        changes = self._world.changes(count, rename=True)
        for at in range(0, count, 10):
            self._write(self._store, changes[at : at + 10])

    def _sent(self) -> int:
        return sum(self._bed.topics.ends([TOPIC]).values())

    def _wrong(self) -> Figures:
        """Keys whose last document is not the SELECT's, tombstones and missing ones among them."""
        expected = dict(self._store.execute(_CARD.encode()).fetchall())
        found: dict[str, Any] = {}
        for record in read_topic(self._kafka, TOPIC):
            found[(record.key or b"").decode()] = None if record.value is None else json.loads(record.value)
        held = {key: card for key, card in found.items() if card is not None}
        wrong = sum(held.get(key) != expected.get(key) for key in held.keys() | expected.keys())
        return {"wrong_documents": wrong, "of": len(expected)}


def measure(folder: Path, sizes: Sizes) -> Iterator[tuple[str, Figures]]:
    """The peer's trials, in a smaller shop: it takes one record at a time."""
    with ExitStack() as stack:
        bed = stack.enter_context(open_bed(folder / "bed-of-peer", lambda *_: None, _BROKER))
        state = stack.enter_context(running_state(folder / "state-of-peer"))
        bench = PeerBench(bed, state, World(sizes.products))
        stack.callback(bench.close)
        bench.open()
        bench.begin()
        stack.callback(bench.end)
        cpu, wall = bench.work_off()
        yield "seed", {"total_s": wall, "cpu_s": cpu} | bench._wrong()
        yield "mix", bench.follow(sizes.changes)
        yield "mix, killed once", bench.killed(sizes.changes)
