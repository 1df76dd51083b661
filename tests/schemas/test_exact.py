"""The header for values without room: told, read, and put back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.change import ABSENT, Op, Row
from instep_schemas.decode import Envelope
from instep_schemas.exact import EXACT_HEADER, exact_header, exact_row, exact_texts, restored

TEXTS = st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4)


def envelope(before: Row | None, after: Row | None) -> Envelope:
    return Envelope(Op.UPDATE, before, after, 1, 2, 3, "false")


@given(st.dictionaries(st.sampled_from(["before", "after"]), TEXTS))
def test_what_is_told_is_read(texts: dict[str, dict[str, str]]) -> None:
    name, content = exact_header(texts)
    assert name == EXACT_HEADER
    assert exact_texts(content) == texts


@pytest.mark.parametrize("content", [b"", b"\xff", b"no", b"1", b"[]", b'{"after":1}', b'{"after":{"v":null}}'])
def test_what_is_no_such_header_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        exact_texts(content)


def test_each_image_gets_its_own_values_and_keeps_the_others() -> None:
    header = exact_header({"before": {"v": "{{1}}", "gone": "x"}, "after": {"v": "NaN"}})
    change = envelope({"id": "1", "v": None}, {"id": "1", "v": ABSENT, "w": ABSENT})
    told = restored(change, [("other", b"?"), header])
    assert (told.before, told.after) == ({"id": "1", "v": "{{1}}"}, {"id": "1", "v": "NaN", "w": ABSENT})
    assert told[3:] == change[3:]
    assert restored(envelope(None, None), [header])[1:3] == (None, None)
    assert restored(change, [("other", b"?")]) is change
    assert exact_row({"v": ABSENT}, header[1]) == {"v": "NaN"}
