"""Captured databases; a store and a broker that may be killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.harness import Shop

from instep.settings import KafkaSettings
from instep_ops.embedded import Kafka

MakeShop = Callable[..., Shop]


@pytest.fixture
def make_shop(postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[MakeShop]:
    """Make a source over a fresh database; its slot is dropped at the end."""
    made: list[Shop] = []

    def make(*statements: str, **options: object) -> Shop:
        shop = Shop(postgres.database(), kafka, registry, **options)
        shop.execute(*statements)
        made.append(shop)
        return shop

    yield make
    for shop in made:
        shop.drop_slot()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[PostgresForTests]:
    """A server of the test's own, to stop and kill; it gives up on silent clients after 2 s."""
    server = PostgresForTests(tmp_path / "pg", "own", durable=False, settings={"wal_sender_timeout": "2s"})
    server.ensure()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Kafka]:
    server = Kafka(tmp_path / "kafka")
    server.ensure()
    server.start()
    yield server
    server.stop()
