"""Keys as JSON in the headers of a key change."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.samples import LOSSY, SAMPLES, column_of, relation_of

from instep.relation import Column
from instep_schemas.decode import decode_key, decode_key_header
from instep_schemas.encode import compile_encoder
from instep_schemas.keyjson import key_body, key_json
from instep_schemas.wire import WireOptions

KEYS = sorted((SAMPLES | LOSSY).keys() - {"point"})
OPTIONS = {name: WireOptions("shop", "inventory", name) for name in ("debezium", "native")}


@pytest.mark.parametrize("profile", sorted(OPTIONS))
@given(data=st.data())
def test_keys_of_any_types_come_back(profile: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4))
    columns = [
        replace(column_of(n, (SAMPLES | LOSSY)[name], not_null=True), identity=True) for n, name in enumerate(names)
    ]
    relation = relation_of(columns, tuple(column.name for column in columns))
    row = (b"1", *(data.draw((SAMPLES | LOSSY)[name].values)[0].encode() for name in names))
    encoder = compile_encoder(relation, OPTIONS[profile])
    body, schema = encoder.key(row), encoder.schemas.key
    assert body is not None and schema is not None
    text = key_json(schema, body)
    assert list(json.loads(text, strict=False)) == [column.name for column in columns]
    assert key_body(schema, text) == body
    key_text = encoder.schemas.key_text or ""
    assert decode_key_header(key_text)(text) == decode_key(key_text)(body)


def test_a_namespace_that_strict_parsers_refuse_does_no_harm() -> None:
    relation = replace(relation_of([]), schema="public", name="2start")
    encoder = compile_encoder(relation, OPTIONS["debezium"])
    assert encoder.schemas.key is not None
    assert key_json(encoder.schemas.key, encoder.key((b"5",)) or b"") == b'{"id":5}'


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"id":"x"}', b'{"id":null}', b"7"])
def test_what_is_no_key(text: bytes) -> None:
    schema: dict[str, Any] = {"type": "record", "fields": [{"name": "id", "type": "int"}]}
    with pytest.raises(ValueError, match=r"not a key|JSON|Expecting"):
        key_body(schema, text)


def test_json_text_is_compact_and_utf8() -> None:
    column = Column("größe", SAMPLES["text"].type, not_null=True, identity=True, sql_type="text")
    encoder = compile_encoder(relation_of([column], ("größe", "id")), OPTIONS["native"])
    assert encoder.schemas.key is not None
    assert key_json(encoder.schemas.key, encoder.key((b"1", "ä".encode())) or b"") == '{"gr__e":"ä","id":1}'.encode()
