"""Fixture `shop`: makes captured databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.capture.harness import Shop

from instep.settings import KafkaSettings

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
