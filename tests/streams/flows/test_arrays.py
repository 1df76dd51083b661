"""Lists reach PostgreSQL as they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests

from instep_streams.flows.arrays import array_text
from instep_streams.flows.session import open_state

ODD = ["", "NULL", "null", " ", "a,b", "{}", '"', "\\", '\\"', '","', 'a","b', "é\n\t", "''"]


def test_every_text_comes_back_as_it_was(postgres: PostgresForTests) -> None:
    texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=6)
    values = st.lists(st.none() | st.sampled_from(ODD) | texts, max_size=5)
    with open_state(postgres.database()) as conn:

        @given(values, values)
        def check(first: list[str | None], second: list[str | None]) -> None:
            assert conn.execute("SELECT %s::text[], %s::text[]", (first, second)).fetchone() == (first, second)

        check()


def test_numbers_come_back_as_they_were(postgres: PostgresForTests) -> None:
    given_numbers = [0, -1, None, 2**63 - 1]
    with open_state(postgres.database()) as conn:
        assert conn.execute("SELECT %s::int8[]", (given_numbers,)).fetchone() == (given_numbers,)


def test_what_has_no_plain_text_is_refused() -> None:
    with pytest.raises(TypeError, match="bool"):
        array_text([True])
