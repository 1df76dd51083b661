"""Tables copied while streaming goes on: nothing is lost, nothing older comes behind what the stream brought."""

from __future__ import annotations

import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Killable, Shop, until

from instep.change import Op
from instep.errors import SourceError
from instep.settings import KafkaSettings
from instep_ops.copies import watch
from instep_streams.capture import control
from instep_streams.capture.copies import Copies

KNOWN = "CREATE TABLE known (id int PRIMARY KEY)"
LATE = """CREATE TABLE late (a int, b text COLLATE "C", n int, big text, PRIMARY KEY (a, b));
ALTER TABLE late ALTER big SET STORAGE EXTERNAL;
INSERT INTO late SELECT i % 10, chr(97 + i % 26) || i, 0, repeat(i::text, 1000) FROM generate_series(1, 600) i"""


def copying(shop: Shop) -> list[str]:
    """Tables of which the journal says that they are being copied."""
    entry = shop.last()
    return [copy.table for copy in Copies.parse(entry.snapshot_state if entry else "").todo]


def await_copies(shop: Shop) -> None:
    """Wait until everything that was asked for is copied."""

    def done() -> bool:
        shop.await_captured()
        return not copying(shop)

    until(done, 60, "the copies are done")


def copied(shop: Shop, table: str) -> int:
    """How many rows the journal counts as read."""
    return sum(entry.counts[table].read for entry in shop.journal() if table in entry.counts)


class Load:
    """Changes of `late` that a copy may get wrong: partial ones, moved keys, deletes, rows that come again."""

    def __init__(self, shop: Shop, seed: int) -> None:
        self._shop, self._dice, self._stop = shop, random.Random(seed), threading.Event()
        self.fault: BaseException | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()
        assert self.fault is None, self.fault

    def _run(self) -> None:
        dice, n = self._dice, 1000
        try:
            with psycopg.connect(self._shop.dsn, autocommit=True) as conn:
                while not self._stop.is_set():
                    n += 1
                    some = f"a = {dice.randint(0, 9)} AND n % 7 = {dice.randint(0, 6)}"
                    conn.execute(
                        dice.choice(
                            (
                                f"UPDATE late SET n = n + 1 WHERE {some}",
                                f"UPDATE late SET b = b || 'm', n = n + 1 WHERE {some} AND length(b) < 9",
                                f"UPDATE late SET a = (a + {n}) % 10, b = b || {n} WHERE {some} AND length(b) < 9",
                                f"DELETE FROM late WHERE {some} AND n % 3 = 1 AND length(b) > 5",
                                f"INSERT INTO late VALUES ({n % 12}, 'new{n}', 1, repeat('n{n}', 900))",
                            )
                        )
                    )
                    self._stop.wait(0.003)
        except BaseException as exc:
            self.fault = exc


@pytest.mark.parametrize("full", [False, True])
def test_a_table_that_joins_is_copied_while_it_changes(make_shop: MakeShop, full: bool) -> None:
    shop = make_shop(KNOWN, LATE, "CREATE PUBLICATION instep FOR TABLE known", chunk_rows=40)
    if full:
        shop.execute("ALTER TABLE late REPLICA IDENTITY FULL")
    with shop.capturing() as running, Load(shop, 3 + full).running():
        shop.execute("ALTER PUBLICATION instep ADD TABLE late", "INSERT INTO known VALUES (1)")
        until(lambda: copied(shop, "public.late"), 90, "the copy begins")
        await_copies(shop)
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows > 100  # the longer it takes, the more of the 600 are deleted
    read = [e for _, e in shop.changes("public.late") if e and e.op is Op.READ]
    assert len(read) > 100 and {e.snapshot for e in read} == {"incremental"}
    absent = [e for _, e in shop.changes("public.late") if e and e.op is Op.UPDATE]
    assert absent, "the load changed rows that were copied already"


def test_what_joined_while_capture_was_down_is_copied_and_what_came_again_is_cleared_first(make_shop: MakeShop) -> None:
    shop = make_shop(KNOWN, LATE, "CREATE PUBLICATION instep FOR TABLE known", "INSERT INTO known VALUES (1), (2)")
    with shop.capturing():
        pass
    shop.execute(
        "ALTER PUBLICATION instep ADD TABLE late",
        "ALTER PUBLICATION instep DROP TABLE known",
        "DELETE FROM known WHERE id = 1",
        "ALTER PUBLICATION instep ADD TABLE known",
    )
    with shop.capturing() as running:
        await_copies(shop)
        shop.await_captured(running)
        audit = shop.audit()
        assert audit.ok, audit.problems
        assert [e.op for _, e in shop.changes("public.known") if e and e.op is Op.TRUNCATE]  # its old rows are gone
        shop.execute(
            "ALTER TABLE late RENAME TO later",
            "UPDATE later SET n = 5 WHERE a = 1",
            "CREATE TABLE nokey (v int)",
            "ALTER TABLE nokey REPLICA IDENTITY FULL",
            "INSERT INTO nokey VALUES (1), (1), (2)",
            "ALTER PUBLICATION instep ADD TABLE nokey",
            "UPDATE nokey SET v = 3 WHERE v = 2",
        )
        until(lambda: copied(shop, "public.later") >= 600 and copied(shop, "public.nokey") >= 3, 30, "the copies")
        await_copies(shop)
        shop.await_captured(running)
        audit = shop.audit()
    assert [each for each in audit.problems if "public.late: the journal counts" not in each] == []
    assert audit.rows == 1 + 600 + 3


def test_what_was_written_before_a_table_left_is_captured_though_the_stream_comes_to_it_later(
    make_shop: MakeShop,
) -> None:
    names = ("out", "gone", "again", "named")
    shop = make_shop(
        KNOWN, *(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)" for name in names),
        f"CREATE PUBLICATION instep FOR TABLE known, {', '.join(names)}",
    )  # fmt: skip
    with shop.capturing():
        pass
    shop.execute(
        *(f"INSERT INTO {name} SELECT i, 'x' FROM generate_series(1, 50) i" for name in names),
        "ALTER PUBLICATION instep DROP TABLE out",
        "INSERT INTO out VALUES (100, 'not published')",
        "DROP TABLE gone",
        "DROP TABLE again",
        "CREATE TABLE again (id int PRIMARY KEY, w text)",
        "INSERT INTO again VALUES (7)",
        "ALTER PUBLICATION instep ADD TABLE again",
        "ALTER TABLE named RENAME TO renamed",
    )
    Killable(shop, "capture.before_entry=kill@2").dies()  # what it knows of the tables outlives it
    with shop.capturing() as running:
        await_copies(shop)
        shop.await_captured(running)
    for name in ("out", "gone", "named"):
        keys = {e.after["id"] for _, e in shop.changes(f"public.{name}") if e and e.after}
        assert keys == {str(i) for i in range(1, 51)}, name
    ops: dict[int, list[Op]] = defaultdict(list)
    for record, envelope in shop.changes("public.again"):
        if envelope:
            ops[record.partition].append(envelope.op)
    assert all(Op.TRUNCATE in each for each in ops.values())  # each partition has its own order
    behind = [op for each in ops.values() for op in each[len(each) - each[::-1].index(Op.TRUNCATE) :]]
    assert behind == [Op.READ]
    assert copied(shop, "public.renamed") == 50


def test_copies_outlive_kills(make_shop: MakeShop) -> None:
    shop = make_shop(KNOWN, LATE, "CREATE PUBLICATION instep FOR TABLE known", chunk_rows=25)
    with shop.capturing():
        pass
    with Load(shop, 9).running():
        shop.execute("ALTER PUBLICATION instep ADD TABLE late")
        for hit in (2, 3, 5):
            Killable(shop, f"capture.chunk=kill@{hit}").dies(90)
        with shop.capturing() as running:
            await_copies(shop)
            shop.await_captured(running)
            audit = shop.audit()
    assert audit.ok, audit.problems


def test_a_commit_that_others_do_not_see_yet_holds_a_chunk_back(
    tmp_path: Path, kafka: KafkaSettings, registry: str
) -> None:
    """With synchronous replication a change is streamed long before it is seen: a chunk without it would be older."""
    server = PostgresForTests(tmp_path / "pg", "waiting", durable=False, settings={"synchronous_commit": "local"})
    server.ensure()
    server.start()
    try:
        shop = Shop(server.database(), kafka, registry)
        shop.execute(KNOWN, LATE, "CREATE PUBLICATION instep FOR TABLE known, late")
        with shop.capturing() as running:
            with psycopg.connect(shop.dsn, autocommit=True) as conn:
                conn.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
                conn.execute("SELECT pg_reload_conf()")
            until(lambda: shop.value("SHOW synchronous_standby_names") == "nobody", 30, "the setting")
            waiting = psycopg.connect(shop.dsn, autocommit=True)
            waiting.execute("SET synchronous_commit = on")
            thread = threading.Thread(target=waiting.execute, args=("UPDATE late SET n = 77 WHERE a = 3",))
            thread.start()
            pid = waiting.info.backend_pid
            state = f"SELECT wait_event FROM pg_stat_activity WHERE pid = {pid}"
            until(lambda: shop.value(state) == "SyncRep", 30, "the commit waits")
            shop.await_captured(running)
            shop.ask("run", "public.late")
            until(lambda: "public.late" in copying(shop), 30, "the copy is asked for")
            assert shop.value("SELECT count(*) FROM late WHERE n = 77") == 0  # what a chunk would read now
            shop.await_captured(running)
            assert not [e for _, e in shop.changes("public.late") if e and e.snapshot == "incremental"]
            shop.execute(f"SELECT pg_cancel_backend({pid})")
            thread.join(30)
            waiting.close()
            await_copies(shop)
            assert shop.audit().ok
        newest = {r.key: e.after["n"] for r, e in shop.changes("public.late") if e and e.after and e.after["a"] == "3"}
        assert set(newest.values()) == {"77"}
    finally:
        server.stop()


def test_run_pause_resume_stop_and_list(make_shop: MakeShop) -> None:
    shop = make_shop(KNOWN, LATE, "INSERT INTO known SELECT generate_series(1, 500)", chunk_rows=40)
    with shop.capturing() as running:
        shop.ask("pause")
        shop.ask("run", "public.late", where="a = 4 AND n = 0")
        shop.ask("run", "public.k*")
        shop.await_captured(running)
        assert copying(shop) == ["public.late", "public.known"]
        shop.ask("stop", "public.known")
        shop.await_captured(running)
        assert copying(shop) == ["public.late"]
        shop.execute("UPDATE late SET n = 1 WHERE b = 'e4'", "DELETE FROM late WHERE b = 'o14'")
        shop.ask("resume")
        await_copies(shop)
        shop.await_captured(running)
        assert shop.audit().ok
    again = [e.after for _, e in shop.changes("public.late") if e and e.snapshot == "incremental" and e.after]
    assert len(again) == 58 and {row["a"] for row in again} == {"4"}
    assert not [e for _, e in shop.changes("public.known") if e and e.snapshot == "incremental"]
    unknown = f'{{"command": 999, "source": "{shop.name}"}}'
    shop.execute(f"SELECT pg_logical_emit_message(true, 'instep', '{unknown}')")  # ignored
    with shop.capturing() as running:
        with pytest.raises(SourceError, match='column "nothing" does not exist'):
            shop.ask("run", "public.late", where="nothing = 1")
        shop.ask("run", "public.late", where="1 / (n - n) = 1")  # the store objects only when it runs
        shop.await_captured(running)
        await_copies(shop)


def test_a_command_is_for_one_source_only_and_waiting_for_it_ends_when_it_is_done(make_shop: MakeShop) -> None:
    shop = make_shop(KNOWN, "INSERT INTO known VALUES (1), (2)")
    other = Shop(shop.dsn, shop.settings.kafka, shop.settings.registry.url)
    try:
        with shop.capturing() as running, other.capturing():
            shop.ask("run", "public.known")
            await_copies(shop)
            other.ask("run", "public.known")  # the record 0 of its topic, as the command before of the other's
            await_copies(other)
            await_copies(shop)
            shop.await_captured(running)
            assert (copied(shop, "public.known"), copied(other, "public.known")) == (4, 4)
    finally:
        other.drop_slot()
    asked = control.ask(shop.settings, shop.name, "run", ["public.known"])
    assert control.standing(shop.settings, shop.name, asked) is None  # nobody captures
    with shop.capturing(ready=False):
        watch(shop.settings, shop.name, asked)
        assert copied(shop, "public.known") == 6
