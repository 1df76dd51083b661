import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.change import ABSENT, Position, format_lsn, parse_lsn

positions = st.builds(Position, st.integers(1, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(positions)
def test_a_position_survives_text_and_bytes(position: Position) -> None:
    assert Position.parse(str(position)) == position
    assert Position.unpack(position.pack()) == position


@given(positions, positions)
def test_packed_positions_sort_as_positions_do(one: Position, other: Position) -> None:
    assert (one.pack() < other.pack()) == (one < other)


@given(st.integers(0, 2**64 - 1))
def test_an_lsn_survives_its_text(lsn: int) -> None:
    assert parse_lsn(format_lsn(lsn)) == lsn


def test_short_forms_of_a_position() -> None:
    assert Position.parse("0/16B3748") == Position(1, 0x16B3748, 0)
    assert Position.parse("0/10:7") == Position(1, 0x10, 7)
    assert Position.parse("2:1/0") == Position(2, 1 << 32, 0)


@pytest.mark.parametrize("text", ["", "x", "1", "1:2", "0/zz", "1:0/1:2:3"])
def test_what_is_not_a_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Position.parse(text)


def test_absent_is_neither_null_nor_a_value() -> None:
    assert ABSENT is not None
    assert repr(ABSENT) == "ABSENT"
