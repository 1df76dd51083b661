"""What Java writes, taken from Debezium's output and from Java's documentation."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep_schemas.javatext import geometric, hash_order, json_text, moment, number, shortest


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (1.0, "1.0"),
        (-2.5, "-2.5"),
        (100.0, "100.0"),
        (0.001, "0.001"),
        (0.00099, "9.9E-4"),
        (9999999.0, "9999999.0"),
        (1e7, "1.0E7"),
        (1e20, "1.0E20"),
        (123456789.125, "1.23456789125E8"),
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_a_double_as_java_prints_it(value: float, text: str) -> None:
    assert number(value) == text


@given(st.floats(allow_nan=False))
def test_no_double_loses_a_digit(value: float) -> None:
    assert float(number(value)) == value


@given(st.floats(width=32, allow_nan=False))
def test_no_float_loses_a_digit_and_none_has_more_than_nine(value: float) -> None:
    text = number(value, single=True)
    assert struct.pack("<f", float(text)) == struct.pack("<f", value)
    digits = text.partition("E")[0].lstrip("-").replace(".", "").lstrip("0").rstrip("0")
    assert len(digits) <= 9


@pytest.mark.parametrize(
    ("value", "short"), [(1.100000023841858, 1.1), (3.4028234663852886e38, 3.4028235e38), (-0.5, -0.5)]
)
def test_a_float_of_fewest_digits(value: float, short: float) -> None:
    assert shortest(value) == short


def test_json_with_numbers_as_java_prints_them() -> None:
    value = {"a": [1e10, 1.5, 1, True, None, -1e-7], 'é"\n': {}}
    assert json_text(value) == '{"a":[1.0E10,1.5,1,true,null,-1.0E-7],"é\\"\\n":{}}'


def test_a_box_as_the_driver_prints_it() -> None:
    assert geometric(b"(1,2.5),(-1e+30,0)") == b"(1.0,2.5),(-1.0E30,0.0)"


def test_the_order_of_a_java_hash_map() -> None:
    # "Aa" and "BB" share their hash; the second order was seen in a recording of Debezium
    assert hash_order(["c", "BB", "b", "Aa"]) == ["BB", "Aa", "b", "c"]
    numbers = [str(number) for number in range(1, 901)]
    assert hash_order(numbers)[7:11] == ["8", "800", "9", "801"]


@given(st.lists(st.text(), unique=True))
def test_no_key_of_a_hash_map_is_lost(keys: list[str]) -> None:
    assert sorted(hash_order(keys)) == sorted(keys)


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (36_000_500, "10:00:00.500Z"),
        (0, "00:00:00.000Z"),
        (1_704_067_200_000, "2024-01-01"),
        (1_704_103_200_123, "2024-01-01T10:00:00.123Z"),
        (-1, "23:59:59.999Z"),
    ],
)
def test_a_java_date_as_connect_shows_it(ms: int, text: str) -> None:
    assert moment(ms) == text
