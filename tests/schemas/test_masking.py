"""Texts cut short."""

from __future__ import annotations

import pytest

from instep_schemas.masking import truncating
from instep_schemas.varint import counted


@pytest.mark.parametrize(
    ("text", "characters", "units"),
    [
        ("ab", "ab", "ab"),
        ("abc", "ab", "ab"),
        ("äöü", "äö", "äö"),
        ("a😀", "a😀", "a?"),
        ("😀😀", "😀😀", "😀"),
        ("", "", ""),
    ],
)
def test_debezium_counts_java_s_units_and_we_count_characters(text: str, characters: str, units: str) -> None:
    for java, cut in ((False, characters), (True, units)):
        assert truncating(counted, 2, java=java)(text.encode()) == counted(cut.encode())
