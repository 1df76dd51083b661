"""The compiled transcoder against the generated Python: the same bytes, or both refuse."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.schemas.compiled import compiled_and_pure
from tests.schemas.samples import LOSSY, SAMPLES, UNMAPPED, base, column_of, numeric, relation_of

from instep.change import Op
from instep.relation import Column, Relation, ReplicaIdentity
from instep.settings import EncryptionSettings
from instep_connectors.postgres.rowreading import HEAD, NAMES, reading, row_head, unpacking
from instep_schemas import _transcode, built, varint
from instep_schemas.ciphers import hold, new_key
from instep_schemas.encode import TableEncoder, compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.program import program
from instep_schemas.rowcode import Cells
from instep_schemas.straight import Reading, Straight
from instep_schemas.wire import Hash, Tag, WireOptions

MESSAGES, ROWS = Reading(reading, NAMES, HEAD), Reading(unpacking, {}, None)
OID = 16_384
STAMP = time_stamp(1_795_492_217_335_095_251)
NATIVE = WireOptions("shop", "inventory", "native")
DEBEZIUM = WireOptions("shop", "inventory", "debezium")
ANY_COLUMN = r"public\.things\.c.*"
HIDING: dict[str, Any] = {
    "mask": ((r".*\.c0", 3),),
    "hashed": ((r".*\.c1", Hash("sha256", "salt")),),
    "truncate": ((r".*\.c2", 2),),
    "exclude": (r".*\.c3",),
}
OPTIONS = {
    "native": NATIVE,
    "debezium": DEBEZIUM,
    "short placeholder": replace(NATIVE, unavailable="1"),  # real values stand for it
    "hiding": replace(NATIVE, **HIDING),
    "hiding as Debezium": replace(DEBEZIUM, **HIDING),
    "encrypting": replace(NATIVE, tags=((ANY_COLUMN, (Tag("PII", "AES256_SIV"),)),)),
    "strings": replace(DEBEZIUM, decimals="string", times="isostring", intervals="string", binary="base64"),
    "doubles": replace(DEBEZIUM, decimals="double", times="connect", hstore="map", binary="hex"),
    "microseconds": replace(DEBEZIUM, times="microseconds", unknown=True),
    "nanoseconds": replace(DEBEZIUM, times="nanoseconds"),
}
SPECIAL = [
    "", "-", ".", "-0", "007", "1", "1.", ".5", "1_000", " 1", "+1", "1e400", "-1e-400", "1.5e3", "3.4028236e38", "1e",
    "0x10", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "999999999999999999",
    "1000000000000000000", "9" * 37 + ".99", "9" * 36 + ".99", "-" + "9" * 36 + ".99", "9" * 38, "9" * 39, "-0.50",
    "0.00", "1.10", "100", "1..0", "1.0.0", "-128", "127.00", "-1.28", "1.27", "-1.29", "327.68", "NaN", "Infinity",
    "-Infinity", "infinity", "-infinity", "t", "f", "true", "x", "\\x", "\\x0", "\\x00ff", "\\x00FF", "\\x0g", "\\x 00",
    "2024-02-29", "0001-01-01", "0000-01-01", "9999-12-31", "10000-01-01", "2024-13-01", "2024-00-10", "2024-01-32",
    "0044-03-15 BC", "24:00:00", "23:59:60", "12:34:56", "12:34:56.5", "12:34:56.1234567", "12:34:5x", "12:34:56.",
    "2024-02-29 12:34:56", "1969-12-31 23:59:59.9995", "1969-12-31 23:59:59.999999", "0001-01-01 00:00:00",
    "2024-02-29T12:34:56", "2024-02-29 24:00:00", "2024-02-29 12:34:56+00", "2024-02-29 12:34:56.123456+00",
    "2024-02-29 12:34:56.5+01", "2024-02-29 12:34:56.1234567+00", "0044-03-15 12:00:00+00 BC", "12024-03-15 12:00:00",
    "12024-03-15 12:00:00+00", "294276-12-31 23:59:59.999999", "__debezium_unavailable_value", "ä" * 5000,
]  # fmt: skip
ODD = st.sampled_from(SPECIAL).map(str.encode) | st.binary(max_size=30)
ALL = {**SAMPLES, **LOSSY} | {
    name: replace(SAMPLES["text"], type=kind, sql="public.thing") for name, kind in UNMAPPED.items()
}
DEFAULTS = {"int4": "7", "text": "'none'::text", "numeric_10_2": "1.50", "bool": "true", "date": "'2024-02-29'::date"}

Value = bytes | None | str
"""A value as it stands in a message; a str: unchanged."""


@pytest.fixture(autouse=True, scope="module")
def keys() -> Iterator[None]:
    rule = {"algorithm": "AES256_SIV", "kek": "kek", "dek": new_key("kek", "AES256_SIV")}
    hold({"PII": EncryptionSettings.model_validate(rule)})
    yield
    hold({})


@st.composite
def tables(draw: st.DrawFn) -> tuple[Relation, list[str]]:
    """A table of any types, and their names."""
    names = draw(st.lists(st.sampled_from(sorted(ALL)), max_size=5))
    columns = []
    for number, name in enumerate(names):
        column = column_of(number, ALL[name], not_null=draw(st.booleans()))
        default = DEFAULTS.get(name) if draw(st.booleans()) else None
        columns.append(replace(column, default=default, identity=draw(st.booleans())))
    key = draw(st.sampled_from([("id",), (), ("id", "c0"), ("c1", "id"), ("c0",)]))
    relation = relation_of(columns, tuple(name for name in key if name == "id" or int(name[1:]) < len(columns)))
    identity = draw(st.sampled_from([ReplicaIdentity.DEFAULT, ReplicaIdentity.FULL]))
    return replace(relation, replica_identity=identity, primary_key=draw(st.booleans())), ["int4", *names]


def values(name: str) -> st.SearchStrategy[Value]:
    ordinary = ALL[name].values.map(lambda pair: str(pair[0]).encode())
    return st.one_of(ordinary, ordinary, ordinary, ordinary, st.none(), ODD, st.just("unchanged"))


def message(kind: bytes, row: Sequence[Value]) -> bytes:
    """A row message."""
    texts = [
        b"n" if value is None else b"u" if isinstance(value, str) else b"t" + struct.pack(">I", len(value)) + value
        for value in row
    ]
    return row_head(kind, OID, b"N", len(row)) + b"".join(texts)


def both(encoder: TableEncoder, op: Op, how: Reading) -> tuple[Straight, Straight]:
    """The compiled function and its oracle."""
    return compiled_and_pure(lambda: encoder.straight(op, how))


def outcome(write: Straight, data: Any, lsn: Any, source: SourceBlock) -> tuple[bytes | None, bytes] | None:
    """What is written; None: refused."""
    try:
        return write(data, lsn, source, STAMP)
    except Exception:
        return None


def encoder_of(relation: Relation, options: WireOptions) -> TableEncoder:
    """An encoder; of a table whose key these options refuse, without a key."""
    if options.profile == "native" and options not in (NATIVE, OPTIONS["short placeholder"]):
        relation = replace(relation, key=tuple(name for name in relation.key if name == "id"))
    return compile_encoder(relation, options, 1 if relation.key else None, 2)


def blocks(options: WireOptions) -> list[SourceBlock]:
    block = SourceBlock(options, committed_us=1_795_492_217_239_251, transaction=7, last_commit=642_443_128)
    return [
        block,
        SourceBlock(options, committed_us=0, transaction=None, snapshot="true"),
        SourceBlock(options, committed_us=5, transaction=1, origin="elsewhere", origin_lsn=9),
    ]


LSNS = st.sampled_from([0, 9, 10, 99, 8191, 8192, 1 << 33, (1 << 63) - 1]) | st.integers(0, (1 << 63) - 1)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), options=st.sampled_from(sorted(OPTIONS)), op=st.sampled_from([Op.CREATE, Op.UPDATE, Op.DELETE]))
def test_messages_are_written_alike(data: st.DataObject, options: str, op: Op) -> None:
    relation, names = data.draw(tables())
    encoder = encoder_of(relation, OPTIONS[options])
    if not encoder.goes_straight(op):
        return
    compiled, oracle = both(encoder, op, MESSAGES)
    for source in blocks(OPTIONS[options]):
        for _ in range(3):
            frame = message(op.value.upper().encode(), [data.draw(values(name)) for name in names])
            lsn = data.draw(LSNS)
            assert outcome(compiled, frame, lsn, source) == outcome(oracle, frame, lsn, source)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), options=st.sampled_from(sorted(OPTIONS)))
def test_copied_rows_are_written_alike(data: st.DataObject, options: str) -> None:
    relation, names = data.draw(tables())
    compiled, oracle = both(encoder_of(relation, OPTIONS[options]), Op.READ, ROWS)
    source = blocks(OPTIONS[options])[1]
    for _ in range(3):
        row = tuple(data.draw(values(name).filter(lambda value: not isinstance(value, str))) for name in names)
        for some in (row, row[1:], (*row, b"1"), list(row[1:])):
            assert outcome(compiled, some, 9, source) == outcome(oracle, some, 9, source)


@pytest.mark.parametrize("options", ["native", "debezium", "short placeholder", "nanoseconds", "strings", "doubles"])
@pytest.mark.parametrize("name", sorted(ALL))
def test_special_values_of_every_type_are_written_alike(name: str, options: str) -> None:
    relation = relation_of([column_of(0, ALL[name], not_null=False)])
    compiled, oracle = both(encoder_of(relation, OPTIONS[options]), Op.CREATE, MESSAGES)
    source = blocks(OPTIONS[options])[0]
    for value in SPECIAL:
        frame = message(b"I", [b"1", value.encode()])
        assert outcome(compiled, frame, 1 << 33, source) == outcome(oracle, frame, 1 << 33, source), value


ORDINARY = [
    ("int8", base("int8"), -1, b"1234567890123"),
    ("text", base("text"), -1, "grün".encode()),
    ("bool", base("bool"), -1, b"t"),
    ("float8", base("float8"), -1, b"-1.5e-07"),
    ("float4", base("float4"), -1, b"0.1"),
    ("numeric", base("numeric"), numeric(38, 2), b"-" + b"9" * 36 + b".99"),
    ("variable", base("numeric"), -1, b"-10.500"),
    ("date", base("date"), -1, b"2024-02-29"),
    ("time", base("time"), -1, b"23:59:59.999999"),
    ("time3", base("time"), 3, b"23:59:59.999"),
    ("timestamp", base("timestamp"), -1, b"1969-12-31 23:59:59.999999"),
    ("timestamp3", base("timestamp"), 3, b"1969-12-31 23:59:59.999"),
    ("timestamptz", base("timestamptz"), -1, b"2024-02-29 12:34:56.5+00"),
    ("bytea", base("bytea"), -1, b"\\x00ff"),
    ("uuid", base("uuid"), -1, b"5b7e8d62-8ae4-4f0a-9d80-d2a5c4f5a3f1"),
    ("jsonb", base("jsonb"), -1, b'{"a": 1}'),
]


@pytest.mark.parametrize(
    ("kind", "modifier", "text"), [each[1:] for each in ORDINARY], ids=[each[0] for each in ORDINARY]
)
def test_ordinary_values_ask_no_python(kind: Any, modifier: int, text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    relation = relation_of([Column("c0", kind, modifier, sql_type="thing")])
    encoder = compile_encoder(relation, DEBEZIUM)

    def refuse(text: bytes) -> bytes:
        raise AssertionError("asked for an ordinary value")

    expected = outcome(both(encoder, Op.CREATE, MESSAGES)[1], message(b"I", [b"1", text]), 9, blocks(DEBEZIUM)[0])
    assert expected is not None
    for cell in encoder._after_cells:
        monkeypatch.setattr(cell, "codec", refuse)
    compiled, _ = both(encoder, Op.CREATE, MESSAGES)
    assert compiled(message(b"I", [b"1", text]), 9, blocks(DEBEZIUM)[0], STAMP) == expected


THINGS = relation_of(
    [column_of(0, SAMPLES["text"], not_null=False), column_of(1, SAMPLES["numeric_10_2"], not_null=True)]
)


def test_a_message_that_is_cut_short_or_goes_on_is_refused() -> None:
    compiled, oracle = both(compile_encoder(THINGS, NATIVE), Op.CREATE, MESSAGES)
    source, whole = blocks(NATIVE)[0], message(b"I", [b"1", b"abc", b"1.50"])
    assert outcome(compiled, whole, 9, source) == outcome(oracle, whole, 9, source) is not None
    for size in range(len(whole)):
        assert outcome(compiled, whole[:size], 9, source) is None
    assert outcome(compiled, whole + b"n", 9, source) is None


@settings(max_examples=300, deadline=None)
@given(garbage=st.binary(max_size=60), at=st.integers(0, 40), value=st.integers(0, 255))
def test_garbage_is_treated_alike(garbage: bytes, at: int, value: int) -> None:
    compiled, oracle = both(compile_encoder(THINGS, NATIVE), Op.CREATE, MESSAGES)
    source, whole = blocks(NATIVE)[0], bytearray(message(b"I", [b"1", b"abc", b"1.50"]))
    whole[at % len(whole)] = value
    for frame in (bytes(whole), bytes(whole[:HEAD]) + garbage, garbage):
        assert outcome(compiled, frame, 9, source) == outcome(oracle, frame, 9, source)


@pytest.mark.parametrize("lsn", [None, -1, 1 << 63, 1 << 64, "9"])
def test_what_is_no_lsn_is_refused_and_leaves_no_trace(lsn: Any) -> None:
    compiled, oracle = both(compile_encoder(THINGS, NATIVE), Op.CREATE, MESSAGES)
    source, frame = blocks(NATIVE)[0], message(b"I", [b"1", b"abc", b"1.50"])
    assert outcome(compiled, frame, lsn, source) is None
    assert outcome(compiled, frame, 9, source) == outcome(oracle, frame, 9, source) is not None


def test_what_is_no_message_no_source_or_no_stamp_is_refused() -> None:
    compiled: Any = both(compile_encoder(THINGS, NATIVE), Op.CREATE, MESSAGES)[0]
    source, frame = blocks(NATIVE)[0], message(b"I", [b"1", b"abc", b"1.50"])
    broken: Any = SourceBlock(NATIVE, committed_us=0, transaction=None)
    broken.middle = None
    for data, block, stamp in (
        (None, source, STAMP), (bytearray(frame), source, STAMP), ((b"1", b"abc", b"1.50"), source, STAMP),
        (frame, None, STAMP), (frame, broken, STAMP), (frame, source, None), (frame, source, "x"),
    ):  # fmt: skip
        for _ in range(2):  # what the first one left behind is not used
            with pytest.raises((TypeError, AttributeError)):
                compiled(data, 9, block, stamp)
    assert outcome(compiled, frame, 9, source) is not None


def test_a_codec_that_gives_no_bytes_is_refused() -> None:
    encoder = compile_encoder(relation_of([column_of(0, SAMPLES["enum"], not_null=True)]), NATIVE)
    wrong: Any = lambda text: bytearray(text)  # noqa: E731 - what no codec does
    encoder._after_cells[1].codec = wrong
    compiled, _ = both(encoder, Op.CREATE, MESSAGES)
    with pytest.raises(TypeError, match="no bytes"):
        compiled(message(b"I", [b"1", b"ok"]), 9, blocks(NATIVE)[0], STAMP)


def test_wide_and_long_rows_are_written_alike_and_leave_nothing_behind() -> None:
    columns = [Column(f"c{n}", base("text"), sql_type="text") for n in range(1599)]
    compiled, oracle = both(compile_encoder(relation_of(columns), NATIVE), Op.UPDATE, MESSAGES)
    source = blocks(NATIVE)[0]
    for size in (0, 1, 100, 1000, 1):
        frame = message(b"U", [b"1", *(b"x" * size for _ in columns)])
        assert outcome(compiled, frame, 9, source) == outcome(oracle, frame, 9, source) is not None
    held = sys.getrefcount(source)
    for _ in range(100):
        compiled(frame, 9, source, STAMP)
        outcome(compiled, frame[:-1], 9, source)
    assert sys.getrefcount(source) == held


def test_a_table_without_columns() -> None:
    compiled, oracle = both(compile_encoder(Relation(OID, "public", "things", (), ()), NATIVE), Op.CREATE, MESSAGES)
    source = blocks(NATIVE)[0]
    assert outcome(compiled, message(b"I", []), 9, source) == outcome(oracle, message(b"I", []), 9, source) is not None


@given(st.integers(-(2**63), 2**63 - 1))
def test_numbers_are_written_alike(number: int) -> None:
    assert _transcode.long(number) == varint.long(number)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, None, "1"])
def test_what_does_not_fit_is_no_number(number: Any) -> None:
    with pytest.raises((OverflowError, TypeError)):
        _transcode.long(number)


def test_a_program_for_columns_that_are_not_there_is_refused() -> None:
    cells = [Cells(field, NATIVE) for field in compile_encoder(THINGS, NATIVE).schemas.fields]
    with pytest.raises(IndexError):
        _transcode.Transcoder(HEAD, 2, None, program(b"", cells), b"", b"")


@pytest.mark.parametrize(("value", "said"), [("1", "INSTEP_PURE"), ("0", "compiled"), ("", "compiled")])
def test_a_setting_asks_for_python(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(built.PURE, value)
    assert (built.module() is None) is (value == "1")
    assert said in built.told()


def test_without_the_module_everything_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(built.PURE, raising=False)
    monkeypatch.delattr("instep_schemas._transcode")
    monkeypatch.setitem(sys.modules, "instep_schemas._transcode", None)  # as where it was not built
    assert built.module() is None
    assert "no other was built" in built.told()
    assert type(compile_encoder(THINGS, NATIVE).straight(Op.CREATE, MESSAGES)).__name__ == "function"
