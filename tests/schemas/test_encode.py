"""Generated encoders against fastavro, and the rules of a change's records."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.encoding import (
    DEBEZIUM,
    LIST,
    MOMENT,
    NATIVE,
    NOW,
    NUMBER,
    PROFILES,
    REQUIRED,
    SOURCE,
    bytes_of,
    decoded,
    records,
)
from tests.schemas.samples import LOSSY, MOOD, SAMPLES, UNMAPPED, array, base, column_of, numeric, relation_of

from instep.change import ABSENT, Op
from instep.relation import Column, Relation, ReplicaIdentity
from instep_schemas.decode import compile_decoder, decode_key, decode_key_header
from instep_schemas.encode import NEW_KEY, OLD_KEY, compile_encoder
from instep_schemas.envelope import time_stamp, transaction_block
from instep_schemas.masking import hashing, serialized
from instep_schemas.wire import (
    EXCEPTIONS,
    Hash,
    Profile,
    Unencodable,
    UnknownLabel,
    Unsupported,
    WireOptions,
)


def fastavro_body(text: str, value: dict[str, Any]) -> bytes:
    schema = fastavro.parse_schema(json.loads(text.replace('"logicalType"', '"was"')))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, schema, value)
    return out.getvalue()


def envelope_value(options: WireOptions, op: str, before: Any, after: Any, lsn: int) -> dict[str, Any]:
    return {
        "before": before,
        "after": after,
        "source": {
            "version": options.version, "connector": "postgresql", "name": "shop", "ts_ms": 1_795_492_217_239,
            "snapshot": "false", "db": "inventory", "sequence": f'["642443128","{lsn}"]',
            "ts_us": 1_795_492_217_239_251, "ts_ns": 1_795_492_217_239_251_000, "schema": "public", "table": "things",
            "txId": 11_362, "lsn": lsn, "xmin": None, "origin": None, "origin_lsn": None,
        },
        "transaction": None,
        "op": op,
        "ts_ms": NOW // 1_000_000,
        "ts_us": NOW // 1000,
        "ts_ns": NOW,
    }  # fmt: skip


@pytest.mark.parametrize("profile", ["debezium", "native"])
@given(data=st.data())
def test_rows_of_any_types_equal_fastavros_bytes(profile: Profile, data: st.DataObject) -> None:
    samples = SAMPLES | (LOSSY if profile == "debezium" else {})
    chosen = data.draw(st.lists(st.sampled_from(sorted(samples)), max_size=6))
    required = data.draw(st.lists(st.booleans(), min_size=len(chosen), max_size=len(chosen)))
    columns = [column_of(n, samples[name], not_null=required[n]) for n, name in enumerate(chosen)]
    pairs = [
        data.draw(samples[name].values if required[n] else st.none() | samples[name].values)
        for n, name in enumerate(chosen)
    ]
    number, lsn = data.draw(st.integers(-(2**31), 2**31 - 1)), data.draw(st.integers(0, 2**60))
    row = (str(number).encode(), *(None if pair is None else pair[0].encode() for pair in pairs))
    after = {"id": number} | {f"c{n}": None if pair is None else pair[1] for n, pair in enumerate(pairs)}
    encoder = compile_encoder(relation_of(columns), PROFILES[profile])
    (record,) = encoder.records(Op.CREATE, None, row, SOURCE[profile], lsn, time_stamp(NOW))
    expected = envelope_value(PROFILES[profile], "c", None, after, lsn)
    assert record.value == fastavro_body(encoder.schemas.value_text, expected)
    assert record.key == fastavro_body(encoder.schemas.key_text or "", {"id": number})


@pytest.mark.parametrize("name", sorted(SAMPLES | LOSSY | dict.fromkeys(UNMAPPED)))
@settings(max_examples=40)
@given(data=st.data())
def test_native_texts_come_back_exactly(name: str, data: st.DataObject) -> None:
    sample = (SAMPLES | LOSSY).get(name)
    if sample is None:
        column = Column("c0", UNMAPPED[name], sql_type="public.thing")
        text: str | None = data.draw(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=9))
    else:
        column = column_of(0, sample, not_null=False)
        pair = data.draw(st.none() | sample.values)
        text = pair and pair[0]
    encoder = compile_encoder(relation_of([column]), NATIVE)
    (record,) = encoder.records(Op.CREATE, None, (b"1", bytes_of(text)), SOURCE["native"], 1, b"\x00\x00\x00")
    assert record.value is not None
    assert compile_decoder(encoder.schemas.value_text)(record.value).after == {"id": "1", "c0": text}


@pytest.mark.parametrize("name", sorted(SAMPLES))
@settings(max_examples=40)
@given(data=st.data())
def test_debeziums_exact_types_come_back_exactly(name: str, data: st.DataObject) -> None:
    column = column_of(0, SAMPLES[name], not_null=True)
    text = data.draw(SAMPLES[name].values)[0]
    encoder = compile_encoder(relation_of([column]), DEBEZIUM)
    (record,) = encoder.records(Op.CREATE, None, (b"1", text.encode()), SOURCE["debezium"], 1, b"\x00\x00\x00")
    assert record.value is not None
    assert compile_decoder(encoder.schemas.value_text)(record.value).after == {"id": "1", "c0": text}


@pytest.mark.parametrize("profile", ["debezium", "native"])
@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_unchanged_toast_is_absent(profile: Profile, name: str) -> None:
    sample = SAMPLES[name]
    encoder = compile_encoder(relation_of([column_of(0, sample, not_null=False)]), PROFILES[profile])
    if sample.type.kind.value == "b" and sample.type.name in (
        "int2 int4 int8 oid bool float4 float8 date time timestamp timestamptz".split()
    ):
        with pytest.raises(Unencodable, match="unchanged"):
            encoder.records(Op.UPDATE, None, (b"1", ABSENT), SOURCE[profile], 1, b"\x00\x00\x00")
        return
    (record,) = encoder.records(Op.UPDATE, None, (b"1", ABSENT), SOURCE[profile], 1, b"\x00\x00\x00")
    assert record.value is not None
    after = compile_decoder(encoder.schemas.value_text)(record.value).after
    assert after == {"id": "1", "c0": ABSENT}


THINGS = relation_of(
    [
        Column("label", base("text"), sql_type="text", default="'none'::text"),
        Column("price", base("numeric"), numeric(10, 2), not_null=True, sql_type="numeric(10,2)"),
    ]
)


def test_delete_is_followed_by_a_tombstone() -> None:
    gone, tombstone = records(NATIVE, THINGS, Op.DELETE, (b"7", None, None), None)
    assert gone.key == tombstone.key == b"\x0e"
    assert tombstone.value is None
    assert decoded(NATIVE, THINGS, gone.value).before == {"id": "7", "label": ABSENT, "price": ABSENT}
    assert len(records(replace(NATIVE, tombstones=False), THINGS, Op.DELETE, (b"7", None, None), None)) == 1


def test_debezium_fills_the_old_row_of_a_delete() -> None:
    gone, _ = records(DEBEZIUM, THINGS, Op.DELETE, (b"7", None, None), None)
    assert decoded(DEBEZIUM, THINGS, gone.value).before == {"id": "7", "label": "none", "price": "0.00"}


def test_a_key_change_is_a_delete_and_a_create() -> None:
    gone, tombstone, came = records(NATIVE, THINGS, Op.UPDATE, (b"7", None, None), (b"8", ABSENT, b"1.50"))
    assert (gone.key, tombstone.key, came.key) == (b"\x0e", b"\x0e", b"\x10")
    assert (gone.moved, tombstone.moved, came.moved) == (
        (NEW_KEY, b'{"id":8}'), (NEW_KEY, b'{"id":8}'), (OLD_KEY, b'{"id":7}')
    )  # fmt: skip
    assert tombstone.value is None
    assert decoded(NATIVE, THINGS, gone.value).op is Op.DELETE
    created = decoded(NATIVE, THINGS, came.value)
    assert (created.op, created.before) == (Op.CREATE, None)
    assert created.after == {"id": "8", "label": ABSENT, "price": "1.50"}


def test_key_headers_are_read_back() -> None:
    columns = [
        Column("n", base("numeric"), numeric(10, 2), not_null=True, identity=True, sql_type="numeric(10,2)"),
        Column("b", base("bytea"), not_null=True, identity=True, sql_type="bytea"),
        Column("t", base("timestamptz"), not_null=True, identity=True, sql_type="timestamp with time zone"),
    ]
    for options in (DEBEZIUM, NATIVE):
        relation = relation_of(columns, ("t", "n", "b"))
        old = (b"1", b"1.50", b"\\x00ff", b"2024-02-29 12:00:00.5+00")
        gone, _, came = records(options, relation, Op.UPDATE, old, (b"1", b"1.51", *old[2:]))
        key_text = compile_encoder(relation, options).schemas.key_text or ""
        told = {"t": "2024-02-29 12:00:00.5+00", "n": "1.50", "b": "\\x00ff"}
        assert decode_key_header(key_text)(came.moved[1]) == told == decode_key(key_text)(gone.key)
        assert decode_key_header(key_text)(gone.moved[1]) == told | {"n": "1.51"}
        with pytest.raises(ValueError, match="not a key"):
            decode_key_header(key_text)(b'{"n":""}')


def test_an_update_with_the_same_key_is_one_record() -> None:
    (record,) = records(NATIVE, THINGS, Op.UPDATE, (b"7", None, None), (b"7", b"x", b"1.50"))
    assert decoded(NATIVE, THINGS, record.value).before == {"id": "7", "label": ABSENT, "price": ABSENT}


HSTORES = relation_of([Column("h", base("hstore", "public"), not_null=True, sql_type="public.hstore")])


def test_an_hstore_that_is_not_told_is_an_object() -> None:
    gone, _ = records(DEBEZIUM, HSTORES, Op.DELETE, (b"7", None), None)
    assert decoded(DEBEZIUM, HSTORES, gone.value).before == {"id": "7", "h": "{}"}
    (record,) = records(DEBEZIUM, HSTORES, Op.UPDATE, None, (b"7", ABSENT))
    text = '{"__debezium_unavailable_value":"__debezium_unavailable_value"}'
    assert record.value is not None and text.encode() in record.value
    assert decoded(DEBEZIUM, HSTORES, record.value).after == {"id": "7", "h": ABSENT}


def test_such_an_object_is_a_value_like_others_in_the_native_profile() -> None:
    relation = relation_of([Column("j", base("json"), sql_type="json")])
    text = '{"__debezium_unavailable_value":"__debezium_unavailable_value"}'
    (record,) = records(NATIVE, relation, Op.UPDATE, None, (b"7", text.encode()))
    assert decoded(NATIVE, relation, record.value).after == {"id": "7", "j": text}


@pytest.mark.parametrize(
    ("new", "same"),
    [
        ((b"7", b"1.00", b"xx"), True), ((b"7", b"1", ABSENT), True), ((b"7", b"1.0", b"y"), True),
        ((b"7", b"1.1", b"xx"), False), ((b"7", None, b"xx"), False), ((b"8", b"1.0", b"xx"), False),
        ((b"7", b"NaN", b"xx"), False),
    ],
)  # fmt: skip
def test_rows_are_alike_when_they_are_written_alike(new: Any, same: bool) -> None:
    columns = [Column("n", base("numeric"), sql_type="numeric"), Column("m", base("text"), sql_type="text")]
    relation = replace(relation_of(columns), replica_identity=ReplicaIdentity.FULL)
    encoder = compile_encoder(relation, replace(DEBEZIUM, mask=((r"public\.\w+\.m", 3),)))
    assert encoder.alike((b"7", b"1.0", b"xx"), new) is same


def test_full_identity_completes_unchanged_toast_from_the_old_row() -> None:
    relation = replace(THINGS, replica_identity=ReplicaIdentity.FULL)
    (record,) = records(NATIVE, relation, Op.UPDATE, (b"7", b"old", b"1.00"), (b"7", ABSENT, b"2.00"))
    told = decoded(NATIVE, relation, record.value)
    assert told.before == {"id": "7", "label": "old", "price": "1.00"}
    assert told.after == {"id": "7", "label": "old", "price": "2.00"}


def test_keyless_tables() -> None:
    relation = replace(THINGS, key=(), replica_identity=ReplicaIdentity.FULL)
    (native,) = records(NATIVE, relation, Op.DELETE, (b"7", None, b"1.00"), None)
    assert native.key is None and native.value is not None
    gone, tombstone = records(DEBEZIUM, relation, Op.DELETE, (b"7", None, b"1.00"), None)
    assert (gone.key, tombstone.key, tombstone.value) == (None, None, None)


def test_truncate_has_neither_key_nor_rows() -> None:
    (record,) = records(NATIVE, THINGS, Op.TRUNCATE, None, None)
    told = decoded(NATIVE, THINGS, record.value)
    assert (record.key, told.op, told.before, told.after) == (None, Op.TRUNCATE, None, None)


def test_ids_are_put_in_front() -> None:
    encoder = compile_encoder(THINGS, NATIVE, key_id=258, value_id=772)
    (record,) = encoder.records(Op.CREATE, None, (b"1", None, b"1.00"), SOURCE["native"], 1, b"\x00\x00\x00")
    (bare,) = records(NATIVE, THINGS, Op.CREATE, None, (b"1", None, b"1.00"))
    assert record.key == b"\x00\x00\x00\x01\x02" + bare.key
    assert record.value is not None and record.value[:6] == b"\x00\x00\x00\x03\x04\x00"


def test_both_halves_of_a_key_change_count_in_the_transaction() -> None:
    encoder = compile_encoder(THINGS, replace(NATIVE, transactions=True))
    orders = iter((1, 2))
    split = encoder.records(
        Op.UPDATE, (b"7", None, None), (b"8", None, b"1.00"), SOURCE["native"], 9, b"\x00\x00\x00",
        lambda: transaction_block("11:9", next(orders), 1),
    )  # fmt: skip
    assert [record.value is not None for record in split] == [True, False, True]
    assert next(orders, None) is None


ANY_NUMBER = [Column("v", base("numeric"), sql_type="numeric")]
REFUSED = [
    (DEBEZIUM, NUMBER, b"NaN", "numeric-special", "NaN"),
    (DEBEZIUM, ANY_NUMBER, b"-Infinity", "numeric-special", "Infinity"),
    (NATIVE, NUMBER, b"1.005", "", "more digits"),
    (DEBEZIUM, LIST, b"{{1,2},{3,4}}", "array-dimensions", "dimension"),
    (DEBEZIUM, MOMENT, b"294276-12-31 23:59:59.999999", "timestamp-range", "64 bits"),
    (NATIVE, REQUIRED, None, "null-in-not-null", "NOT NULL"),
    (DEBEZIUM, [Column("v", base("varbit"), not_null=True, sql_type="bit varying")], None, "", "NOT NULL"),
    (NATIVE, LIST, b"{1,x}", "", "not the text"),
]


@pytest.mark.parametrize(("options", "columns", "value", "exception", "reason"), REFUSED)
def test_what_cannot_be_written_names_its_column(
    options: WireOptions, columns: list[Column], value: bytes | None, exception: str, reason: str
) -> None:
    assert not exception or exception in EXCEPTIONS
    with pytest.raises(Unencodable, match=reason) as caught:
        records(options, relation_of(columns), Op.CREATE, None, (b"1", value))
    assert caught.value.column == "v"
    assert value is None or len(value) < 4 or value.decode() not in str(caught.value)


@pytest.mark.parametrize("column", [Column("v", MOOD, sql_type="mood"), Column("v", array(MOOD), sql_type="mood[]")])
def test_a_label_added_since_asks_for_another_look_at_the_table(column: Column) -> None:
    value = b"glad" if column.type is MOOD else b"{ok,glad}"
    with pytest.raises(UnknownLabel, match="label") as caught:
        records(NATIVE, relation_of([column]), Op.CREATE, None, (b"1", value))
    assert caught.value.column == "v"
    assert "glad" not in str(caught.value)
    assert records(DEBEZIUM, relation_of([column]), Op.CREATE, None, (b"1", value))


CARRIED = [
    (NATIVE, ANY_NUMBER, "NaN"),
    (NATIVE, ANY_NUMBER, "-Infinity"),
    (NATIVE, ANY_NUMBER, "1.500"),
    (DEBEZIUM, ANY_NUMBER, "7" * 5000),
    (DEBEZIUM, MOMENT, "infinity"),
    (NATIVE, MOMENT, "-infinity"),
    (DEBEZIUM, MOMENT, "0044-03-15 12:00:00 BC"),
    (NATIVE, MOMENT, "290000-01-01 00:00:00"),
    (DEBEZIUM, [Column("v", base("date"), sql_type="date")], "infinity"),
    (NATIVE, [Column("v", base("date"), sql_type="date")], "-infinity"),
    (NATIVE, [Column("v", base("date"), sql_type="date")], "4713-01-01 BC"),
    (NATIVE, [Column("v", base("date"), sql_type="date")], "5874897-12-31"),
    (DEBEZIUM, [Column("v", base("timestamptz"), sql_type="timestamp with time zone")], "infinity"),
    (NATIVE, [Column("v", base("timestamptz"), sql_type="timestamp with time zone")], "0044-03-15 12:00:00+00 BC"),
    (NATIVE, [Column("v", base("timestamptz"), sql_type="timestamp with time zone")], "0001-01-01 00:00:00+00 BC"),
    (NATIVE, [Column("v", base("timestamptz"), sql_type="timestamp with time zone")], "12024-03-15 12:00:00.5+00"),
    (DEBEZIUM, [Column("v", base("float8"), sql_type="double precision")], "NaN"),
    (DEBEZIUM, [Column("v", base("float4"), sql_type="real")], "-Infinity"),
    (NATIVE, [Column("v", base("float8"), sql_type="double precision")], "-0"),
    (NATIVE, [Column("v", base("time"), sql_type="time without time zone")], "24:00:00"),
    (NATIVE, [Column("v", base("timetz"), sql_type="time with time zone")], "12:00:00-15:59:59"),
    (NATIVE, LIST, "{}"),
    (DEBEZIUM, [Column("v", base("text"), sql_type="text", default="'x'::text")], None),
]


@pytest.mark.parametrize(("options", "columns", "text"), CARRIED)
def test_edge_values_come_back(options: WireOptions, columns: list[Column], text: str | None) -> None:
    (record,) = records(options, relation_of(columns), Op.CREATE, None, (b"1", bytes_of(text)))
    assert decoded(options, relation_of(columns), record.value).after == {"id": "1", "v": text}


def test_a_key_that_the_store_does_not_tell_is_refused() -> None:
    relation = replace(THINGS, key=("price",), replica_identity=ReplicaIdentity.INDEX)
    with pytest.raises(Unencodable, match="REPLICA IDENTITY"):
        records(NATIVE, relation, Op.DELETE, (b"7", None, None), None)
    with pytest.raises(Unencodable, match="no value"):
        records(NATIVE, THINGS, Op.CREATE, None, (None, None, b"1.00"))


def test_masks_hide_and_cuts_shorten_but_never_a_key() -> None:
    hidden = replace(DEBEZIUM, mask=(("public.things.label", 3),), truncate=(("PUBLIC.things.more", 2),))
    relation = replace(THINGS, columns=(*THINGS.columns, Column("more", base("text"), sql_type="text")))
    (record,) = records(hidden, relation, Op.CREATE, None, (b"1", b"secret", b"1.00", "äöü".encode()))
    told = decoded(hidden, relation, record.value).after
    assert told == {"id": "1", "label": "***", "price": "1.00", "more": "äö"}
    assert b"secret" not in record.value
    for setting in ({"mask": (("public.*.id", 1),)}, {"exclude": ("public.things.id",)}):
        (kept,) = records(replace(DEBEZIUM, **setting), THINGS, Op.CREATE, None, (b"1", b"secret", b"1.00"))
        # Debezium's filters leave the key alone, but it no longer knows that an excluded column is NOT NULL
        assert kept.key == (b"\x02" + record.key if "exclude" in setting else record.key)
        with pytest.raises(Unsupported, match="part of its key"):
            compile_encoder(THINGS, replace(NATIVE, **setting))


def test_a_null_in_an_array_of_labels_has_no_place_in_debeziums_schema() -> None:
    relation = relation_of([column_of(0, SAMPLES["enum[]"], not_null=False)])
    with pytest.raises(Unencodable, match="null in an array"):
        records(DEBEZIUM, relation, Op.CREATE, None, (b"1", b"{NULL}"))
    (record,) = records(NATIVE, relation, Op.CREATE, None, (b"1", b"{NULL}"))
    assert decoded(NATIVE, relation, record.value).after == {"id": "1", "c0": "{NULL}"}


def test_hashes_as_java_makes_them() -> None:
    """The digests are those of a recorded connector (column.mask.hash, versions 1 and 2)."""
    assert serialized("\0é😀") == b"\xac\xed\x00\x05t\x00\x0a\xc0\x80\xc3\xa9\xed\xa0\xbd\xed\xb8\x80"
    assert serialized("x" * 70_000)[4:13] == b"|" + (70_000).to_bytes(8)
    column = Column("h", base("varchar"), 14, sql_type="character varying(10)")
    assert hashing(Hash("sha256", "abc"), column)(b"") == b"\x14745db67067"


def test_wide_and_narrow_tables() -> None:
    wide = relation_of([Column(f"c{n}", base("int4"), sql_type="integer") for n in range(1599)])
    (record,) = records(NATIVE, wide, Op.CREATE, None, tuple(str(n).encode() for n in range(1600)))
    after = decoded(NATIVE, wide, record.value).after
    assert list(after.values()) == [str(n) for n in range(1600)]
    empty = Relation(1, "public", "things", (), ())
    (record,) = records(NATIVE, empty, Op.CREATE, None, ())
    assert decoded(NATIVE, empty, record.value).after == {}


def test_a_row_of_another_width_is_a_fault_of_the_program() -> None:
    with pytest.raises(ValueError, match="unpack"):
        records(NATIVE, THINGS, Op.CREATE, None, (b"1", b"x"))
