"""Large transactions taken while they run (`stream_large`): kept whole, and nothing of what was rolled back."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.connectors.postgres.test_spool import files_end_at
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Killable, Shop, until
from tests.streams.capture.test_kill import (
    COUNTERS,
    HISTORY,
    Load,
    assert_every_version_once_and_in_order,
    await_entries,
)

from instep.change import Op
from instep.errors import EnvironmentFault
from instep.settings import KafkaSettings

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text)"


def early(shop: Shop, mode: str = "buffered") -> None:
    """Have the store send transactions while they run: from 64 kB on, or each change at once (`immediate`)."""
    name = shop.value("SELECT current_database()")
    shop.execute(
        f"ALTER DATABASE {name} SET logical_decoding_work_mem = '64kB'",
        f"ALTER DATABASE {name} SET debug_logical_replication_streaming = '{mode}'",
    )


def streamed(shop: Shop) -> tuple[int, int]:
    """Bytes that came in parts, and bytes that the store kept on its disk."""
    with shop.store() as conn:
        row = conn.execute(
            "SELECT stream_bytes, spill_bytes FROM pg_stat_replication_slots WHERE slot_name = %s", (shop.slot,)
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def confirmed(shop: Shop) -> int:
    return int(
        shop.value(f"SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{shop.slot}'")
    )


def test_a_huge_transaction_comes_in_parts_and_is_captured_as_one_of_protocol_1(
    own_postgres: PostgresForTests, kafka: KafkaSettings, registry: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Reading it back takes longer than the 2 s for which this store waits for a sign of life."""
    shop = Shop(own_postgres.database(), kafka, registry, batch_changes=100, stream_large=True)
    shop.execute(TABLE)
    early(shop)
    with shop.capturing() as running:
        with shop.store() as conn, conn.transaction():
            conn.execute("INSERT INTO t SELECT i, 'kept' FROM generate_series(1, 10000) i")
            conn.execute("SAVEPOINT s")
            conn.execute("INSERT INTO t SELECT i, 'dropped' FROM generate_series(10001, 20000) i")
            until(lambda: streamed(shop)[0] > 1_000_000, 30, "both savepoints are sent")
            conn.execute("ROLLBACK TO s")
            conn.execute("UPDATE t SET a = 'again' WHERE id <= 1000")
        shop.await_captured(running)
        audit = shop.audit()
        spilled = streamed(shop)[1]
    assert audit.ok, audit.problems
    parts = [entry for entry in shop.journal() if entry.more and not entry.snapshot]
    assert len(parts) >= 109 and len({entry.last.lsn for entry in parts}) == 1
    assert (audit.rows, audit.changes, spilled) == (10_000, 11_000, 0)
    assert "waits" not in caplog.text


def test_the_slot_passes_parts_but_never_their_commit(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE, stream_large=True, heartbeat_s=0.2)
    early(shop)
    with shop.store() as conn:
        with shop.capturing() as running:
            conn.execute("BEGIN")
            conn.execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 5000) i")
            shop.execute("INSERT INTO t VALUES (-1, 'small')")
            small = shop.await_captured(running)
            assert streamed(shop)[0] > 0
            until(lambda: confirmed(shop) > small.last.lsn, 20, "the slot passes what is in the journal")
        assert len(shop.changes("public.t")) == 1
        conn.execute("COMMIT")
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 5001


def test_a_rolled_back_transaction_writes_nothing(make_shop: MakeShop) -> None:
    shop = make_shop(TABLE, stream_large=True)
    early(shop, "immediate")
    with shop.capturing() as running:
        with shop.store() as conn:
            conn.execute("BEGIN")
            conn.execute("INSERT INTO t SELECT i, 'x' FROM generate_series(1, 100) i")
            shop.await_captured(running)
            assert streamed(shop)[0] > 0
            conn.execute("ROLLBACK")
        shop.execute("INSERT INTO t VALUES (1, 'y')")
        shop.await_captured(running)
        assert shop.audit().ok
    assert [(e.op, e.after) for _, e in shop.changes("public.t") if e] == [(Op.CREATE, {"id": "1", "a": "y"})]


class Hesitant(Load):
    """Rolls back a third of its savepoints, which may hold further ones."""

    @classmethod
    def _transact(
        cls, conn: psycopg.Connection[Any], dice: random.Random, lives: Iterator[int], number: int, writers: int
    ) -> None:
        conn.execute("SELECT 1")  # begins: what follows are savepoints
        for _ in range(dice.choice((1, 2, 5))):
            with conn.transaction(force_rollback=dice.random() < 0.3):
                cls.write(conn, dice, lives, number, writers)
                with conn.transaction(force_rollback=dice.random() < 0.3):
                    cls.write(conn, dice, lives, number, writers)
        conn.commit() if dice.random() < 0.9 else conn.rollback()


def test_every_change_arrives_exactly_once_over_kills_while_everything_is_streamed(make_shop: MakeShop) -> None:
    shop = make_shop(COUNTERS, HISTORY, batch_changes=50, tables=("public.counters",), stream_large=True)
    early(shop, "immediate")
    with shop.capturing():
        pass
    dice, deaths = random.Random(15), Counter[str]()
    with Hesitant(shop, 7).running():
        for place in ("capture.before_entry=kill@4", "capture.committed=kill@1"):
            Killable(shop, place).dies()
            deaths["at a place"] += 1
        while deaths["at any time"] < 3:
            process = Killable(shop)
            await_entries(shop, process, dice.randint(1, 6))
            process.kill()
            deaths["at any time"] += 1
    with shop.capturing(seconds=120):
        audit = shop.audit()
        assert streamed(shop)[0] > 0
    assert audit.ok, audit.problems
    assert audit.changes > 100
    assert_every_version_once_and_in_order(shop)
    print(f"kills {dict(deaths)}: 0 lost, 0 duplicated, 0 out of order in {audit.changes} changes")


def test_a_full_disk_ends_capture_with_the_remedy_and_moves_nothing(make_shop: MakeShop, tmp_path: Path) -> None:
    shop = make_shop(TABLE, stream_large=True, spool=tmp_path)
    early(shop)
    with shop.capturing():
        pass
    before, last = confirmed(shop), shop.last()
    shop.execute("INSERT INTO t SELECT i, repeat('x', 200) FROM generate_series(1, 20000) i")
    with files_end_at(2 << 20):
        failure = shop.fails()
    assert isinstance(failure, EnvironmentFault) and str(tmp_path) in failure.cause and "spool" in failure.remedy
    assert (confirmed(shop), shop.last()) == (before, last)
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 20_000


def test_what_the_store_cannot_decode_before_the_commit_it_sends_behind_it(
    make_shop: MakeShop, caplog: pytest.LogCaptureFixture
) -> None:
    """PostgreSQL fails at rows between two changes of one catalog row, the first of which was rolled back."""
    shop = make_shop(TABLE, stream_large=True)
    early(shop, "immediate")
    with shop.capturing():
        pass
    with shop.store() as conn, conn.transaction():
        conn.execute("SAVEPOINT s")
        conn.execute("ALTER TABLE t ADD b int")
        conn.execute("ROLLBACK TO s")
        conn.execute("INSERT INTO t VALUES (1, 'x')")
        conn.execute("ALTER TABLE t ADD c int")
        conn.execute("INSERT INTO t VALUES (2, 'y', 2)")
    with shop.capturing():
        pass
    assert [e.after for _, e in shop.changes("public.t") if e and e.after and e.after["id"] == "1"] == [
        {"id": "1", "a": "x"}
    ]
    assert len(shop.changes("public.t")) == 2
    assert "until the next start it sends whole transactions" in caplog.text


@pytest.mark.parametrize("stream_large", [False, True])
def test_a_large_transaction_that_was_rolled_back_before_it_was_read(make_shop: MakeShop, stream_large: bool) -> None:
    """PostgreSQL 18 drops it when its memory is full, and sends STREAM ABORT for its savepoints, also by protocol 1."""
    shop = make_shop(TABLE, stream_large=stream_large)
    early(shop)
    with shop.capturing():
        pass
    with shop.store() as conn, conn.transaction(force_rollback=True):
        with conn.transaction():
            conn.execute("INSERT INTO t SELECT generate_series(1, 200)")
        conn.execute("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1000, 3000) i")
    shop.execute("INSERT INTO t VALUES (1, 'kept')")
    with shop.capturing():
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert (audit.rows, audit.changes) == (1, 1)
