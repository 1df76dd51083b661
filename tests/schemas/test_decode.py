"""Generated decoders: projections, foreign writers' layouts, Debezium's own schemas."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.samples import LOSSY, SAMPLES, column_of, relation_of

from instep.change import ABSENT, Op
from instep.relation import Column
from instep_schemas.decode import compile_change_decoder, compile_decoder, compile_key_texts, decode_key
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.varint import long
from instep_schemas.wire import WireOptions

NATIVE = WireOptions("shop", "inventory", "native")
DEBEZIUM = WireOptions("shop", "inventory", "debezium")


@given(data=st.data())
def test_a_projection_reads_the_same_as_the_whole(data: st.DataObject) -> None:
    samples = SAMPLES | LOSSY
    chosen = data.draw(st.lists(st.sampled_from(sorted(samples)), min_size=1, max_size=8))
    columns = [column_of(n, samples[name], not_null=False) for n, name in enumerate(chosen)]
    pairs = [data.draw(st.none() | samples[name].values) for name in chosen]
    row = (b"5", *(None if pair is None else pair[0].encode() for pair in pairs))
    options = data.draw(st.sampled_from([NATIVE, DEBEZIUM]))
    encoder = compile_encoder(relation_of(columns), options)
    source = SourceBlock(options, committed_us=1, transaction=2)
    (record,) = encoder.records(Op.UPDATE, row, row, source, 3, time_stamp(4))
    assert record.value is not None
    whole = compile_decoder(encoder.schemas.value_text)(record.value)
    wanted = data.draw(st.sets(st.sampled_from(["id", *(column.name for column in columns)])))
    part = compile_decoder(encoder.schemas.value_text, wanted)(record.value)
    assert whole.after is not None and whole.before is not None
    assert part.after == {name: text for name, text in whole.after.items() if name in wanted}
    assert part.before == {name: text for name, text in whole.before.items() if name in wanted}
    assert part[3:] == whole[3:] == (1, 3, 2, "false")
    change = compile_change_decoder(encoder.schemas.value_text)(b"frame" + record.value)
    assert change == (Op.UPDATE, whole.after)
    assert record.key is not None and encoder.schemas.key_text is not None
    texts = compile_key_texts(encoder.schemas.key_text)(b"frame" + record.key)
    assert texts == tuple(decode_key(encoder.schemas.key_text)(record.key).values())


@given(st.lists(st.tuples(st.integers(0, 2**50), st.sampled_from([None, 1, 2**31]), st.booleans()), max_size=20))
def test_the_source_block_is_read_right_from_change_to_change(told: list[tuple[int, int | None, bool]]) -> None:
    """The decoder remembers the block of the change before: another transaction must not be taken for it."""
    encoder = compile_encoder(relation_of([]), NATIVE)
    decode = compile_decoder(encoder.schemas.value_text)
    for committed_us, transaction, snapshot in told:
        marker = "last" if snapshot else "false"
        source = SourceBlock(NATIVE, committed_us=committed_us, transaction=transaction, snapshot=marker)
        for lsn in (None, 5, committed_us):
            (record,) = encoder.records(Op.READ, None, (b"1",), source, lsn, time_stamp(4))
            assert record.value is not None
            assert decode(record.value)[3:] == (committed_us, lsn, transaction, marker)


def envelope_schema(fields: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """Another writer's envelope: fewer source fields, other order."""
    value = {"type": "record", "name": "Value", "fields": fields, **more}
    source = {
        "type": "record",
        "name": "Source",
        "namespace": "elsewhere",
        "fields": [
            {"name": "lsn", "type": ["long", "null"]},
            {"name": "ts_ms", "type": "long"},
            {"name": "extra", "type": {"type": "map", "values": {"type": "array", "items": "int"}}},
            {"name": "snapshot", "type": ["null", "string"], "default": None},
        ],
    }
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": "other.public.things",
        "fields": [
            {"name": "op", "type": "string"},
            {"name": "source", "type": source},
            {"name": "note", "type": ["null", "double", "boolean", "bytes"], "default": None},
            {"name": "after", "type": [value, "null"]},
            {"name": "before", "type": ["null", "Value"], "default": None},
        ],
    }


def body(schema: dict[str, Any], value: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


@pytest.mark.parametrize("note", [None, 1.5, True, b"xy"])
def test_another_writers_envelope(note: Any) -> None:
    schema = envelope_schema([{"name": "id", "type": "long"}, {"name": "name", "type": ["string", "null"]}])
    source = {"lsn": 77, "ts_ms": 5, "extra": {"a": [1, 300], "b": []}, "snapshot": None}
    value = {"op": "u", "source": source, "note": note, "after": {"id": 900_000, "name": None}, "before": None}
    told = compile_decoder(json.dumps(schema))(body(schema, value))
    assert told == (Op.UPDATE, None, {"id": "900000", "name": None}, 5000, 77, None, "false")


def test_what_is_not_an_envelope_is_refused() -> None:
    flat = {"type": "record", "name": "Flat", "fields": [{"name": "id", "type": "int"}]}
    with pytest.raises(ValueError, match="not an envelope"):
        compile_decoder(json.dumps(flat))
    odd = envelope_schema([{"name": "x", "type": {"type": "fixed", "name": "Hash", "size": 4}}])
    with pytest.raises(ValueError, match="no PostgreSQL text"):
        compile_decoder(json.dumps(odd))


def test_arrays_in_several_and_sized_blocks() -> None:
    schema = {
        "type": "record",
        "name": "Key",
        "namespace": "n",
        "fields": [{"name": "a", "type": {"type": "array", "items": ["null", "int"]}}, {"name": "b", "type": "int"}],
    }
    items = b"\x02" + long(1), b"\x00", b"\x02" + long(-300)
    sized = long(-2) + long(len(items[0] + items[1])) + items[0] + items[1]
    plain = long(1) + items[2]
    assert decode_key(json.dumps(schema))(sized + plain + b"\x00" + long(9)) == {"a": "{1,NULL,-300}", "b": "9"}


def test_other_placeholders_can_be_named() -> None:
    options = WireOptions("shop", "inventory", "debezium", unavailable="?")
    columns = [column_of(0, SAMPLES["text"], not_null=True), column_of(1, SAMPLES["bytea"], not_null=False)]
    encoder = compile_encoder(relation_of(columns), options)
    source = SourceBlock(options, committed_us=1, transaction=2)
    (record,) = encoder.records(Op.UPDATE, None, (b"1", ABSENT, ABSENT), source, 3, time_stamp(4))
    assert record.value is not None
    text = encoder.schemas.value_text
    assert compile_decoder(text, unavailable="?")(record.value).after == {"id": "1", "c0": ABSENT, "c1": ABSENT}
    assert compile_decoder(text)(record.value).after == {"id": "1", "c0": "?", "c1": "\\x3f"}


def test_columns_keep_their_own_names_in_the_native_profile() -> None:
    column = Column("größe (cm)", SAMPLES["int4"].type, sql_type="integer")
    encoder = compile_encoder(relation_of([column]), NATIVE)
    source = SourceBlock(NATIVE, committed_us=1, transaction=2)
    (record,) = encoder.records(Op.CREATE, None, (b"1", b"180"), source, 3, time_stamp(4))
    assert record.value is not None
    assert compile_decoder(encoder.schemas.value_text)(record.value).after == {"id": "1", "größe (cm)": "180"}
    assert encoder.schemas.value["fields"][0]["type"][1]["fields"][1]["name"] == "gr__e__cm_"
