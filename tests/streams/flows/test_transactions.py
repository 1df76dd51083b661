"""A document never shows half of a source transaction: money moves between two tables, their sum never changes."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.difftest.store import Entry, Store

from instep import failpoints
from instep.flowfile import Flow
from instep_streams.flows.batch import Batch
from instep_streams.flows.engine import Engine
from instep_streams.flows.rows import Entry as Todo
from instep_streams.flows.session import open_state

PEOPLE, TOTAL = 12, 100
SCHEMA = f"""
CREATE TABLE person (id int PRIMARY KEY, name text);
CREATE TABLE cash (person_id int PRIMARY KEY REFERENCES person, amount int NOT NULL);
CREATE TABLE bank (id int PRIMARY KEY, person_id int NOT NULL REFERENCES person, amount int NOT NULL);
INSERT INTO person SELECT n, 'p' || n FROM generate_series(1, {PEOPLE}) n;
INSERT INTO cash SELECT n, {TOTAL} FROM generate_series(1, {PEOPLE}) n;
INSERT INTO bank SELECT n * 2 + s, n, 0 FROM generate_series(1, {PEOPLE}) n, generate_series(0, 1) s;
"""
FLOWS = {
    "plain": "SELECT p.id, c.amount + sum(b.amount) AS total FROM person p JOIN cash c ON c.person_id = p.id"
    " JOIN bank b ON b.person_id = p.id GROUP BY p.id, c.amount",
    # over an intermediate result
    "derived": "SELECT p.id, p.name, c.amount + d.amount AS total FROM person p JOIN cash c ON c.person_id = p.id"
    " JOIN (SELECT b.person_id, sum(b.amount) AS amount FROM bank b JOIN person q ON q.id = b.person_id"
    " GROUP BY b.person_id) d ON d.person_id = p.id",
}


def transfer(store: Store, rnd: random.Random) -> None:
    """Some money from one's pocket to one's accounts and back, several people in one transaction."""
    with store.conn.transaction():
        for person in rnd.sample(range(1, PEOPLE + 1), rnd.randint(1, 4)):
            amount = rnd.randint(-20, 20)
            store.conn.execute("UPDATE cash SET amount = amount - %s WHERE person_id = %s", (amount, person))
            if rnd.random() < 0.3:
                store.conn.execute("UPDATE person SET name = name || '.' WHERE id = %s", (person,))
            account = person * 2 + rnd.randint(0, 1)
            store.conn.execute("UPDATE bank SET amount = amount + %s WHERE id = %s", (amount, account))


class Bank:
    """The store, the worker's engine, and every document that was ever published."""

    def __init__(self, postgres: PostgresForTests, seed: int, *, barrier: bool) -> None:
        self.rnd, self._barrier = random.Random(seed), barrier
        self.store, self._state = Store(postgres.database(), SCHEMA), postgres.database()
        self.shown: list[tuple[str, int]] = []
        self._log: list[Entry] = []
        self._marker = 0
        self.engine = self._open()

    def _open(self) -> Engine:
        engine = Engine(open_state(self._state), "shop")
        engine.ensure_tables(self.store.tables.values())
        if not engine.progress.more:
            engine.deploy({name: Flow(name=name, sql=sql, key=("id",)) for name, sql in FLOWS.items()})
        return engine

    def close(self) -> None:
        self.engine.close()
        self.store.conn.close()

    def _publish(self, batch: Batch) -> None:
        for each in batch.documents:
            assert each.document is not None
            self.shown.append((each.flow, json.loads(each.document)["total"]))
        self._marker = batch.progress.batch
        self.engine.sent(self._marker)

    def run(self, transactions: int) -> None:
        for _ in range(transactions):
            transfer(self.store, self.rnd)
            found = list(self.store.entries(lambda: self.rnd.random() < 0.4))
            self._log += found if self._barrier else [_as_if_whole(each) for each in found]
            while self.rnd.random() < 0.6 and self.engine.progress.entry < len(self._log):
                self._step()
        while self.engine.progress.entry < len(self._log) or self.engine.waiting:
            self._step()

    def _step(self) -> None:
        at = self.engine.progress.entry
        entries = [(each.journal, each.changes) for each in self._log[at : at + self.rnd.choice((1, 1, 2, 5))]]
        if self.rnd.random() < 0.15:
            self._crash(entries)
        elif self.engine.waiting and self.rnd.random() < 0.5:
            self._publish(self.engine.slice(self.rnd.choice((1, 4, 100))))
        else:
            self._publish(self.engine.process(entries))
            self._deploy_again()

    def _crash(self, entries: Sequence[Todo]) -> None:
        failpoints.arm(self.rnd.choice(("worker.applied=raise", "worker.committed=raise")))
        try:
            self._publish(self.engine.process(entries))
        except failpoints.FailpointHit:
            pass
        finally:
            failpoints.arm("")
        self.engine.close()
        self.engine = self._open()
        if not self.engine.progress.more:
            self._publish(self.engine.unsent(self._marker))

    def _deploy_again(self) -> None:
        """A worker that starts within a transaction deploys its flows behind it."""
        if not self.engine.plans and not self.engine.progress.more:
            self.engine.deploy({name: Flow(name=name, sql=sql, key=("id",)) for name, sql in FLOWS.items()})
            self._publish(self.engine.unsent(self._marker))


def _as_if_whole(entry: Entry) -> Entry:
    """The barrier turned off: each entry claims to end its transaction."""
    return replace(entry, journal=replace(entry.journal, more=False))


@pytest.fixture
def banks(postgres: PostgresForTests) -> Iterator[list[Bank]]:
    made: list[Bank] = []
    yield made
    for each in made:
        each.close()


def shown(banks: list[Bank], postgres: PostgresForTests, *, barrier: bool) -> list[tuple[str, int]]:
    bank = Bank(postgres, 5, barrier=barrier)
    banks.append(bank)
    bank.run(150)
    return bank.shown


def test_no_document_shows_half_of_a_transfer(banks: list[Bank], postgres: PostgresForTests) -> None:
    found = shown(banks, postgres, barrier=True)
    assert {flow for flow, _ in found} == FLOWS.keys() and len(found) > 2 * PEOPLE
    assert set(banks[0].engine.parts) == {"derived"}
    assert [each for each in found if each[1] != TOTAL] == []


def test_without_the_barrier_halves_are_shown(banks: list[Bank], postgres: PostgresForTests) -> None:
    found = shown(banks, postgres, barrier=False)
    assert {flow for flow, total in found if total != TOTAL} == FLOWS.keys()
