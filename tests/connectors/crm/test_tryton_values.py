from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep_connectors.crm.tryton_values import Field, Misfit, catalogue, decode, encode, pick, same


def field(type_: str, **more: Any) -> Field:
    return Field("x", type_, **more)


moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))
VALUES = {
    "char": st.text(),
    "text": st.text(),
    "numeric": st.decimals(allow_nan=False, allow_infinity=False) | st.integers(),
    "integer": st.integers(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "boolean": st.booleans(),
    "date": st.dates(),
    "datetime": moments.map(lambda each: each.replace(tzinfo=UTC)),
    "time": st.times(),
}


@given(st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), st.none() | VALUES[kind])))
def test_what_goes_out_comes_back_equal(example: tuple[str, Any]) -> None:
    kind, value = example
    raw = json.loads(json.dumps(encode(field(kind), value, {})))
    assert decode(field(kind), raw) == value
    assert same(field(kind), decode(field(kind), raw), value)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("char", 5),
        ("text", Decimal(1)),
        ("char", True),
        ("numeric", "5"),
        ("numeric", True),
        ("numeric", Decimal("NaN")),
        ("float", float("inf")),
        ("integer", Decimal("1.5")),
        ("boolean", 1),
        ("date", datetime(2026, 1, 1)),
        ("datetime", date(2026, 1, 1)),
        ("time", "12:00"),
        ("char", ["a"]),
        ("many2one", 5),
    ],
)
def test_what_does_not_fit_is_refused_in_words(kind: str, value: Any) -> None:
    with pytest.raises(Misfit, match=r"Tryton"):
        encode(field(kind), value, {})


def test_a_many2one_is_its_id_and_is_read_by_its_name() -> None:
    uom = field("many2one", relation="product.uom")
    assert encode(uom, "Unit", {("product.uom", "Unit"): 7}) == 7
    assert uom.read_name == "x.rec_name" and field("char").read_name == "x"


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    moment = datetime.fromisoformat("2026-11-24T10:00:00+02:00")
    assert decode(field("timestamp"), encode(field("timestamp"), moment, {})) == moment
    assert same(field("timestamp"), datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1))


def test_blanks_that_tryton_cuts_off_are_no_change() -> None:
    assert same(field("char", strip=True), "Kettle", " Kettle ")
    assert not same(field("text"), "Kettle", " Kettle ")


def test_numbers_are_the_same_by_value() -> None:
    assert same(field("numeric"), Decimal("24.90"), Decimal("24.9"))
    assert same(field("float"), 0.1, Decimal("0.1"))
    assert not same(field("float"), 0.1, Decimal("0.2"))


def test_unknown_shapes_are_given_as_they_are() -> None:
    assert decode(field("text"), {"__class__": "timedelta", "seconds": 5}) == {"__class__": "timedelta", "seconds": 5}
    assert decode(field("numeric"), {"__class__": "Decimal", "decimal": "x"}) is None
    assert decode(field("time"), {"__class__": "time", "hour": 1, "minute": 2, "second": 3, "microsecond": 4}) == time(
        1, 2, 3, 4
    )


def test_a_catalogue_says_what_may_be_written() -> None:
    found = catalogue({"a": {"type": "char", "readonly": True}, "b": {"type": "text", "relation": None}})
    assert not found["a"].writable and found["a"].strip
    assert found["b"].writable and not found["b"].strip


def test_related_records_are_followed() -> None:
    raw = {"id": 1, "template.": {"name": "x", "uom.": {"rec_name": "Unit"}}, "gone.": None}
    assert pick(raw, "template.uom.rec_name") == "Unit"
    assert pick(raw, "template.name") == "x"
    assert pick(raw, "gone.name") is None and pick(raw, "nothing.name") is None
