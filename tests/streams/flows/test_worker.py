"""A worker that starts anew where another was cut off; between two steps, on a real broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.harness import Shop

from instep.errors import StateError
from instep.settings import KafkaSettings
from instep.topics import journal_topic
from instep_connectors.kafka import read_topic
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.kafka import last_entry
from instep_streams.flows.outbox import read_marker
from instep_streams.flows.worker import Worker


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    yield made
    made.close()


def change(shop: Shop, **values: object) -> None:
    own = shop.settings.sources[shop.name].model_copy(update=values)
    shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}})


def await_captured(shop: Shop) -> None:
    with psycopg.connect(shop.dsn, autocommit=True) as conn:
        (lsn,) = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").fetchone() or (0,)
        conn.execute("SELECT pg_logical_emit_message(true, 'instep', 'behind it')")

    def there() -> bool:
        last = last_entry(shop.settings.kafka, shop.name)
        return last is not None and not last.more and captured_lsn(last) >= lsn

    until(there, 60, "the journal has it")


def cut_off_within_a_transaction(shop: Shop) -> None:
    """Make one step whose documents are never published, and the next step with the first part of a transaction."""
    kafka = shop.settings.kafka
    worker = Worker(shop.settings, shop.name)
    try:
        for _ in worker.start(read_marker(kafka, shop.name)):
            raise AssertionError("nothing was left unsent")
        waiting = [
            r for r in read_topic(kafka, journal_topic(shop.name)) if worker._inbox.entry(r).batch > worker.entry
        ]
        parts = [worker._inbox.entry(record).more for record in waiting]
        first = parts.index(True)
        assert parts[first:].count(True) > 1
        assert [len(each.batch.documents) for each in worker.step(waiting[:first])] == [1]
        assert list(worker.step(waiting[first : first + 1])) == []
    finally:
        worker.close()


@pytest.mark.parametrize(
    "select", ["SELECT id, name FROM t", "SELECT t.id, t.name, n FROM t JOIN c ON c.name = t.kind"]
)
def test_no_key_and_no_document_is_forgotten_by_a_start_within_a_transaction(shop: Shop, select: str) -> None:
    change(shop, batch_changes=10)
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, kind text)",
        "CREATE TABLE c (name text PRIMARY KEY, n int)",
        "INSERT INTO c VALUES ('a', 1), ('b', 2)",
        "INSERT INTO t SELECT n, 'old', 'a' FROM generate_series(1, 50) n",
    )
    shop.flow("f", "id", select)
    with shop.capturing() as capture:
        with shop.working() as worker:
            shop.settle(capture, worker)
        shop.execute("UPDATE t SET name = 'alone' WHERE id = 50")
        await_captured(shop)
        shop.execute("UPDATE t SET name = 'new', kind = 'b' WHERE id < 40")
        await_captured(shop)
        cut_off_within_a_transaction(shop)
        with shop.working() as worker:
            shop.settle(capture, worker)
    assert shop.folded("f") == shop.expected("f")


def test_a_state_filled_from_a_journal_is_not_gone_on_with_without_one(shop: Shop) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    shop.flow("f", "id", "SELECT id FROM t")
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
    change(shop, journal=False)
    with pytest.raises(StateError, match="filled from a journal, and its setting is journal = false"):
        Worker(shop.settings, shop.name)
