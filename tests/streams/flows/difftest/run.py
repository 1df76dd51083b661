"""Feed a store's changes through the engine with every mishap we know, and compare documents as text."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tests.streams.flows.difftest.draw import Shop
from tests.streams.flows.difftest.store import Entry, Store

from instep import failpoints
from instep.errors import FlowError
from instep.flowfile import Flow, load_all
from instep_streams.flows.compile import compile_flow
from instep_streams.flows.engine import Batch, Engine
from instep_streams.flows.evaluate import select_sql
from instep_streams.flows.session import open_state


@dataclass
class Result:
    """What became of one flow."""

    checks: int = 0
    rows: int = 0
    differences: int = 0
    refused: str = ""
    example: str = ""

    def line(self, name: str) -> str:
        """One line for people."""
        if self.refused:
            return f"{name}: refused {self.refused}"
        end = f" e.g. {self.example}" if self.example else ""
        return f"{name}: {self.checks} checks, {self.rows} rows, {self.differences} differences{end}"


@dataclass
class Topic:
    """The flow topics and the marker, as a reader of committed records sees them."""

    documents: dict[str, dict[tuple[str, ...], str]] = field(default_factory=dict)
    marker: int = 0
    published: int = 0

    def publish(self, batch: Batch) -> None:
        """One Kafka transaction."""
        for each in batch.documents:
            flow = self.documents.setdefault(each.flow, {})
            if each.document is None:
                flow.pop(each.key, None)
            else:
                flow[each.key] = each.document
        self.published += len(batch.documents)
        self.marker = batch.progress.batch


class Run:
    """One differential run.

    Args:
        folder: holds schema.sql and flows/*.sql.
        store_dsn: an empty database for the store.
        state_dsn: an empty database for the state.
        seed: of everything random.
        recover: whether what a crash left unsent is sent (False is a deliberate defect).
    """

    def __init__(self, folder: Path, store_dsn: str, state_dsn: str, seed: int, *, recover: bool = True) -> None:
        self.rnd = random.Random(seed)
        self.store = Store(store_dsn, (folder / "schema.sql").read_text(encoding="utf-8"))
        self.shop = Shop(self.store, self.rnd)
        self.results: dict[str, Result] = {}
        self.flows = self._accepted(load_all(folder / "flows"))
        self.topic = Topic()
        self.mishaps: Counter[str] = Counter()
        self.log: list[Entry] = []
        self._state_dsn, self._recover = state_dsn, recover
        self.engine = self._start()

    def _accepted(self, flows: dict[str, Flow]) -> dict[str, Flow]:
        accepted = {}
        for name, flow in flows.items():
            self.results[name] = Result()
            try:
                compile_flow(flow, self.store.tables)
                accepted[name] = flow
            except FlowError as exc:
                self.results[name].refused = exc.code
        return accepted

    def _start(self) -> Engine:
        engine = Engine(open_state(self._state_dsn), "shop")
        engine.ensure_tables(self.store.tables.values())
        self._deploy(engine)
        if self._recover:
            self.topic.publish(engine.unsent(self.topic.marker))
        engine.sent(engine.progress.batch)
        return engine

    def _deploy(self, engine: Engine) -> None:
        while self.flows:
            try:
                engine.deploy(self.flows)
                return
            except FlowError as exc:
                name = next(each for each in self.flows if f"Flow {each}:" in str(exc))
                self.results[name].refused = exc.code
                del self.flows[name]

    def restart(self) -> None:
        """The worker dies and starts again."""
        self.close()
        self.engine = self._start()

    def close(self) -> None:
        """End the worker's session."""
        self.engine.close()

    def run(self, rounds: int, *, stop_at_difference: bool = False) -> None:
        """Some rounds of changes, mishaps and, every few rounds, comparison."""
        self.shop.fill(20 * len(self.store.tables))
        for number in range(rounds):
            for _ in range(self.rnd.randint(1, 12)):
                self.shop.transaction(self.rnd.randint(1, 6))
            self.log += self.store.entries(lambda: self.rnd.random() < 0.1)
            for _ in range(self.rnd.randint(1, 3)):
                self._step()
            if number % 5 == 4 or number == rounds - 1:
                self._drain()
                self._compare()
                if stop_at_difference and any(each.differences for each in self.results.values()):
                    return

    def _step(self) -> None:
        at = self.engine.progress.entry
        entries = self.log[at : at + self.rnd.choice((1, 2, 5, 40))]
        chance = self.rnd.random()
        if chance < 0.12:
            self._crash(entries)
        elif chance < 0.24:
            self._lose(entries)
        elif chance < 0.36 and at:
            self._stale(at)
        elif chance < 0.42:
            self.mishaps["entries twice"] += 1
            self._apply(self.log[max(0, at - 3) : at] + entries)
        else:
            self._apply(entries)
        if self.rnd.random() < 0.6 and self.engine.waiting:
            self.topic.publish(self.engine.slice(self.rnd.choice((1, 3, 1000))))
            self.engine.sent(self.topic.marker)

    def _apply(self, entries: list[Entry]) -> None:
        self.topic.publish(self.engine.process([(each.journal, each.changes) for each in entries]))
        self.engine.sent(self.topic.marker)

    def _crash(self, entries: list[Entry]) -> None:
        """Before the state's commit."""
        self.mishaps["crash before commit"] += 1
        failpoints.arm("worker.applied=raise")
        try:
            self._apply(entries)
        except failpoints.FailpointHit:
            pass
        finally:
            failpoints.arm("")
        self.restart()

    def _lose(self, entries: list[Entry]) -> None:
        """After the state's commit, before the documents are published."""
        self.mishaps["documents lost"] += 1
        if self.rnd.random() < 0.7:
            self.engine.process([(each.journal, each.changes) for each in entries])
        elif self.engine.waiting:
            self.engine.slice(self.rnd.choice((1, 3, 1000)))
        self.restart()

    def _stale(self, at: int) -> None:
        """Older entries alone once more: every row of them must be dropped, or be applied again to the same effect."""
        self.mishaps["stale segment"] += 1
        start = self.rnd.randrange(at)
        entries = self.log[start : self.rnd.randint(start + 1, at)]
        self.topic.publish(self.engine.repeat([(each.journal, each.changes) for each in entries]))
        self.engine.sent(self.topic.marker)

    def _drain(self) -> None:
        while self.engine.progress.entry < len(self.log):
            at = self.engine.progress.entry
            self._apply(self.log[at : at + 50])
        while self.engine.waiting:
            self.topic.publish(self.engine.slice())
            self.engine.sent(self.topic.marker)

    def _compare(self) -> None:
        for name, plan in self.engine.plans.items():
            result = self.results[name]
            try:
                wanted = self.store.documents(select_sql(plan))
            except psycopg.DataError:
                continue  # the SELECT itself fails on this data, in the store as well
            found = self.topic.documents.get(name, {})
            result.checks += 1
            result.rows = len(wanted)
            if wanted != found:
                result.differences += 1
                key = min(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
                result.example = result.example or f"{key}: store {wanted.get(key)}, topic {found.get(key)}"
