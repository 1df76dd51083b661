"""The compiled document writer against the generated Python: the same bytes, or both refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.compiled import compiled_and_pure

from instep_schemas import _documents
from instep_schemas.documentprogram import Column
from instep_schemas.documents import DocumentCodec, DocumentColumn, value_schema

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def string(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """As PostgreSQL writes them, and as another JSON writer might."""
    return st.builds(lambda value, ascii: json.dumps(str(value), ensure_ascii=ascii), values, st.booleans())


def fixed(scale: int, limit: int) -> st.SearchStrategy[str]:
    return st.decimals(-limit, limit, places=scale).map(lambda number: format(number, "f"))


MOMENTS = st.datetimes().map(lambda moment: moment.isoformat())
ORDINARY: dict[str, st.SearchStrategy[str]] = {
    "integer": st.integers(-(2**31), 2**31 - 1).map(str),
    "bigint": st.integers(-(2**63), 2**63 - 1).map(str),
    "text": string(TEXT),
    "character varying(9)": string(TEXT),
    "uuid": string(st.uuids()),
    "boolean": st.sampled_from(["true", "false"]),
    "numeric(12,2)": fixed(2, 10**10),
    "numeric(40,3)": fixed(3, 10**36),
    "numeric(9,0)": fixed(0, 10**9),
    "numeric": fixed(5, 10**20),
    "double precision": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "real": st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    "date": string(st.dates()),
    "time without time zone": string(st.times()),
    "timestamp without time zone": string(MOMENTS),
    "timestamp(3) with time zone": string(MOMENTS.map(lambda text: f"{text}+00:00")),
    "bytea": string(st.binary().map(lambda data: f"\\x{data.hex()}")),
    "jsonb": st.recursive(st.none() | st.integers() | TEXT, lambda some: st.lists(some) | st.dictionaries(TEXT, some))
    .filter(lambda value: value is not None)
    .map(json.dumps),
    "oid": string(st.integers(0, 2**32 - 1)),
    "interval": string(st.sampled_from(["1 day", "00:00:01"])),
}
ODD = [
    "0", "-0", "1", "-128", "-1.28", "1.27", "-327.68", "1.5", "1.500", "1e5", "1E400", "0.5e-3", "2147483648",
    "-2147483648", "9223372036854775808", "-9223372036854775809", "9" * 40, "true", "tru", "nul", "nulll", "[]",
    "[[1],[2,\"]\"]]",
    '{"a":[1,{"b":"}"}]}', '""', '"', '"a', '"NaN"', '"Infinity"', '"-infinity"', '"\\u0041\\ud83d\\ude00"',
    '"\\"\\\\\\/\\b\\f\\n\\r\\t"',
    '"\\x"', '"2024-02-29"', '"0044-03-15 BC"', '"10000-01-01"', '"24:00:00"', '"12:34:56.5"', '"2024-02-29T24:00:00"',
    '"2024-02-29T12:00:00-05"', '"2024-02-29T12:00:00+00:00"', '"2024-02-29 12:00:00"', '"2024-02-29T12:00:00.1234567"',
    '"0044-03-15T12:00:00+00:00 BC"', '"294276-12-31T23:59:59.999999"', "1,2", "1}", "", " 1", "1 ", '"ä" ',
]  # fmt: skip
COLUMNS = [
    DocumentColumn("id", "integer"), *(DocumentColumn(f'c "{name}"\n', name) for name in ORDINARY),
    DocumentColumn("enum", "stage", "e"), DocumentColumn("list", "integer[]", "a", "integer"),
]  # fmt: skip
OTHERS = {"stage": string(TEXT), "integer[]": st.lists(st.none() | st.integers(-9, 9)).map(json.dumps)}


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, str]:
    """A schema and a row's JSON, of ordinary and of odd values."""
    columns = [COLUMNS[0], *draw(st.lists(st.sampled_from(COLUMNS[1:]), max_size=6, unique=True))]
    texts = []
    for column in columns:
        ordinary = (ORDINARY | OTHERS)[column.type]
        value = draw(st.one_of(ordinary, ordinary, ordinary, st.just("null"), st.sampled_from(ODD)))
        texts.append(f"{json.dumps(column.name)}:{value}")
    return value_schema("f", columns, ["id"]), f"{{{','.join(texts)}}}"


def outcome(codec: DocumentCodec, document: str) -> bytes | None:
    """What it writes; None: it refuses."""
    try:
        return codec.encode(document)
    except Exception:  # of JSON that PostgreSQL does not write of a type
        return None


def codecs(schema: str) -> tuple[DocumentCodec, DocumentCodec]:
    """With the compiled module and without."""
    return compiled_and_pure(lambda: DocumentCodec(schema))


@given(documents(), st.none() | st.tuples(st.integers(0, 400), st.sampled_from(["", '"', "\\", ",", "}", "ä", "7"])))
def test_the_compiled_writer_writes_what_the_python_does(
    drawn: tuple[str, str], garble: tuple[int, str] | None
) -> None:
    schema, document = drawn
    if garble is not None:
        at, letter = garble
        document = document[:at] + letter + document[at + 1 :]
    compiled, pure = codecs(schema)
    found, expected = outcome(compiled, document), outcome(pure, document)
    if _is_json(document):
        assert found == expected
    else:  # the scanner of the Python stops behind the first object
        assert found in (expected, None)


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


PLAIN = [
    ("text", '"K\\u00e4se"', False), ("text", '"Käse \\"mild\\"\\n"', True), ("integer", "-7", True),
    ("bigint", "123456789012", True),
    ("oid", '"4294967295"', True), ("text", '"a" ', False),
    ("numeric(12,2)", "-1.28", True), ("numeric", "1.500", True), ("boolean", "true", True),
    ("date", '"2024-02-29"', True),
    ("double precision", "1.5", True), ("timestamp with time zone", '"2026-03-04T05:00:00.25+00:00"', True),
    ("time without time zone", '"12:30:00"', True), ("jsonb", '{"a": 1}', False), ("numeric(12,2)", '"NaN"', False),
]  # fmt: skip


@pytest.mark.parametrize(("sql_type", "text", "alone"), PLAIN)
def test_ordinary_values_need_no_python(sql_type: str, text: str, alone: bool) -> None:
    from instep_schemas import documentprogram

    asked: list[str] = []
    columns = [DocumentColumn("id", "integer"), DocumentColumn("v", sql_type)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documentprogram, "compile_document", lambda *_: asked.append)
        codec = DocumentCodec(value_schema("f", columns, ["id"]))
        codec.encode(f'{{"id":1,"v":{text}}}')
    assert (not asked) is alone


def test_a_writer_does_not_outlive_what_it_points_to() -> None:
    column = Column(b'"v":', "", 0, False, False, lambda text: text.encode())
    write = _documents.DocumentWriter([column], b"!").write
    del column
    assert write('{"v":[1,"}"]}') == b'[1,"}"]!'
    nothing: Any = None
    with pytest.raises(TypeError):
        write(nothing)
    with pytest.raises(ValueError, match="not the row's JSON"):
        write('{"w":1}')


def test_long_documents_outgrow_the_stack() -> None:
    compiled, pure = codecs(value_schema("f", [DocumentColumn("id", "integer"), DocumentColumn("v", "text")], ["id"]))
    document = json.dumps({"id": 1, "v": 'ä"' * 5000}, ensure_ascii=False, separators=(",", ":"))
    assert compiled.encode(document) == pure.encode(document)
