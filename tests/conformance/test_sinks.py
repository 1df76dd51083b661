"""Every sink that is registered keeps the rules of the protocol, on its real target."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import entry_points

import pytest

from instep.flowfile import Flow
from instep.plugins import GROUP, sink_factory
from instep.protocols import Fields, Key
from instep.settings import TargetSettings
from instep.testing import SinkCase, check_sink


def _tryton_product(target: TargetSettings) -> SinkCase:
    fields = ("name", "list_price", "description")
    flow = Flow(name="check", sql="SELECT 1", key=("sku",), object="product.product", fields=("sku", *fields))
    run = uuid.uuid4().hex[:8]

    def valid(key: Key, number: int) -> Fields:
        text = None if number == 3 else f"Supplier: Füll & Söhne\nAvailable: {number}"
        return {"sku": key[0], "name": "Kettle “blue”", "list_price": Decimal("24.90") + number, "description": text}

    def refused(key: Key) -> Fields:
        return {**valid(key, 0), "list_price": Decimal("0.12345678")}

    return SinkCase(
        lambda: sink_factory("tryton").open(target, flow), lambda n: (f"{run}-{n}",), valid, fields, refused
    )


def _tryton_party(target: TargetSettings) -> SinkCase:
    fields = ("name", "email", "other")
    flow = Flow(name="check", sql="SELECT 1", key=("code",), object="party.party", fields=fields)
    run = uuid.uuid4().hex[:8]

    def valid(key: Key, number: int) -> Fields:
        email = None if number == 2 else f"n{number}@example.com"
        return {"code": key[0], "name": "Ada Löve", "email": email, "other": f"{number} orders"}

    def refused(key: Key) -> Fields:
        return {**valid(key, 0), "other": 12}

    return SinkCase(
        lambda: sink_factory("tryton").open(target, flow), lambda n: (f"{run}-{n}",), valid, fields, refused
    )


CASES: dict[str, list[Callable[[TargetSettings], SinkCase]]] = {"tryton": [_tryton_product, _tryton_party]}
"""Per registered sink, its cases; each takes the target's settings, from the fixture of the sink's name."""


def test_every_registered_sink_has_a_case() -> None:
    assert {entry.name for entry in entry_points(group=GROUP)} == set(CASES)


@pytest.mark.parametrize(("name", "make"), [(name, make) for name, cases in CASES.items() for make in cases])
async def test_it_keeps_the_rules(
    name: str, make: Callable[[TargetSettings], SinkCase], request: pytest.FixtureRequest
) -> None:
    target: TargetSettings = request.getfixturevalue(name)
    await check_sink(make(target))
