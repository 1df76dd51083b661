"""The differential test through real logical decoding: PostgreSQL, capture, Kafka, the worker, compared as documents.

Random changes on enums, domains, composite foreign keys that cascade, keys that change, generated columns, TOAST, with
TRUNCATE and changed table definitions between, while the worker is killed at its named points. DECODED makes it longer.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.difftest import draw
from tests.streams.flows.difftest.run import read
from tests.streams.flows.difftest.store import Store
from tests.streams.flows.harness import InThread, Shop, kill

from instep.flowfile import parse
from instep.settings import KafkaSettings

FOLDER = Path(__file__).parent / "difftest" / "types"
ROUNDS = int(os.environ.get("DECODED", "1"))
TABLES = ("public.items", "public.sales", "public.Odd*", "crm.*")
DEFINITIONS = (
    ("ALTER TABLE items ADD COLUMN shade text DEFAULT 'grey'", "UPDATE items SET weight = 2 WHERE active"),
    ("TRUNCATE sales", "INSERT INTO sales SELECT '2024-02-29', sku, 1, NULL, 5, 1.50 FROM items"),
    (
        "ALTER TABLE crm.accounts ALTER COLUMN credit TYPE numeric(20,6)",
        "UPDATE crm.accounts SET credit = credit + 1",
        "ALTER TYPE crm.stage ADD VALUE 'paused' BEFORE 'won'",
        "UPDATE crm.accounts SET stage = 'paused', stages = '{won,paused}' WHERE id % 2 = 0",
    ),
)


class Plain(Store):
    """The store as a person has it: no triggers."""

    def _hook(self) -> None:
        """Logical decoding tells."""


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    own = made.settings.sources[made.name].model_copy(update={"tables": TABLES})
    made.settings = made.settings.model_copy(update={"sources": {made.name: own}})
    yield made
    made.close()


def write_flows(shop: Shop, files: dict[str, str]) -> list[str]:
    written = []
    for name, text in files.items():
        file = shop.folder / "flows" / f"{shop.named(name)}.sql"
        text = text.replace("i.net,", "i.price * 2 AS net,")  # PostgreSQL does not publish generated columns by itself
        file.write_text(re.sub(r"^target.*$", "", text, flags=re.MULTILINE), encoding="utf-8")
        parse(name, text)
        written.append(name)
    return written


def equal(shop: Shop, names: list[str], *running: InThread) -> None:
    shop.settle(*running)
    assert [name for name in names if shop.folded(name) != shop.expected(name)] == []


@pytest.mark.slow
def test_documents_equal_the_select_through_real_decoding(shop: Shop) -> None:
    schema, files = read(FOLDER)
    rnd = random.Random(11)
    store = Plain(shop.dsn, schema)
    try:
        names = write_flows(shop, files)
        changes = draw.Shop(store, rnd, "\n".join([schema, *files.values()]))
        changes.fill()
        with shop.capturing() as capture:
            with shop.working() as worker:
                equal(shop, names, capture, worker)
            for number in range(ROUNDS):
                for point, definition in zip(("applied", "committed", "produced"), DEFINITIONS, strict=True):
                    process = shop.process(f"worker.{point}=kill@{2 + number % 3}")
                    try:
                        _until_killed(changes, rnd, lambda: process.poll() is not None)  # noqa: B023  # called at once
                    finally:
                        kill(process)
                    if number == 0:
                        shop.execute(*definition)
                    changes.fill()
                    with shop.working() as worker:
                        equal(shop, names, capture, worker)
    finally:
        store.conn.close()


def _until_killed(changes: draw.Shop, rnd: random.Random, killed: object) -> None:
    assert callable(killed)

    def one_more() -> bool:
        changes.transaction(rnd.randint(1, 5))
        return bool(killed())

    until(one_more, 60, "the worker is killed")
