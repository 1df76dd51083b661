"""Array, hstore, interval and point texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep_schemas import literals
from instep_schemas.wire import Refused

WORDS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=12)


@given(st.lists(st.none() | WORDS | st.sampled_from(["NULL", "null", "", '"', "\\", "{", "a b", "\x0b"])))
def test_arrays_come_back(items: list[str | None]) -> None:
    assert literals.parse_array(literals.format_array(items)) == items


@given(st.dictionaries(WORDS, st.none() | WORDS))
def test_hstores_come_back(pairs: dict[str, str | None]) -> None:
    assert literals.parse_hstore(literals.format_hstore(pairs)) == pairs


@pytest.mark.parametrize("text", ["", "1,2", "{1", "1}", '{"a}', '{"a"'])
def test_what_is_no_array(text: str) -> None:
    with pytest.raises(ValueError, match="not an array"):
        literals.parse_array(text)


@pytest.mark.parametrize("text", ["{{1}}", "[0:1]={1,2}"])
def test_shapes_that_a_list_cannot_have(text: str) -> None:
    with pytest.raises(Refused):
        literals.parse_array(text)


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("{}", []),
        ("{1,NULL,2}", ["1", "2"]),
        ('{{"NULL",a},{"b,\\"\\\\}","="}}', ["NULL", "a", 'b,"\\}', "="]),
        ("[0:1][-2:-2]={{a},{b}}", ["a", "b"]),
        ('[0:0]={"x=[y]"}', ["x=[y]"]),
    ],
)
def test_the_items_of_an_array_of_any_shape(text: str, items: list[str]) -> None:
    assert literals.leaves(text) == items


@pytest.mark.parametrize(
    ("text", "parts", "iso"),
    [
        ("00:00:00", (0, 0, 0), "P0Y0M0DT0H0M0S"),
        ("1 year 2 mons 3 days 04:05:06.789", (14, 3, 14_706_789_000), "P1Y2M3DT4H5M6.789S"),
        ("-1 mons +2 days -00:00:01", (-1, 2, -1_000_000), "P0Y-1M2DT0H0M-1S"),
        ("1 day", (0, 1, 0), "P0Y0M1DT0H0M0S"),
        ("-2 years", (-24, 0, 0), "P-2Y0M0DT0H0M0S"),
        ("100:00:00", (0, 0, 360_000_000_000), "P0Y0M0DT100H0M0S"),
    ],
)
def test_intervals(text: str, parts: tuple[int, int, int], iso: str) -> None:
    assert literals.parse_interval(text) == parts
    assert literals.interval_iso(text) == iso


@pytest.mark.parametrize("text", ["", "infinity", "P1Y", "1 century"])
def test_what_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="not an interval"):
        literals.parse_interval(text)


@pytest.mark.parametrize("text", ["a=>1", '"a"=>', '"a"=>"1","b"=>"2"'])
def test_what_is_no_hstore_output(text: str) -> None:
    with pytest.raises(ValueError, match="not hstore"):
        literals.parse_hstore(text)


def test_points() -> None:
    assert literals.parse_point("(1.5,-2)") == (1.5, -2.0)
    with pytest.raises(ValueError, match="not a point"):
        literals.parse_point("1.5,-2")
