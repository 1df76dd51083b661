"""Bad days of servers and processes, on one whole project that `instep up` runs: nothing is lost, and it is proven.

Every test makes its fault while the store's life goes on, waits until the fault has passed, and ends with
`instep verify`: 0 differences. docs/reference/bad-days.md says which test shows which bad day.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from tests.integration.between import CrmBetween

from instep.settings import TargetSettings
from instep_ops.embedded import Postgres

pytestmark = pytest.mark.slow

PRODUCTS = 24
AWAY_S = 60.0
"""The CRM is away for a minute: longer than the tries of any single document would last."""

TOML = """
name = "{name}"
data = "data"
[sources.{name}]
dsn = "env:DAYS_STORE"
[targets.crm]
type = "tryton"
url = "{crm}"
key = "env:DAYS_KEY"
attempts = 3
"""
FLOW = """/* instep
target = "crm"   object = "product.product"   key = "sku"   fields = ["name", "list_price"]
*/
SELECT p.sku, p.name, round(p.price + coalesce(sum(l.on_hand), 0), 4) AS list_price
FROM products p LEFT JOIN levels l ON l.product_id = p.id
GROUP BY p.id
"""
TABLES = """
CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, name text NOT NULL, price numeric(12,2) NOT NULL);
CREATE TABLE levels (product_id int REFERENCES products, site int, on_hand int NOT NULL, PRIMARY KEY (product_id, site))
"""


@dataclass
class Days:
    """The project that runs."""

    folder: Path
    name: str
    store: Postgres
    dsn: str
    crm: CrmBetween
    up: subprocess.Popen[bytes]
    seed: random.Random = field(default_factory=lambda: random.Random(3))

    def instep(self, *words: str) -> tuple[int, Any]:
        command = [sys.executable, "-m", "instep_ops.cli", *words, "--project", str(self.folder), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def status(self) -> dict[str, Any]:
        """Retried while a part that was killed is not back yet."""
        until(lambda: self.instep("status")[0] == 0, 60, "status")
        found: dict[str, Any] = self.instep("status")[1]
        return found

    def server(self, word: str) -> int:
        """Process id of an embedded server: the one below `instep up` whose command line holds the word."""
        below = psutil.Process(self.up.pid).children(recursive=True)
        return next(int(each.pid) for each in below if word in " ".join(each.cmdline()))

    def change(self, sql: str, *values: object) -> None:
        with psycopg.connect(self.dsn, connect_timeout=10) as conn:
            conn.execute(sql.encode(), values)

    @contextmanager
    def life(self) -> Iterator[None]:
        """Some transactions a second, through everything that happens meanwhile, and a few behind it."""
        end, done = threading.Event(), [0]

        def live() -> None:
            while not end.wait(0.05):
                try:
                    self.step()
                    done[0] += 1
                except psycopg.OperationalError:  # the store itself is having its bad day
                    continue

        thread = threading.Thread(target=live)
        thread.start()
        try:
            yield
            seen = done[0]
            until(lambda: done[0] > seen + 5, 60, "the store")
        finally:
            end.set()
            thread.join()

    def step(self) -> None:
        n = self.seed.randrange(1, PRODUCTS + 1)
        with psycopg.connect(self.dsn, connect_timeout=10) as conn:
            conn.execute("UPDATE products SET price = %s WHERE id = %s", (self.seed.randrange(1, 90), n))
            conn.execute(
                "INSERT INTO levels VALUES (%s, %s, 1) ON CONFLICT (product_id, site)"
                " DO UPDATE SET on_hand = levels.on_hand + 1",
                (n, self.seed.randrange(3)),
            )

    def prove(self) -> None:
        assert self.up.poll() is None, (self.folder / "up.log").read_text()
        code, report = self.instep("verify")
        assert (code, report["differences"], report["undecided"]) == (0, 0, 0), report
        assert report["rows_compared"] >= 2 * PRODUCTS


def until(condition: Callable[[], object], within: float, what: str) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not in {within:.0f} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory, tryton: TargetSettings) -> Iterator[Days]:
    folder, name = tmp_path_factory.mktemp("days"), f"days{secrets.token_hex(3)}"
    store = Postgres(folder / "inventory", "inventory")
    store.ensure()
    store.start()
    dsn = store.create_database("inventory")
    with psycopg.connect(dsn) as conn:
        conn.execute(TABLES)
        for n in range(1, PRODUCTS + 1):
            conn.execute("INSERT INTO products VALUES (%s, %s, %s, 1)", (n, f"{name}-{n}", f"Product {n}"))
    with CrmBetween(tryton.url) as crm:
        (folder / "instep.toml").write_text(TOML.format(name=name, crm=crm.url))
        (folder / "flows").mkdir()
        (folder / "flows" / f"{name}_card.sql").write_text(FLOW)
        env = os.environ | {"DAYS_STORE": dsn, "DAYS_KEY": tryton.key.reveal()}
        with pytest.MonkeyPatch.context() as patch, running(folder, env) as up:
            patch.setenv("DAYS_STORE", dsn)
            patch.setenv("DAYS_KEY", tryton.key.reveal())
            yield Days(folder, name, store, dsn, crm, up)
    store.stop()


@contextmanager
def running(folder: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    log = folder / "up.log"
    command = [sys.executable, "-m", "instep_ops.cli", "up", "--project", str(folder)]
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=env) as up:
        try:
            until(lambda: up.poll() is not None or b"Running" in log.read_bytes(), 180, "instep up")
            yield up
        finally:
            up.send_signal(signal.SIGINT)
            up.wait(90)
    assert up.returncode == 0, log.read_text()


def test_kafka_is_killed(days: Days) -> None:
    days.prove()
    with days.life():
        killed = days.server("kafka.Kafka")
        os.kill(killed, signal.SIGKILL)
        until(lambda: not psutil.pid_exists(killed), 60, "the end of Kafka")
    days.prove()


def test_the_state_database_is_killed(days: Days) -> None:
    with days.life():
        os.kill(days.server(str(days.folder / "data" / "state")), signal.SIGKILL)
    days.prove()


def test_the_store_is_restarted(days: Days) -> None:
    with days.life():
        days.store.restart()
    days.prove()


def test_the_registry_is_killed_with_everything_that_needs_it(days: Days) -> None:
    """So that the others start while it is not there yet, and ask it for schemas that they do not know."""
    with days.life():
        found = days.status()["processes"]
        for pid in found.values():
            os.kill(pid, signal.SIGKILL)
    days.prove()


def test_processes_are_killed_at_random(days: Days) -> None:
    with days.life():
        for _ in range(4):
            found = days.status()["processes"]
            os.kill(found[days.seed.choice(sorted(name for name in found if name != "registry"))], signal.SIGKILL)
    days.prove()


def test_the_crm_is_away_for_a_minute(days: Days) -> None:
    with days.life():
        days.crm.away()
        back = time.monotonic() + AWAY_S
        until(lambda: days.status()["targets"]["crm"]["waiting"], 60, "documents that wait")
        until(lambda: time.monotonic() > back, AWAY_S + 1, "a minute")
        days.crm.back()
    days.prove()
    assert days.status()["targets"]["crm"]["dead_letters"] == 0


def test_the_crm_refuses_one_record_and_fails_on_another(days: Days) -> None:
    days.crm.refuse, days.crm.fail = b"Nobody takes this", b"This breaks it"
    with days.life():
        days.change("UPDATE products SET name = 'Nobody takes this' WHERE id = 2")
        days.change("UPDATE products SET name = 'This breaks it' WHERE id = 3")
        until(lambda: days.status()["targets"]["crm"]["dead_letters"] == 2, 120, "two dead letters")
    code, letters = days.instep("deadletters", "ls")
    reasons = {letter["key"]: str(letter) for letter in letters}
    assert code == 0 and set(reasons) == {f"{days.name}-2", f"{days.name}-3"}
    assert "This record is refused." in reasons[f"{days.name}-2"]
    assert "500" in reasons[f"{days.name}-3"] and "<" not in reasons[f"{days.name}-3"]

    code, report = days.instep("verify")
    assert code == 1
    assert {each["key"][0] for each in report["flows"][0]["differences"]} == set(reasons), report

    days.crm.refuse = days.crm.fail = b""
    code, summary = days.instep("deadletters", "retry")
    assert (code, summary["written"]) == (0, 2), summary
    days.prove()
