"""Documents: schema, encoding of PostgreSQL's JSON, decoding to exact Python values."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import fastavro
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests

from instep_schemas.documents import (
    DocumentCodec,
    DocumentColumn,
    KeyCodec,
    Unencodable,
    decode_document,
    decode_key,
    key_schema,
    value_schema,
)

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
MOMENTS = st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31))


def through(column: DocumentColumn, text: str) -> Any:
    """One value, given as its JSON text, encoded and decoded."""
    columns = [DocumentColumn("id", "integer"), column]
    schema = value_schema("f", columns, ["id"])
    body = DocumentCodec(schema).encode(f'{{"id":1,{json.dumps(column.name)}:{text}}}')
    return decode_document(schema, body)[column.name]


def column(sql_type: str, kind: str = "b", element: str | None = None) -> DocumentColumn:
    return DocumentColumn("v", sql_type, kind, element)


@given(st.integers(-(2**63), 2**63 - 1))
def test_bigint(number: int) -> None:
    assert through(column("bigint"), str(number)) == number


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**12), max_value=10**12))
def test_numeric_with_a_scale_keeps_every_digit(number: Decimal) -> None:
    found = through(column("numeric(20,4)"), format(number, "f"))
    assert (found, str(found)) == (number, str(number.quantize(Decimal("0.0001"))))


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_unconstrained_numeric_keeps_every_digit(number: Decimal) -> None:
    assert str(through(column("numeric"), format(number, "f"))) == str(Decimal(format(number, "f")))


def test_numeric_that_is_no_number() -> None:
    assert through(column("numeric"), '"NaN"').is_nan()
    assert through(column("numeric(5,2)"), '"NaN"').is_nan()


@given(st.floats(allow_nan=False))
def test_double(number: float) -> None:
    text = {float("inf"): '"Infinity"', float("-inf"): '"-Infinity"'}.get(number, repr(number))
    assert through(column("double precision"), text) == number


@given(TEXT)
def test_text(text: str) -> None:
    assert through(column("character varying(80)"), json.dumps(text)) == text


@given(MOMENTS)
def test_timestamps(moment: datetime) -> None:
    assert through(column("timestamp without time zone"), json.dumps(moment.isoformat())) == moment
    aware = moment.replace(tzinfo=UTC)
    assert through(column("timestamp(3) with time zone"), json.dumps(aware.isoformat())) == aware


@given(st.dates())
def test_date(day: date) -> None:
    assert through(column("date"), json.dumps(day.isoformat())) == day


@pytest.mark.parametrize("text", ["infinity", "-infinity", "10000-01-01", "0044-03-15 BC"])
def test_dates_that_python_does_not_know_stay_text(text: str) -> None:
    assert through(column("date"), json.dumps(text)) == text


@pytest.mark.parametrize("text", ["infinity", "-infinity"])
def test_endless_timestamps_stay_text(text: str) -> None:
    assert through(column("timestamp with time zone"), json.dumps(text)) == text


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda s: st.lists(s) | st.dictionaries(TEXT, s)))
def test_jsonb(value: Any) -> None:
    if value is not None:
        assert through(column("jsonb"), json.dumps(value)) == value


def test_jsonb_keeps_the_digits_of_its_numbers() -> None:
    columns = [DocumentColumn("id", "integer"), column("jsonb")]
    body = DocumentCodec(value_schema("f", columns, ["id"])).encode('{"id":1,"v":{"a":1.50,"b":1e400}}')
    assert b'{"a":1.50,"b":1e400}' in body


@given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)))
def test_arrays(values: list[int | None]) -> None:
    assert through(column("integer[]", "a", "integer"), json.dumps(values)) == values


NESTED = st.recursive(
    st.none() | st.decimals(-999, 999, places=2), lambda inner: st.lists(inner, min_size=1), max_leaves=9
)


@given(st.lists(NESTED))
def test_arrays_of_arrays_are_lists_of_lists(values: list[Any]) -> None:
    text = json.dumps(values, default=float)
    assert through(column("numeric(5,2)[]", "a", "numeric(5,2)"), text) == values


FAR = "294276-12-31T23:59:59.999999"


@pytest.mark.parametrize(
    ("told", "text", "value"),
    [
        (column("text[]", "a", "text"), '[["a","[1]"],[null,""]]', [["a", "[1]"], [None, ""]]),
        (column("jsonb[]", "a", "jsonb"), '[[1,null],{"a":[2]}]', [[1, None], {"a": [2]}]),
        (column("date[]", "a", "date"), '[["2024-02-29"]]', [[date(2024, 2, 29)]]),
        (column("timestamp without time zone"), f'"{FAR}"', FAR.replace("T", " ")),
        (column("timestamp with time zone"), f'"{FAR}+00:00"', FAR.replace("T", " ")),
        (column("timestamp without time zone"), '"294247-01-10T04:00:54.775807"', "294247-01-10 04:00:54.775807"),
        (
            column("timestamp without time zone[]", "a", "timestamp without time zone"),
            f'["2024-02-29T12:00:00","{FAR}",null,"infinity"]',
            [datetime(2024, 2, 29, 12), FAR.replace("T", " "), None, "infinity"],
        ),
    ],
)
def test_values_without_room_in_their_type_come_back(told: DocumentColumn, text: str, value: Any) -> None:
    assert through(told, text) == value


def test_what_has_no_room_stands_in_a_field_of_its_own() -> None:
    columns = [
        DocumentColumn("id", "integer"),
        DocumentColumn("a b", "numeric(5,2)"),
        DocumentColumn("n", "integer[]", "a", "integer"),
    ]
    schema = json.loads(value_schema("f", columns, ["id"]))
    assert schema["fields"][-1] == {
        "name": "instep_exact", "type": ["null", {"type": "map", "values": "string"}], "default": None,
        "instep.exact": True,
    }  # fmt: skip
    parsed = fastavro.parse_schema(schema)
    texts = ['{"id":1,"a b":"NaN","n":[[1,2],[30,4]]}', '{"id":1,"a b":1.50,"n":[1]}']
    found: list[Any] = [
        fastavro.schemaless_reader(io.BytesIO(DocumentCodec(json.dumps(schema)).encode(text)), parsed, None)
        for text in texts
    ]
    assert found[0] == {"id": 1, "a_b": None, "n": None, "instep_exact": {"a b": '"NaN"', "n": "[[1,2],[30,4]]"}}
    assert found[1] == {"id": 1, "a_b": Decimal("1.50"), "n": [1], "instep_exact": None}


def test_the_field_is_there_only_where_it_may_be_needed_and_takes_no_columns_name() -> None:
    plain = [DocumentColumn("id", "numeric(5,0)"), DocumentColumn("instep_exact", "text")]
    assert [each["name"] for each in json.loads(value_schema("f", plain, ["id"]))["fields"]] == ["id", "instep_exact"]
    schema = value_schema("f", [*plain, column("integer[]", "a", "integer")], ["id"])
    assert [each["name"] for each in json.loads(schema)["fields"]] == ["id", "instep_exact", "v", "instep_exact_"]
    document = '{"id":1,"instep_exact":"x","v":[[7]]}'
    assert decode_document(schema, DocumentCodec(schema).encode(document)) == {"id": 1, "instep_exact": "x", "v": [[7]]}


def test_a_key_holds_only_what_its_type_has_room_for() -> None:
    codec = DocumentCodec(
        value_schema("f", [DocumentColumn("id", "numeric(5,2)"), column("integer[]", "a", "integer")], ["id"])
    )
    with pytest.raises(Unencodable, match='column "id"'):
        codec.encode('{"id":"NaN","v":null}')


def test_documents_from_before_the_field_are_read_and_refuse_what_it_is_for() -> None:
    schema = json.loads(value_schema("f", [DocumentColumn("id", "integer"), column("numeric(5,2)")], ["id"]))
    old = json.dumps({**schema, "fields": schema["fields"][:-1]})
    assert decode_document(old, DocumentCodec(old).encode('{"id":1,"v":1.50}')) == {"id": 1, "v": Decimal("1.50")}
    with pytest.raises(Unencodable, match='column "v"'):
        DocumentCodec(old).encode('{"id":1,"v":"NaN"}')


@given(st.binary())
def test_bytea(data: bytes) -> None:
    assert through(column("bytea"), json.dumps("\\x" + data.hex())) == data


def test_other_types_stay_postgresql_text() -> None:
    assert through(column("crm.stage", "e"), '"won"') == "won"
    assert through(column("interval"), '"1 mon"') == "1 mon"
    assert through(column("int4range", "r"), '"[1,5)"') == "[1,5)"
    assert through(column("time without time zone"), '"12:30:00.5"') == "12:30:00.5"
    assert through(column("point_of_sale", "c"), '{"x":1,"y":null}') == {"x": 1, "y": None}


def test_null_is_not_absent() -> None:
    assert through(column("text"), "null") is None


def test_every_field_but_the_key_may_be_null() -> None:
    fields = json.loads(value_schema("product card", [DocumentColumn("id", "bigint"), column("numeric(12,2)")], ["id"]))
    assert fields["name"] == "Value" and fields["namespace"] == "flow.product_card"
    first, second, _ = fields["fields"]
    assert first == {"name": "id", "type": "long", "pg.type": "bigint"}
    decimal = {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}
    assert second == {"name": "v", "type": ["null", decimal], "default": None, "pg.type": "numeric(12,2)"}


def test_names_that_avro_does_not_know_are_kept_beside() -> None:
    columns = [DocumentColumn("id", "integer"), DocumentColumn("a b", "text"), DocumentColumn("a-b", "text")]
    schema = value_schema("f", columns, ["id"])
    body = DocumentCodec(schema).encode('{"id":1,"a b":"x","a-b":"y"}')
    assert [each["name"] for each in json.loads(schema)["fields"]] == ["id", "a_b", "a_b_2"]
    assert decode_document(schema, body) == {"id": 1, "a b": "x", "a-b": "y"}


@given(st.integers(-(2**31), 2**31 - 1), TEXT)
def test_keys(number: int, text: str) -> None:
    schema = key_schema("f", [DocumentColumn("b", "text"), DocumentColumn("a", "integer")], ["a", "b"])
    key = (str(number), text)
    assert decode_key(schema, KeyCodec(schema).encode(key)) == key


VALUES = {
    "1.10::numeric(12,2)": Decimal("1.10"),
    "1.100::numeric": Decimal("1.100"),
    "9223372036854775807": 2**63 - 1,
    "0.1::real": 0.1,
    "'NaN'::float8 IS NULL": False,
    "'2024-02-29 10:00:00.123456+02'::timestamptz": datetime(2024, 2, 29, 8, 0, 0, 123456, UTC),
    "'2024-02-29'::timestamp": datetime(2024, 2, 29),
    "'0044-03-15 12:00 BC'::timestamp": "0044-03-15 12:00:00 BC",
    "'290000-12-31'::timestamp": "290000-12-31 00:00:00",
    "'5874897-12-31'::date": "5874897-12-31",
    "'2024-02-29'::date": date(2024, 2, 29),
    "'24:00'::time": "24:00:00",
    "'12:00+02'::timetz": "12:00:00+02",
    "'00000000-0000-4000-8000-000000000001'::uuid": "00000000-0000-4000-8000-000000000001",
    "'\\x00ff'::bytea": b"\x00\xff",
    '\'{"a": [1, null, "x"]}\'::jsonb': {"a": [1, None, "x"]},
    "ARRAY['a', NULL, 'b\"c']": ["a", None, 'b"c'],
    "ARRAY[1.5, NULL]::numeric(5,2)[]": [Decimal("1.50"), None],
    "ARRAY['2024-02-29']::date[]": [date(2024, 2, 29)],
    "interval '1 year 2 days'": "1 year 2 days",
    "'10.0.0.1/8'::inet": "10.0.0.1/8",
    "'[1,5)'::int4range": "[1,5)",
    "ROW(1, 'x')::composite": {"a": 1, "b": "x"},
    "'won'::stage": "won",
    "7::positive": 7,
    "ARRAY['won']::stage[]": ["won"],
    "'abc'::char(5)": "abc  ",
    "B'101'": "101",
}


def test_what_postgresql_gives_arrives_exactly(postgres: PostgresForTests) -> None:
    from instep_streams.flows.check import _COLUMNS

    with psycopg.connect(postgres.database(), autocommit=True) as conn:
        conn.execute("CREATE TYPE stage AS ENUM ('won'); CREATE TYPE composite AS (a int, b text);"
                     "CREATE DOMAIN positive AS int; SET TimeZone = 'UTC'")  # fmt: skip
        items = ", ".join(f'{text} AS "c{number}"' for number, text in enumerate(VALUES))
        conn.execute(f'CREATE TEMP VIEW "instep check" AS SELECT 1 AS id, {items}'.encode())
        columns = [DocumentColumn(*row) for row in conn.execute(_COLUMNS).fetchall()]
        (document,) = conn.execute('SELECT row_to_json(q)::text FROM "instep check" q').fetchone() or ("",)
    schema = value_schema("f", columns, ["id"])
    found = decode_document(schema, DocumentCodec(schema).encode(document))
    assert list(found.values())[1:] == list(VALUES.values())


def test_a_day_has_its_microseconds() -> None:
    moment = datetime(2024, 1, 1) + timedelta(microseconds=1)
    assert through(column("timestamp without time zone"), json.dumps(moment.isoformat())) == moment


DOCUMENT = (
    '{"id":7,"b":-3,"t":"K\\u00e4se","n":-0.45,"w":12,"d":"2024-02-29","z":"2026-03-04T05:00:00.25+00:00","f":true,'
    '"e":"won","l":["a",null],"x":null}'
)
COLUMNS = (
    DocumentColumn("id", "integer"), DocumentColumn("b", "bigint"), DocumentColumn("t", "text"),
    DocumentColumn("n", "numeric(12,2)"), DocumentColumn("w", "numeric(5,0)"), DocumentColumn("d", "date"),
    DocumentColumn("z", "timestamp with time zone"), DocumentColumn("f", "boolean"), DocumentColumn("e", "stage", "e"),
    DocumentColumn("l", "text[]", "a", "text"), DocumentColumn("x", "text"),
)  # fmt: skip


@pytest.mark.parametrize("column", [None, column("jsonb"), column("numeric"), column("real")])
def test_the_generated_code_writes_what_goes_column_by_column(
    column: DocumentColumn | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = DOCUMENT if column is None else f'{DOCUMENT[:-1]},"v":1.50}}'
    codec = DocumentCodec(value_schema("f", [*COLUMNS, *([column] if column else [])], ["id"]))
    expected = codec._by_column(text)
    monkeypatch.setattr(codec, "_by_column", None)  # not called: nothing here is beyond the generated code
    assert codec.encode(text) == expected


@pytest.mark.parametrize(
    ("sql_type", "text"),
    [
        ("integer", "2147483648"), ("bigint", "true"), ("text", "1.50"), ("boolean", "7"), ("numeric(5,2)", "1.5"),
        ("timestamp without time zone", '"2024-02-29T10:00:00-05"'), ("text", "[1.50]"), ("date", "20"),
    ],
)  # fmt: skip
def test_what_the_types_do_not_give_is_written_as_before_or_refused(sql_type: str, text: str) -> None:
    """Whatever the generated code makes of such a value, it makes the same as going column by column."""
    codec = DocumentCodec(value_schema("f", [DocumentColumn("id", "integer"), column(sql_type)], ["id"]))
    document = f'{{"id":1,"v":{text}}}'
    results = []
    for encode in (codec.encode, codec._by_column):
        try:
            results.append(encode(document))
        except Unencodable:
            results.append(b"refused")
    assert results[0] == results[1]
