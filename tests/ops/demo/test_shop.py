from itertools import islice

import pytest

from instep_ops.demo.life import LIFE
from instep_ops.demo.shop import Shop, Step


def steps(shop: Shop, count: int) -> list[Step]:
    return [shop.step() for _ in range(count)]


def test_the_same_seed_gives_the_same_statements() -> None:
    first, second = Shop(7, 0.5), Shop(7, 0.5)
    assert first.first_day == second.first_day
    assert steps(first, 3000) == steps(second, 3000)


def test_another_seed_gives_another_life() -> None:
    assert steps(Shop(1, 0.5), 20) != steps(Shop(2, 0.5), 20)


def test_everything_that_can_happen_happens() -> None:
    kinds = {step.kind for step in steps(Shop(1, 0.3), 3000)}
    assert kinds == set(LIFE)


def test_steps_are_numbered_without_a_gap_and_never_empty() -> None:
    life = steps(Shop(3, 0.2), 500)
    assert [step.number for step in life] == list(range(1, 501))
    assert all(step.changes for step in life)


def test_scale_sizes_the_shop() -> None:
    small, large = Shop(1, 0.1).first_day, Shop(1, 2).first_day
    assert len(small["products"]) == 20
    assert len(large["products"]) == 400
    assert len(large["stock_levels"]) == 1600


def test_a_long_life_does_not_grow_without_end() -> None:
    shop = Shop(1, 0.5)
    at_first = len(shop.first_day["orders"])
    steps(shop, 20_000)
    assert len(shop._world.orders) < 3 * at_first
    assert len(shop._world.movements) < 6 * at_first


@pytest.mark.parametrize("column", [3, 7])
def test_products_have_nulls_where_nulls_may_be(column: int) -> None:
    suppliers_and_manuals = [(row[4], row[7]) for row in islice(Shop(1, 3).first_day["products"], 600)]
    values = [pair[0 if column == 3 else 1] for pair in suppliers_and_manuals]
    assert None in values
    assert any(value is not None for value in values)
