"""Feed a store's changes through the engine with every mishap we know, and compare documents as text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from tests.streams.flows.difftest.draw import Shop
from tests.streams.flows.difftest.store import Document, Documents, Entry, Store

from instep import failpoints
from instep.errors import FlowError
from instep.flowfile import Flow, parse
from instep_streams.flows.batch import Batch
from instep_streams.flows.catalog import GIVEN, quote
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.engine import Engine
from instep_streams.flows.session import open_state
from instep_streams.flows.statements import select_sql


@dataclass
class Result:
    """What became of one flow.

    Attributes:
        checks: full comparisons.
        rows: documents in the last one.
        differences: comparisons that found a difference.
        undetermined: keys whose document changes when the store's own rows lie in another order.
        refused: the code, if it was refused.
        crashed: an error that is no refusal.
        fault: why some keys were not compared: the SELECT itself fails for them, or their key is not unique.
        example: the first differing key.
    """

    checks: int = 0
    rows: int = 0
    differences: int = 0
    undetermined: int = 0
    refused: str = ""
    crashed: str = ""
    fault: str = ""
    example: str = ""

    @property
    def wrong(self) -> bool:
        """Whether Instep is at fault."""
        return bool(self.differences or self.crashed)

    def line(self, name: str) -> str:
        """One line for people."""
        if self.refused:
            return f"{name}: refused {self.refused}"
        if self.crashed:
            return f"{name}: CRASHED {self.crashed}"
        end = f", {self.undetermined} undetermined (they hang on the order of rows)" if self.undetermined else ""
        end += f", not compared: {self.fault}" if self.fault else ""
        end += f", e.g. {self.example}" if self.example else ""
        return f"{name}: {self.checks} checks, {self.rows} rows, {self.differences} differences{end}"


@dataclass
class Topic:
    """The flow topics and the marker, as a reader of committed records sees them."""

    documents: dict[str, Documents] = field(default_factory=dict)
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


def read(folder: Path) -> tuple[str, dict[str, str]]:
    """The schema and the flow files of a folder."""
    files = {file.stem: file.read_text(encoding="utf-8") for file in sorted((folder / "flows").glob("*.sql"))}
    return (folder / "schema.sql").read_text(encoding="utf-8"), files


class Run:
    """One differential run.

    Args:
        schema: the store's DDL.
        files: the flow files' texts by name.
        store_dsn: an empty database for the store.
        state_dsn: an empty database for the state.
        seed: of everything random.
        recover: whether what a crash left unsent is sent (False is a deliberate defect).
    """

    def __init__(
        self, schema: str, files: dict[str, str], store_dsn: str, state_dsn: str, seed: int, *, recover: bool = True
    ) -> None:
        self.rnd = random.Random(seed)
        self.store = Store(store_dsn, schema)
        self.shop = Shop(self.store, self.rnd, "\n".join([schema, *files.values()]))
        self.results: dict[str, Result] = {}
        self.flows = self._accepted(files)
        self.topic = Topic()
        self.mishaps: Counter[str] = Counter()
        self.log: list[Entry] = []
        self._state_dsn, self._recover = state_dsn, recover
        self.engine = self._start()
        self.parts = set(self.engine.parts)

    def _accepted(self, files: dict[str, str]) -> dict[str, Flow]:
        accepted = {}
        for name, text in files.items():
            self.results[name] = Result()
            try:
                accepted[name] = parse(name, text)
                compile_flow(accepted[name], self.store.tables)
            except Exception as exc:
                self._out(accepted, name, exc)
        return accepted

    def _out(self, flows: dict[str, Flow], name: str, exc: Exception) -> None:
        """A flow takes no further part: refused, or by an error that Instep should have made a refusal of."""
        flows.pop(name, None)
        if isinstance(exc, FlowError):
            self.results[name].refused = exc.code
        else:
            self.results[name].crashed = f"{type(exc).__name__}: {exc}".splitlines()[0]

    def _start(self) -> Engine:
        engine = Engine(open_state(self._state_dsn), "shop")
        engine.ensure_tables(self.store.tables.values())
        self._deploy(engine)
        if self._recover:
            self.topic.publish(engine.unsent(self.topic.marker))
        engine.sent(engine.progress.batch)
        return engine

    def _deploy(self, engine: Engine) -> None:
        while True:
            try:
                engine.deploy(self.flows)
                return
            except Exception as exc:
                name = next((each for each in self.flows if str(exc).startswith(f"Flow {each}:")), None)
                name = name or next(self._broken(engine), None)
                if name is None:
                    raise
                self._out(self.flows, name, exc)

    def _broken(self, engine: Engine) -> Iterator[str]:
        for name, flow in self.flows.items():
            try:
                engine.deploy({name: flow})
            except Exception:
                yield name

    def restart(self) -> None:
        """The worker dies and starts again."""
        self.close()
        self.engine = self._start()

    def close(self) -> None:
        """End the worker's session."""
        self.engine.close()

    def run(self, rounds: int, *, stop_at_difference: bool = False) -> None:
        """Some rounds of changes, mishaps and, every few rounds, comparison."""
        for number in range(rounds):
            self.shop.fill()
            for _ in range(self.rnd.randint(1, 12)):
                self.shop.transaction(self.rnd.randint(1, 6))
            self.log += self.store.entries(lambda: self.rnd.random() < 0.1)
            for _ in range(self.rnd.randint(1, 3)):
                self._step()
            if number % 5 == 4 or number == rounds - 1:
                self._drain()
                self._compare()
                if stop_at_difference and any(each.wrong for each in self.results.values()):
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
            self._compare_flow(self.results[name], plan)

    def _compare_flow(self, result: Result, plan: Plan) -> None:
        name = plan.flow.name
        found = self.topic.documents.get(name, {})
        try:
            rows = self.store.documents(select_sql(plan))
        except (psycopg.DataError, psycopg.errors.CardinalityViolation) as exc:
            result.fault = str(exc).splitlines()[0]  # the SELECT itself fails for some keys, in the store as well
            rows, found = self._key_by_key(plan, found)
        at = [plan.flow.key.index(each) for each in plan.anchor]
        twice = {tuple(key[i] for i in at) for key, count in Counter(key for key, _ in rows).items() if count > 1}
        if twice:
            result.fault = f"KEY_NOT_UNIQUE for {len(twice)} keys"
        wanted = dict(rows)
        result.checks += 1
        result.rows = len(wanted)
        wrong = {
            key
            for key in wanted.keys() | found.keys()
            if wanted.get(key) != found.get(key) and tuple(key[i] for i in at) not in twice
        }
        settled = wrong - self._undetermined(plan, wanted) if wrong else wrong
        result.undetermined += len(wrong) - len(settled)
        if settled:
            result.differences += 1
            key = min(settled)
            result.example = result.example or f"{key}: store {wanted.get(key)}, topic {found.get(key)}"

    def _key_by_key(self, plan: Plan, found: Documents) -> tuple[list[Document], Documents]:
        """The documents that the topic holds, each as the store gives it for its key alone; not those that fail."""
        types = {column.name: column.type for column in self.engine.columns(plan.flow.name)}
        match = " AND ".join(f"{quote(name)} = {GIVEN}::text::{types[name]}" for name in plan.flow.key)
        rows: list[Document] = []
        held = {}
        for key, document in found.items():
            try:
                rows += self.store.documents(f"{select_sql(plan)} AND {match}", key)
                held[key] = document
            except (psycopg.DataError, psycopg.errors.CardinalityViolation):
                continue
        return rows, held

    def _undetermined(self, plan: Plan, wanted: Documents) -> set[tuple[str, ...]]:
        """Keys for which the store itself gives another document when its rows lie in another order."""
        loose: set[tuple[str, ...]] = set()
        try:
            for rows in self.store.shuffled(select_sql(plan)):
                other = dict(rows)
                loose |= {key for key in wanted.keys() | other.keys() if wanted.get(key) != other.get(key)}
        except (psycopg.DataError, psycopg.errors.CardinalityViolation):
            return set()
        return loose
