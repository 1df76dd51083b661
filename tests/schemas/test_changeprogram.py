"""The compiled change decoder against the generated Python: the same rows, or the same refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.compiled import compiled_and_pure
from tests.schemas.samples import LOSSY, SAMPLES, column_of, relation_of
from tests.schemas.test_decode import body, envelope_schema

from instep.change import ABSENT, Op, Row
from instep_schemas import decode
from instep_schemas.decode import ChangeDecoder, compile_change_decoder
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.varint import long
from instep_schemas.wire import Unencodable, WireOptions

NATIVE = WireOptions("shop", "inventory", "native")
OPTIONS = [
    NATIVE, WireOptions("shop", "inventory", "debezium"),
    replace(WireOptions("shop", "inventory", "debezium"), decimals="string", times="isostring", hstore="map"),
    replace(WireOptions("shop", "inventory", "debezium"), times="connect", decimals="double"),
]  # fmt: skip
ALL = SAMPLES | LOSSY
FRAME = b"\0\0\0\0\7"


def decoders(schema: str) -> tuple[ChangeDecoder, ChangeDecoder]:
    """The compiled one and its oracle."""
    return compiled_and_pure(lambda: compile_change_decoder(schema))


def outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except Exception as exc:
        return type(exc)


@st.composite
def records(draw: st.DrawFn) -> tuple[str, bytes]:
    """A schema and a framed record of it."""
    names = draw(st.lists(st.sampled_from(sorted(ALL)), max_size=6))
    strict = draw(st.booleans())
    columns = [column_of(number, ALL[name], not_null=strict) for number, name in enumerate(names)]
    options = draw(st.sampled_from(OPTIONS))
    encoder = compile_encoder(relation_of(columns), options)
    kinds = [ALL[name].values if strict else st.none() | ALL[name].values for name in names]
    values = [None if pair is None else str(pair[0]).encode() for pair in map(draw, kinds)]
    absent = [value if draw(st.integers(0, 9)) else ABSENT for value in values]
    op = draw(st.sampled_from([Op.CREATE, Op.UPDATE, Op.DELETE, Op.READ]))
    old: Any = (b"5", *values) if op in (Op.UPDATE, Op.DELETE) else None
    new: Any = None if op is Op.DELETE else (b"5", *(absent if op is Op.UPDATE else values))
    source = SourceBlock(options, committed_us=1, transaction=2)
    try:
        record = encoder.records(op, old, new, source, 3, time_stamp(4))[0]
    except Unencodable:  # absent where its type cannot say so
        record = encoder.records(Op.CREATE, None, (b"5", *values), source, 3, time_stamp(4))[0]
    assert record.value is not None
    return encoder.schemas.value_text, FRAME + record.value


@given(records())
def test_the_compiled_decoder_reads_what_the_python_does(drawn: tuple[str, bytes]) -> None:
    schema, data = drawn
    compiled, pure = decoders(schema)
    assert compiled(data) == pure(data)


@given(records(), st.data())
def test_what_the_python_makes_of_garbled_records_the_compiled_decoder_makes_too(
    drawn: tuple[str, bytes], data: st.DataObject
) -> None:
    """What the Python refuses may be read: it looks into the source block, which the compiled one steps over."""
    schema, whole = drawn
    compiled, pure = decoders(schema)
    at = data.draw(st.integers(0, len(whole)))
    other = data.draw(st.binary(max_size=3))
    for garbled in (whole[:at], whole[:at] + other + whole[at + 1 :]):
        expected, found = outcome(pure, garbled), outcome(compiled, garbled)
        assert found == expected or isinstance(expected, type)


@pytest.mark.parametrize("note", [None, 1.5, True, b"xy"])
@pytest.mark.parametrize("moved", [[], ["note"], ["op", "note"], ["source", "op"]])
def test_another_writers_envelope(note: Any, moved: list[str]) -> None:
    """Fields in whatever order, with maps and arrays to be stepped over."""
    schema = envelope_schema([{"name": "id", "type": "long"}, {"name": "name", "type": ["string", "null"]}])
    fields = {field["name"]: field for field in schema["fields"]}
    schema["fields"] = [fields[name] for name in [*(each for each in fields if each not in moved), *moved]]
    source = {"lsn": 77, "ts_ms": 5, "extra": {"a": [1, 300], "b": []}, "snapshot": None}
    value = {"op": "u", "source": source, "note": note, "after": {"id": 900_000, "name": None}, "before": None}
    data = FRAME + body(schema, value)
    assert without_python(json.dumps(schema))(data) == (Op.UPDATE, {"id": "900000", "name": None})


def without_python(schema: str) -> ChangeDecoder:
    """A compiled decoder that cannot ask."""

    class Alone(decode._Decoder):
        def compile(self, name: str) -> Any:
            return lambda data: pytest.fail("it asks")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_Decoder", Alone)
        return compile_change_decoder(schema)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from([1, 2, 10, 18]))
def test_ordinary_values_need_no_python(number: int, scale: int) -> None:
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": scale}
    zoned = {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"}
    fields: list[dict[str, Any]] = [
        {"name": "n", "type": "long"}, {"name": "d", "type": ["null", decimal]}, {"name": "t", "type": "string"},
        {"name": "b", "type": "boolean"}, {"name": "z", "type": zoned}, {"name": "x", "type": "double"},
    ]  # fmt: skip
    schema = envelope_schema(fields)
    size = 8 if not -(2**55) <= number < 2**55 else 7
    value: dict[str, Any] = {
        "op": "c", "source": {"lsn": 1, "ts_ms": 5, "extra": {}, "snapshot": None}, "note": None, "before": None,
        "after": {"n": number, "d": number.to_bytes(size, "big", signed=True), "t": "Käse", "b": True,
                  "z": "2026-03-04T05:00:00.250000Z", "x": 1.5},
    }  # fmt: skip
    plain = json.loads(json.dumps(schema).replace(json.dumps(decimal), '"bytes"'))
    digits = str(abs(number)).rjust(scale + 1, "0")
    row: Row = {
        "n": str(number), "d": f"{'-' if number < 0 else ''}{digits[:-scale]}.{digits[-scale:]}", "t": "Käse", "b": "t",
        "z": "2026-03-04 05:00:00.25+00", "x": "1.5",
    }  # fmt: skip
    assert without_python(json.dumps(schema))(FRAME + body(plain, value)) == (Op.CREATE, row)


@pytest.mark.parametrize(
    ("iso", "text"),
    [
        ("2026-03-04T05:00:00Z", "2026-03-04 05:00:00+00"), ("2026-03-04T05:00:00.000000Z", "2026-03-04 05:00:00+00"),
        ("0044-03-15T12:00:00Z", "0044-03-15 12:00:00+00"), ("-0043-03-15T12:00:00Z", "0044-03-15 12:00:00+00 BC"),
        ("0000-03-15T12:00:00Z", "0001-03-15 12:00:00+00 BC"), ("+12024-03-15T12:00:00Z", "12024-03-15 12:00:00+00"),
        ("2026-03-04T05:00:00+01:00", "2026-03-04T05:00:00+01:00"), ("infinity", "infinity"), ("", ""),
    ],
)  # fmt: skip
def test_moments(iso: str, text: str) -> None:
    zoned = {"type": "string", "connect.name": "io.debezium.time.ZonedTimestamp"}
    schema = envelope_schema([{"name": "z", "type": zoned}])
    source = {"lsn": 1, "ts_ms": 5, "extra": {}, "snapshot": None}
    data = FRAME + body(schema, {"op": "r", "source": source, "note": None, "after": {"z": iso}, "before": None})
    for read in decoders(json.dumps(schema)):
        assert read(data) == (Op.READ, {"z": text})


BYTES: Final[Any] = ["string", "bytes", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 0}]


@pytest.mark.parametrize("length", [-1, -200, -(2**20), -(2**40), 2**40, 2**62])
@pytest.mark.parametrize("avro", BYTES, ids=["string", "bytes", "decimal"])
def test_lengths_beyond_the_record_are_no_lengths(length: int, avro: Any) -> None:
    schema = envelope_schema([{"name": "t", "type": avro}, {"name": "b", "type": "boolean"}])
    source = {"lsn": 1, "ts_ms": 5, "extra": {}, "snapshot": None}
    plain = json.loads(json.dumps(schema).replace(json.dumps(avro), '"string"'))
    data = body(plain, {"op": "r", "source": source, "note": None, "after": {"t": "abc", "b": True}, "before": None})
    broken = FRAME + data.replace(long(3) + b"abc", long(length) + b"abc")
    compiled, pure = decoders(json.dumps(schema))
    assert outcome(compiled, broken) == outcome(pure, broken)
