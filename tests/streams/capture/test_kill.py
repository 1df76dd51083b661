"""Capture killed anywhere, under load: a read_committed reader sees every change exactly once, in order per key."""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Killable, Shop, until

from instep.change import POSITION_HEADER, Op, Position
from instep.journal import Counts
from instep_ops.embedded import Kafka

KILLS = int(os.environ.get("KILLS", "15"))
"""`make soak` asks for more."""

COUNTERS = "CREATE TABLE counters (id int PRIMARY KEY, life int NOT NULL, version int NOT NULL, pad text)"
HISTORY = """
CREATE TABLE history (n bigserial PRIMARY KEY, id int, life int, version int);
CREATE FUNCTION remember() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO history (id, life, version) VALUES (NEW.id, NEW.life, NEW.version); RETURN NULL; END $$;
CREATE TRIGGER remember AFTER INSERT OR UPDATE ON counters FOR EACH ROW EXECUTE FUNCTION remember()"""


class Load:
    """Writers that count each row's versions up; deletes and key reuse start a new life."""

    def __init__(self, shop: Shop, seed: int, writers: int = 2) -> None:
        self._shop, self._stop = shop, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(seed + n, n, writers)) for n in range(writers)]

    def _run(self, seed: int, number: int, writers: int) -> None:
        dice = random.Random(seed)
        lives = itertools.count(number, writers)
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._shop.dsn) as conn:
                    while not self._stop.wait(0.05):
                        self._transact(conn, dice, lives, number, writers)
            except psycopg.OperationalError:  # the store was killed: what it committed is in its history
                self._stop.wait(0.1)

    @classmethod
    def _transact(
        cls, conn: psycopg.Connection[Any], dice: random.Random, lives: Iterator[int], number: int, writers: int
    ) -> None:
        for _ in range(dice.choice((1, 1, 1, 2, 3, 60))):
            cls.write(conn, dice, lives, number, writers)
        if dice.random() < 0.9:
            conn.commit()
        else:
            conn.rollback()

    @staticmethod
    def write(
        conn: psycopg.Connection[Any], dice: random.Random, lives: Iterator[int], number: int, writers: int
    ) -> None:
        """One row, perhaps gone again."""
        key = dice.randint(0, 40) * writers + number  # each writer has its own keys: no deadlocks
        conn.execute(
            "INSERT INTO counters VALUES (%s, %s, 1, 'x') ON CONFLICT (id)"
            " DO UPDATE SET version = counters.version + 1",
            (key, next(lives)),
        )
        if dice.random() < 0.05:
            conn.execute("DELETE FROM counters WHERE id = %s", (key,))

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()


def await_entries(shop: Shop, process: Killable, more: int) -> None:
    """Wait for so many further journal entries of a capture."""

    def batch() -> int:
        last = shop.last()
        return last.batch if last else 0

    wanted = batch() + more
    try:
        until(lambda: batch() >= wanted, 60, f"journal entry {wanted}")
    except AssertionError:
        process.kill()
        raise AssertionError(f"{process.log}\nno journal entry {wanted} within 60 s") from None


def assert_every_version_once_and_in_order(shop: Shop) -> None:
    with shop.store() as conn:
        rows = conn.execute("SELECT id, life, version FROM history ORDER BY n").fetchall()
    written: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for key, life, version in rows:
        written[key].append((life, version))
    changes = [
        (Position.unpack(dict(record.headers)[POSITION_HEADER]), envelope.after)
        for record, envelope in shop.changes("public.counters")
        if envelope and envelope.op in (Op.CREATE, Op.UPDATE) and envelope.after
    ]
    captured: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for _, after in sorted(changes, key=lambda change: change[0]):
        captured[int(str(after["id"]))].append((int(str(after["life"])), int(str(after["version"]))))
    assert captured == written


def test_every_change_arrives_exactly_once_over_many_kills(
    own_postgres: PostgresForTests, own_kafka: Kafka, registry: str
) -> None:
    shop = Shop(own_postgres.database(), own_kafka.settings, registry, batch_changes=50, tables=("public.counters",))
    shop.execute(COUNTERS, HISTORY)
    dice = random.Random(15)
    with shop.capturing():
        pass
    deaths = Counter[str]()
    places = ["begun", "before_entry", "committed"]
    with Load(shop, 7).running():
        for place in [f"capture.{p}=kill@{n}" for p in places for n in (1, 4)]:
            Killable(shop, place).dies()
            deaths["capture"] += 1
        while deaths.total() < KILLS:
            process = Killable(shop)
            await_entries(shop, process, dice.randint(1, 6))
            if deaths.total() % 9 == 7:  # then the server under a capture that goes on, which is killed next
                server, name = ((own_postgres, "PostgreSQL"), (own_kafka, "Kafka"))[deaths.total() // 9 % 2]
                server.kill()
                server.start()
                deaths[name] += 1
                await_entries(shop, process, dice.randint(1, 3))
            process.kill()
            deaths["capture"] += 1
            if deaths.total() % 100 == 0:
                print(f"{deaths.total()} of {KILLS} kills {dict(deaths)}", flush=True)
    with shop.capturing(seconds=120):
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.changes > 300
    assert_every_version_once_and_in_order(shop)
    print(f"{deaths.total()} kills {dict(deaths)}: 0 lost, 0 duplicated, 0 out of order in {audit.changes} changes")


def test_a_killed_snapshot_goes_on_where_it_was_and_forgets_rows_deleted_since(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE t (id int PRIMARY KEY, a text)",
        "INSERT INTO t SELECT i, 'x' FROM generate_series(1, 1000) i",
        'CREATE TABLE u (a text COLLATE "C", b int, PRIMARY KEY (a, b))',
        "INSERT INTO u SELECT md5(i::text), i FROM generate_series(1, 1000) i",
        "CREATE TABLE nokey (v int)",
        "ALTER TABLE nokey REPLICA IDENTITY FULL",
        "INSERT INTO nokey SELECT i % 7 FROM generate_series(1, 300) i",
        batch_changes=20,
        chunk_rows=50,
        snapshot_threads=1,
    )
    for place in (
        "capture.snapshot=kill@6",  # the table without a key, which comes first, is done
        "capture.chunk=kill@1",
        "capture.chunk=kill@3",
        "capture.before_entry=kill@9",
    ):
        Killable(shop, place).dies(90)
        hit = len(place)
        shop.execute(
            f"DELETE FROM t WHERE id % 40 = {hit}",
            f"UPDATE t SET a = '{place}' WHERE id % 10 = 1",
            f"UPDATE u SET b = b + 1000 WHERE b % 30 = {hit}",
            f"DELETE FROM u WHERE b % 29 = {hit}",
            "DELETE FROM nokey WHERE ctid IN (SELECT ctid FROM nokey WHERE v = 3 LIMIT 3)",
        )
    with shop.capturing() as running:
        until(lambda: (last := shop.last()) and last.whole, 60, "the snapshot is finished")
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    journal = shop.journal()
    # nothing may be shown before all of it is there; and what the first attempt read was not read again
    whole = next(n for n, entry in enumerate(journal) if entry.whole)
    assert sum(entry.counts["public.t"].read for entry in journal if "public.t" in entry.counts) < 1000
    assert not [entry for entry in journal[:whole] if entry.counts and entry.counts.get("public.t", Counts()).truncate]
    print(f"4 kills, {audit.rows} rows, read {sum(c.read for e in journal for c in e.counts.values())}")


def test_a_killed_snapshot_without_a_slot_is_made_again(make_shop: MakeShop) -> None:
    shop = make_shop(
        "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 500)", batch_changes=20
    )
    Killable(shop, "capture.snapshot=kill@3").dies()
    until(
        lambda: not shop.value(f"SELECT active FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"), 30, "free"
    )
    shop.drop_slot()
    shop.execute("DELETE FROM t WHERE id < 50")
    with shop.capturing() as running:
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 451


@pytest.mark.parametrize("when", ["capture.begun", "capture.before_entry"])
def test_a_first_start_killed_at_its_marker_starts_again(make_shop: MakeShop, when: str) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    Killable(shop, f"{when}=kill@1").dies()
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 1


def test_sigterm_ends_in_time_with_what_was_published_confirmed(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE t (id int PRIMARY KEY)")
    process = Killable(shop)
    try:
        shop.await_captured()
        shop.execute("INSERT INTO t SELECT generate_series(1, 100)")
        entry = shop.await_captured()
    finally:
        code = process.terminate()
    assert code == 0
    confirmed = shop.value(
        f"SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{shop.slot}'"
    )
    assert confirmed >= entry.last.lsn
    assert "stopped at" in process.log
