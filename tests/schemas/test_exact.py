"""The header for values without room: told, read, and put back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.encoding import (
    LIST,
    MOMENT,
    NATIVE,
    NOW,
    NUMBER,
    REQUIRED,
    SOURCE,
    TEXTS,
    bytes_of,
    decoded,
    records,
)
from tests.schemas.samples import MOOD, array, base, numeric, relation_of

from instep.change import ABSENT, Op, Row
from instep.relation import Column
from instep_schemas.decode import Envelope, compile_key_texts, decode_key
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import time_stamp
from instep_schemas.exact import EXACT_HEADER, exact_header, exact_row, exact_texts, restored
from instep_schemas.wire import UNAVAILABLE, Unencodable, UnknownLabel

TOLD = st.dictionaries(st.text(max_size=5), st.text(max_size=9), max_size=4)


def envelope(before: Row | None, after: Row | None) -> Envelope:
    return Envelope(Op.UPDATE, before, after, 1, 2, 3, "false")


@given(st.dictionaries(st.sampled_from(["before", "after"]), TOLD))
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


FAR = [Column("v", base("timestamp"), 3, sql_type="timestamp(3) without time zone")]
NUMBERS = [Column("v", array(base("numeric")), numeric(4, 2), sql_type="numeric(4,2)[]")]
BYTES = [Column("v", base("bytea"), sql_type="bytea")]
MOODS = [Column("v", array(MOOD), sql_type="mood[]")]
WORDS = [Column("v", array(base("text")), sql_type="text[]")]
LABELS = [Column("v", replace(MOOD, labels=(*MOOD.labels, UNAVAILABLE)), sql_type="mood")]
BESIDE = [
    (NUMBER, "NaN"), (NUMBERS, "{1.50,NaN}"), (LIST, "{{1,2},{3,4}}"), (LIST, "[2:3]={1,2}"), (MOODS, "{{ok,NULL}}"),
    (MOMENT, "294276-12-31 23:59:59.999999"), (MOMENT, "294247-01-10 04:00:25.2"), (FAR, "294247-01-10 04:00:25.2"),
    (TEXTS, UNAVAILABLE), (BYTES, "\\x" + UNAVAILABLE.encode().hex()), (WORDS, f"{{{UNAVAILABLE}}}"),
    (LIST, "{" + ",".join(map(str, UNAVAILABLE.encode())) + "}"), (LABELS, UNAVAILABLE),
]  # fmt: skip


@pytest.mark.parametrize("not_null", [False, True])
@pytest.mark.parametrize(("columns", "text"), BESIDE)
def test_values_without_room_come_back_by_their_header(columns: list[Column], text: str, not_null: bool) -> None:
    relation = relation_of([replace(columns[0], not_null=not_null, identity=True)])
    row = (b"1", text.encode())
    (record,) = records(NATIVE, relation, Op.UPDATE, row, row)
    assert record.exact is not None
    change = decoded(NATIVE, relation, record.value)
    assert change.after is not None and change.after["v"] in (ABSENT, "infinity")  # a reader without the header
    told = restored(change, [record.exact])
    assert told.before == told.after == {"id": "1", "v": text}
    (deleted, _) = records(NATIVE, relation, Op.DELETE, row, None)
    assert restored(decoded(NATIVE, relation, deleted.value), [deleted.exact]).before == told.before


@given(data=st.data())
def test_a_row_with_and_without_such_values_comes_back_whole(data: st.DataObject) -> None:
    columns = [replace(each, name=f"c{at}", identity=True) for at, ((each,), _) in enumerate(BESIDE)]
    toasted = [each.type.name != "timestamp" for each in columns]
    plain = {"numeric": "1.50", "timestamp": "2024-02-29 12:00:00", "bytea": "\\x00", "text": "a", "mood": "ok"}

    def row(*, whole: bool) -> list[Any]:
        found: list[Any] = []
        for column, absent, (_, text) in zip(columns, toasted, BESIDE, strict=True):
            ordinary = plain.get(column.type.name, "{}")
            found.append(
                data.draw(st.sampled_from([text, ordinary, None, *([ABSENT] if absent and not whole else [])]))
            )
        return found

    old, new = row(whole=True), row(whole=False)
    before, after = ([b"1", *(each if each is ABSENT else bytes_of(each) for each in image)] for image in (old, new))
    relation = relation_of(columns)
    (record,) = records(NATIVE, relation, Op.UPDATE, before, after)
    told = restored(decoded(NATIVE, relation, record.value), [record.exact] if record.exact else [])
    assert told.before is not None and told.after is not None
    known = [was if now is ABSENT else now for was, now in zip(old, new, strict=True)]  # the old row tells it
    assert (list(told.before.values()), list(told.after.values())) == (["1", *old], ["1", *known])


def test_the_header_is_of_one_change_only() -> None:
    encoder = compile_encoder(relation_of([*LIST, replace(REQUIRED[0], name="w")]), NATIVE)
    source, stamp = SOURCE["native"], time_stamp(NOW)
    assert encoder.records(Op.CREATE, None, (b"1", b"{{1}}", b"x"), source, 1, stamp)[0].exact
    assert encoder.records(Op.CREATE, None, (b"1", b"{1}", b"x"), source, 1, stamp)[0].exact is None
    with pytest.raises(Unencodable):
        encoder.records(Op.CREATE, None, (b"1", b"{{1}}", None), source, 1, stamp)
    assert encoder.records(Op.CREATE, None, (b"1", b"{1}", b"x"), source, 1, stamp)[0].exact is None


def test_the_header_tells_nothing_that_a_setting_hides() -> None:
    options = replace(NATIVE, mask=(("public.things.v", 3),))
    (record,) = records(options, relation_of(TEXTS), Op.CREATE, None, (b"1", UNAVAILABLE.encode()))
    assert record.exact is None and UNAVAILABLE.encode() not in record.value
    options = replace(NATIVE, truncate=(("public.things.v", len(UNAVAILABLE)),))
    (record,) = records(options, relation_of(TEXTS), Op.CREATE, None, (b"1", f"{UNAVAILABLE} and more".encode()))
    assert record.exact == ("instep.exact", json.dumps({"after": {"v": UNAVAILABLE}}, separators=(",", ":")).encode())


@pytest.mark.parametrize(("columns", "text"), [(NUMBER, "NaN"), (LIST, "{{1}}")])
def test_a_key_has_no_header_to_tell_its_values(columns: list[Column], text: str) -> None:
    relation = relation_of(columns, key=("v",))
    with pytest.raises(Unencodable, match=r"NaN|dimension") as caught:
        records(NATIVE, relation, Op.CREATE, None, (b"1", text.encode()))
    assert caught.value.column == "v"


def test_a_key_may_be_the_placeholder() -> None:
    relation = relation_of([replace(TEXTS[0], not_null=True)], key=("v",))
    (record,) = records(NATIVE, relation, Op.CREATE, None, (b"1", UNAVAILABLE.encode()))
    text = compile_encoder(relation, NATIVE).schemas.key_text
    assert text is not None and decode_key(text)(record.key) == {"v": UNAVAILABLE}
    assert compile_key_texts(text)(b"frame" + record.key) == (UNAVAILABLE,)


def test_a_label_added_since_is_looked_up_also_in_an_array_of_arrays() -> None:
    with pytest.raises(UnknownLabel):
        records(NATIVE, relation_of(MOODS), Op.CREATE, None, (b"1", b"[0:0][1:2]={{ok,glad}}"))
