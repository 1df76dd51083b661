"""Generated reading of row messages: the same values as the decoder's, and a fault where something is amiss."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep_connectors.postgres.pgoutput import decode
from instep_connectors.postgres.rowreading import NAMES, reading, row_head, unpacking

VALUES = st.lists(st.none() | st.binary(max_size=300), min_size=1, max_size=6)


def insert(values: Sequence[bytes | None]) -> bytes:
    texts = [b"n" if value is None else b"t" + struct.pack(">I", len(value)) + value for value in values]
    return row_head(b"I", 7, b"N", len(values)) + b"".join(texts)


def run(lines: Sequence[str], data: object, used: Collection[int]) -> list[object]:
    names = {**NAMES, "data": data}
    exec("\n".join(lines), names)
    return [names[f"c{index}"] for index in used]


@given(values=VALUES, pick=st.sets(st.integers(0, 5)))
def test_reads_what_the_decoder_reads(values: list[bytes | None], pick: set[int]) -> None:
    data, used = insert(values), [index for index in sorted(pick) if index < len(values)]
    row = decode(data).new  # type: ignore[union-attr]  # an INSERT
    assert run(reading(len(values), used), data, used) == [row[index] for index in used]
    assert run(unpacking(len(values), used), tuple(values), used) == [row[index] for index in used]


@pytest.mark.parametrize("used", [[0, 1], [0], [1], []])
@pytest.mark.parametrize(
    "data",
    [
        insert([b"ab", b"cd"])[:-1],
        insert([b"ab", b"cd"])[:-6],
        insert([b"ab", b"cd"]) + b"n",
        insert([b"ab", b"cd"]).replace(b"t", b"b"),
        insert([b"ab"]),
    ],
)
def test_a_message_of_another_form_is_refused(data: bytes, used: list[int]) -> None:
    with pytest.raises((ValueError, LookupError, struct.error)):
        run(reading(2, used), data, used)


def test_an_unchanged_value_is_refused_where_it_is_wanted() -> None:
    data = insert([b"ab", None])[:-1] + b"u"
    assert run(reading(2, [0]), data, [0]) == [b"ab"]
    with pytest.raises(ValueError):
        run(reading(2, [0, 1]), data, [0, 1])
