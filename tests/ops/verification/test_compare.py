import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep_ops.verification.compare import (
    MISSING,
    PRESENT,
    crm_differences,
    same_fields,
    same_value,
    topic_differences,
)

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Decimal("1.50"), Decimal("1.5")),
        (float("nan"), float("nan")),
        (Decimal("NaN"), Decimal("NaN")),
        ([1, {"a": float("nan")}], [1, {"a": float("nan")}]),
        (NOON, NOON.astimezone(timezone(timedelta(hours=5)))),
        (None, None),
        ([], ()),
    ],
)
def test_the_same(one: Any, other: Any) -> None:
    assert same_value(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, ""), (None, 0), ("", 0), (True, 1), (1, True), ("1", 1), (Decimal("1.5"), Decimal("1.51")),
        ([1, 2], [2, 1]), ([1], [1, 1]), ({"a": 1}, {"a": 1, "b": None}), (float("nan"), 0.0), ([True], [1]),
    ],
)  # fmt: skip
def test_not_the_same(one: Any, other: Any) -> None:
    assert not same_value(one, other)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
rows = st.none() | st.dictionaries(st.sampled_from("abc"), values, max_size=3)


@settings(deadline=None)
@given(rows, rows)
def test_differences_are_listed_exactly_when_rows_differ(one: Any, other: Any) -> None:
    listed = list(topic_differences("f", ("k",), one, other))
    assert bool(listed) == (not same_fields(one, other))
    assert all(json.dumps(each.to_dict(), default=str) for each in listed)


@settings(deadline=None)
@given(rows)
def test_a_row_equals_itself(row: Any) -> None:
    assert list(topic_differences("f", ("k",), row, row)) == []
    assert list(crm_differences("crm", "f", ("k",), list(row or ()), row, row, row)) == []


def test_each_field_is_named() -> None:
    (found,) = topic_differences("f", ("k",), {"a": 1, "b": 2}, {"a": 1, "b": 3})
    assert (found.field, found.store, found.topic) == ("b", 2, 3)


def test_a_missing_row_is_one_difference() -> None:
    (found,) = topic_differences("f", ("k",), {"a": 1, "b": 2}, None)
    assert (found.field, found.store, found.topic) == (None, PRESENT, MISSING)
    assert found.to_dict()["topic"] == "missing"


def test_null_and_missing_are_told_apart() -> None:
    (found,) = topic_differences("f", ("k",), {"a": None}, {})
    assert (found.store, found.topic) == (None, MISSING)


def test_only_delivered_columns_count_in_the_crm() -> None:
    document = {"sku": "x", "name": "N", "internal": 1}
    assert list(crm_differences("crm", "f", ("k",), ["name"], document, {"name": "N"}, document)) == []
    (found,) = crm_differences("crm", "f", ("k",), ["name"], document, {"name": "M"}, {"name": "N2"})
    assert (found.target, found.field, found.store, found.topic, found.crm) == ("crm", "name", "N2", "N", "M")


def test_a_field_the_crm_does_not_give_is_a_difference() -> None:
    (found,) = crm_differences("crm", "f", ("k",), ["name"], {"name": None}, {}, None)
    assert found.crm is MISSING
