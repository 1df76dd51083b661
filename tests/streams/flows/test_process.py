"""The worker on a real store, Kafka, registry and state database."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.conftest import SUPPLIED
from tests.streams.flows.harness import Shop, kill

from instep.errors import FlowError
from instep.settings import StateSettings
from instep_connectors.kafka import OutRecord, Publisher
from instep_streams.capture.kafka import ensure_own_topics

CHANGES = (
    "UPDATE suppliers SET name = 'new' WHERE id = 2",
    "UPDATE stock_levels SET on_hand = 99 WHERE product_id = 7",
    "DELETE FROM products WHERE id = 9",
    "UPDATE products SET id = 900, sku = 'moved' WHERE id = 10",
    "INSERT INTO products (id, sku) VALUES (100, 'bare')",
    "UPDATE orders SET state = 'done' WHERE id < 20",
)


def equal(shop: Shop) -> None:
    for flow in ("card", "supplied"):
        assert shop.folded(flow) == shop.expected(flow)


def versions(shop: Shop, flow: str) -> Counter[tuple[bytes, bytes]]:
    """How often each (key, batch) stands in the topic: more than once is a duplicate."""
    return Counter((record.key or b"", dict(record.headers)["instep.batch"]) for record in shop.records(flow))


def test_documents_follow_the_store(shop: Shop) -> None:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        assert len(shop.folded("card")) == 50
        equal(shop)
        shop.execute(*CHANGES)
        shop.settle(capture, worker)
        equal(shop)
        card = shop.folded("card")
        assert ("sku9",) not in card and card["moved",]["supplier"] == "supplier 1"
        shop.execute("TRUNCATE stock_levels", "ALTER TABLE products ADD COLUMN colour text DEFAULT 'grey'")
        shop.execute("INSERT INTO products (id, sku) VALUES (101, 'grey one')")
        shop.settle(capture, worker)
        equal(shop)
        told = shop.status()
        assert told["flows"][shop.named("card")]["documents"] == len(card) + 1
        assert told["documents"][shop.named("card")] == len(shop.records("card"))

    held = shop.folded("card")
    # a changed SELECT emits differences only; a new flow comes from the replica; a removed one keeps its documents
    before = len(shop.records("supplied"))
    shop.flow("supplied", "id", SUPPLIED.replace("s.name,", "CASE WHEN s.id = 1 THEN 'one' ELSE s.name END AS name,"))
    shop.flow("colours", "id", "SELECT id, colour, price FROM products")
    (shop.folder / "flows" / f"{shop.named('card')}.sql").unlink()
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        assert len(shop.records("supplied")) == before + 1
        assert shop.folded("colours") == shop.expected("colours")
        assert {each["colour"] for each in shop.folded("colours").values()} == {"grey"}
        assert shop.folded("card") == held


@contextmanager
def moving_money(shop: Shop, seconds: float) -> Iterator[None]:
    """Transactions that move stock between sites: the sum over both never changes."""
    stop = threading.Event()

    def move() -> None:
        with psycopg.connect(shop.dsn, autocommit=True) as conn:
            number = 0
            while not stop.is_set():
                number += 1
                product = number % 50 + 1
                with conn.transaction():
                    for site, change in (("north", 1), ("south", -1)):
                        conn.execute(
                            "UPDATE stock_levels SET on_hand = on_hand + %s WHERE product_id = %s AND site = %s",
                            (change, product, site),
                        )
                stop.wait(0.004)

    thread = threading.Thread(target=move)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.slow
def test_killed_at_every_point_each_document_comes_once(shop: Shop) -> None:
    shop.flow("both", "id", "SELECT p.id, n.on_hand AS north, s.on_hand AS south FROM products p"
              " JOIN stock_levels n ON n.product_id = p.id AND n.site = 'north'"
              " JOIN stock_levels s ON s.product_id = p.id AND s.site = 'south'")  # fmt: skip
    with shop.capturing() as capture:
        with moving_money(shop, 20):
            for point in ("applied", "committed", "produced"):
                process = shop.process(f"worker.{point}=kill@12")
                try:
                    until(lambda process=process: process.poll() is not None, 90, f"killed when {point}")  # type: ignore[misc]  # mypy infers no default of a lambda
                finally:
                    kill(process)
        with shop.working() as worker:
            shop.settle(capture, worker)
            for flow in ("card", "supplied", "both"):
                assert shop.folded(flow) == shop.expected(flow)
                assert set(versions(shop, flow).values()) == {1}
    for key, document in _every(shop, "both"):
        assert document["north"] + document["south"] == 2 * int(key[0]), "half of a source transaction"


def _every(shop: Shop, flow: str) -> Iterator[tuple[tuple[str, ...], dict[str, int]]]:
    from instep_schemas.documents import decode_document, decode_key
    from instep_schemas.records import unframe

    for record in shop.records(flow):
        key_id, key = unframe(record.key or b"")
        value_id, value = unframe(record.value or b"")
        fields = decode_document(shop.registry.schema(value_id), value)
        yield decode_key(shop.registry.schema(key_id), key), dict(fields)


async def _end_as_another_worker(shop: Shop, sku: str, batch: int) -> None:
    """A tombstone of a worker that numbers its batches otherwise."""
    (record,) = (each for each in shop.records("card") if (each.key or b"").endswith(sku.encode()))
    headers = [("instep.batch", batch.to_bytes(8, "big"))]
    async with aclosing(Publisher(shop.settings.kafka, f"another-{shop.name}")) as publisher:
        await publisher.start()
        await publisher.publish([OutRecord(record.topic, record.key, None, record.partition, headers)])


def test_a_new_state_database_emits_only_what_differs(shop: Shop, postgres: PostgresForTests) -> None:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
    before = len(shop.records("card"))
    shop.settings = shop.settings.model_copy(update={"state": StateSettings(dsn=postgres.database())})
    asyncio.run(_end_as_another_worker(shop, "sku3", 10**6))
    with shop.capturing() as capture:
        shop.execute("DELETE FROM products WHERE id = 1", "UPDATE products SET name = 'x' WHERE id = 2")
        with shop.working() as worker:
            shop.settle(capture, worker)
            equal(shop)
            assert len(shop.records("card")) == before + 1 + 3
            assert max(versions(shop, "card").values()) == 1
            ours = [each for each in shop.records("card") if (each.key or b"").endswith(b"sku3")][-1]
            assert int.from_bytes(dict(ours.headers)["instep.batch"], "big") > 10**6, "a target would take it for older"


def test_a_key_that_fails_does_not_hold_up_the_others(shop: Shop) -> None:
    shop.flow("ratio", "id", "SELECT id, 10 / qty AS ratio FROM orders")
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        shop.execute("UPDATE orders SET qty = 5 * (id % 2) WHERE id < 4")
        shop.settle(capture, worker)
        folded = shop.folded("ratio")
        assert [folded[str(key),]["ratio"] for key in (1, 2, 3)] == [2, 10, 2]
        fault = shop.status()["flows"][shop.named("ratio")]["fault"]
        assert "division by zero" in fault
        shop.execute("UPDATE orders SET qty = 1 WHERE id = 2")
        shop.settle(capture, worker)
        assert shop.folded("ratio") == shop.expected("ratio")


def test_a_refused_flow_ends_the_worker_with_one_sentence(shop: Shop) -> None:
    shop.flow("wrong", "id", "SELECT id, nme FROM products")
    with shop.capturing():
        failure = shop.fails()
    assert isinstance(failure, FlowError) and failure.code == "RESOLVE"
    assert 'no column "nme"' in str(failure) and "\n" not in str(failure)


def test_a_worker_that_starts_first_learns_of_a_table_without_rows(shop: Shop) -> None:
    shop.execute("CREATE TABLE notes (id int PRIMARY KEY, product_id int, note text)")
    shop.flow("noted", "id", "SELECT p.id, n.note FROM products p LEFT JOIN notes n ON n.product_id = p.id")
    ensure_own_topics(shop.settings.kafka, shop.name)
    with shop.working() as worker:
        with psycopg.connect(shop.state, autocommit=True) as conn:
            opened = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND database ="
            opened += " (SELECT oid FROM pg_database WHERE datname = current_database())"
            until(lambda: conn.execute(opened.encode()).fetchone() is not None, 30, "the worker has opened its state")
        with shop.capturing() as capture:
            shop.settle(capture, worker)
            shop.execute("INSERT INTO notes VALUES (1, 1, 'first')")
            shop.settle(capture, worker)
            assert shop.folded("noted") == shop.expected("noted")


def test_a_restarted_state_database_is_waited_for(shop: Shop) -> None:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        with psycopg.connect(shop.state, autocommit=True) as conn:
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                         " WHERE application_name = 'instep worker' AND datname = current_database()")  # fmt: skip
        shop.execute(*CHANGES)
        shop.settle(capture, worker)
        equal(shop)
        assert max(versions(shop, "card").values()) == 1
