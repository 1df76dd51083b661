"""After a lost slot, and after a table that stood still: flows catch up and `verify` holds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.harness import Running, Shop, until

from instep.settings import KafkaSettings, parse
from instep_ops.verify import verify
from instep_streams.capture.recovery import recover
from instep_streams.capture.task import Task
from instep_streams.capture.withheld import waiting
from instep_streams.flows import process as worker

FLOW = """
SELECT p.id, p.name, coalesce(sum(l.on_hand), 0)::bigint AS available
FROM products p LEFT JOIN levels l ON l.product = p.id
GROUP BY p.id
"""


@pytest.fixture
def shop(postgres: PostgresForTests, kafka: KafkaSettings, registry: str, tmp_path: Path) -> Shop:
    made = Shop(postgres.database(), kafka, registry)
    own = {**made.settings.sources[made.name].model_dump(), "heartbeat_s": 0.5}
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / f"{made.name}_card.sql").write_text(f'/* instep\nkey = "id"\n*/{FLOW}')
    made.settings = parse(
        {
            "name": made.name, "sources": {made.name: own}, "kafka": {"bootstrap": kafka.bootstrap},
            "registry": {"url": registry}, "state": {"dsn": postgres.database()},
        },
        tmp_path,
    )  # fmt: skip
    made.execute(
        "CREATE TABLE products (id int PRIMARY KEY, name text)",
        "CREATE TABLE levels (product int, site int, on_hand int, PRIMARY KEY (product, site))",
        "INSERT INTO products SELECT i, 'product ' || i FROM generate_series(1, 40) i",
        "INSERT INTO levels SELECT i, s, i * s FROM generate_series(1, 40) i, generate_series(1, 2) s",
    )
    return made


@asynccontextmanager
async def flowing(shop: Shop) -> AsyncIterator[None]:
    """Capture and worker run."""
    stop = asyncio.Event()
    capture = Running(shop)
    working = asyncio.create_task(worker.run(shop.settings, shop.name, stop))
    try:
        await asyncio.to_thread(shop.await_captured, capture)
        yield
    finally:
        await asyncio.to_thread(capture.stop)
        stop.set()
        await working


async def test_verify_holds_after_a_lost_slot_and_after_a_stopped_table(shop: Shop) -> None:
    async with flowing(shop):
        assert (await verify(shop.settings, target=False)).ok
    shop.drop_slot()
    shop.execute(
        "DELETE FROM products WHERE id <= 5", "UPDATE products SET name = 'renamed' WHERE id = 6",
        "UPDATE levels SET on_hand = on_hand + 1 WHERE product = 7", "INSERT INTO products VALUES (100, 'new')",
        "DELETE FROM levels WHERE site = 2 AND product > 30",
    )  # fmt: skip
    await asyncio.to_thread(recover, Task(shop.settings, shop.name, threading.Event().wait))
    async with flowing(shop):
        report = await verify(shop.settings, target=False)
        assert report.ok, report.to_dict()
        await stopped_and_allowed(shop)
        report = await verify(shop.settings, target=False)
        assert report.ok, report.to_dict()
    shop.drop_slot()


async def stopped_and_allowed(shop: Shop) -> None:
    """Levels change in a way that the registry refuses, until it is told not to."""
    shop.execute("ALTER TABLE levels ALTER on_hand TYPE numeric", "UPDATE levels SET on_hand = 5.5 WHERE product = 8")
    await asyncio.to_thread(until, lambda: waiting(shop.settings.kafka, shop.name))
    url = f"{shop.settings.registry.url}/config/{shop.name}.public.levels-value"
    answer = await asyncio.to_thread(httpx.put, url, json={"compatibility": "NONE"})
    assert answer.status_code == 200
    await asyncio.to_thread(until, lambda: not waiting(shop.settings.kafka, shop.name))
