"""Texts as PostgreSQL prints them: what the decoder gives is what the store said, asked of a real server."""

from __future__ import annotations

import struct
from dataclasses import replace

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests

from instep.change import Op
from instep.relation import Relation
from instep_connectors.postgres.catalog import Catalog
from instep_schemas.decode import compile_decoder
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.shape import shape_of
from instep_schemas.texts import decimal_text, float_text, reader_of
from instep_schemas.varint import counted
from instep_schemas.wire import WireOptions

NATIVE = WireOptions("shop", "inventory", "native")
AWKWARD = {
    "smallint": ["-32768", "0"],
    "bigint": ["9223372036854775807", "-9223372036854775808", "1234567"],
    "oid": ["4294967295"],
    "real": ["1.1", "-0", "1e-45", "3.4028235e38", "NaN", "Infinity", "123456", "1234567", "0.0001", "0.00001", "1e10"],
    "double precision": ["1e15", "123456789012345", "1e-5", "0.1", "-0", "4.9e-324", "1.7976931348623157e308", "NaN"],
    "numeric": ["NaN", "Infinity", "-Infinity", "1.500", "1e100", "0.0000000001", "-0.00"],
    "numeric(12,4)": ["1.5", "-99999999.9999", "0"],
    "numeric(3,-2)": ["12300", "-100"],
    "money": ["12.34", "-92233720368547758.08"],
    "boolean": ["true", "false"],
    "text": ["", "täxt €😀", "\\N", "a\tb\nc", "\u0001"],
    "character(5)": ["ab"],
    '"char"': ["x"],
    "name": ["n"],
    "bytea": ["\\x", "\\x00ff10"],
    "date": ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2024-02-29"],
    "time without time zone": ["24:00:00", "12:34:56.7"],
    "time(2) without time zone": ["12:34:56.78"],
    "time with time zone": ["12:34:56.5+02", "00:00:00-15:59:59"],
    "timestamp without time zone": ["infinity", "4713-01-01 00:00:00 BC", "290000-01-01", "1969-12-31 23:59:59.999999"],
    "timestamp(3) without time zone": ["2024-02-29 12:34:56.789", "-infinity", "0001-12-31 BC"],
    "timestamp with time zone": ["infinity", "4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"],
    "timestamp(1) with time zone": ["2024-02-29 12:34:56.7+05:30", "12024-01-01 00:00:00+00"],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-1 mons +2 days -00:00:01", "infinity", "0"],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"k" :  1e400}'],
    "jsonb": ['{"k": [1.0, null, "\\u0001"]}'],
    "inet": ["192.168.0.1/24", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(3)": ["101"],
    "bit varying": ["", "0001"],
    "point": ["(1.5,-2)"],
    "box": ["(2,2),(1,1)"],
    "tsvector": ["'a':1 'b':2"],
    "pg_lsn": ["16/B374D848"],
    "int4range": ["[1,4]", "empty", "(,)"],
    "tstzrange": ['["2024-01-01 00:00:00+00",infinity)'],
    "int8multirange": ["{[1,2],[5,7)}"],
    "integer[]": ["{1,NULL,3}", "{}"],
    "text[]": ['{a,"b,c",NULL,"NULL",null,"q\\"t\\\\","","\u00a0",  " x "}'],
    "double precision[]": ["{1e15,0.1,NaN,-0}"],
    "numeric(6,2)[]": ["{1.5,NULL,-2.25}"],
    "bytea[]": ['{"\\\\x00ff",NULL}'],
    "boolean[]": ["{t,f,NULL}"],
    "timestamp with time zone[]": ['{"2024-01-01 00:00:00+02",infinity}'],
    "time with time zone[]": ["{12:00:00+02}"],
    "jsonb[]": ['{"{\\"a\\": 1}"}'],
    "interval[]": ['{"1 day"}'],
    "public.mood": ["it's, fine"],
    "public.mood[]": ['{sad,"it\'s, fine"}'],
    "public.address": ['("Main St",5)', "(,)"],
    "public.price": ["1.5"],
    "public.point3": ["{{1,2},{3,4}}", "[0:1]={5,6}"],
}
"""Values of every kind of column; the native profile carries each of them exactly."""

SETUP = """
CREATE TYPE mood AS ENUM ('sad', 'it''s, fine');
CREATE TYPE address AS (street text, number int);
CREATE DOMAIN price AS numeric(8,3) CHECK (VALUE > 0);
CREATE DOMAIN point3 AS text"""


@pytest.fixture(scope="module")
def store(postgres: PostgresForTests) -> str:
    dsn = postgres.database()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SETUP)
    return dsn


@pytest.mark.parametrize("sql_type", sorted(AWKWARD))
def test_the_store_takes_back_what_it_gave(store: str, sql_type: str) -> None:
    with psycopg.connect(store) as conn:
        conn.execute(f"CREATE TABLE things(id int PRIMARY KEY, v {sql_type})")
        for number, value in enumerate(AWKWARD[sql_type]):
            conn.execute("INSERT INTO things SELECT %s, %s::text::" + sql_type, (number, value))
        ((oid,),) = conn.execute("SELECT 'things'::regclass::oid::bigint").fetchall()
        conn.execute("SET LOCAL search_path = pg_catalog")  # as capture does: types are told with their schema
        relation = Catalog(conn).relations({oid: None})[oid]
        told = [row[0] for row in conn.execute("SELECT v::text FROM public.things ORDER BY id").fetchall()]
        if sql_type == "boolean":  # a cast says true, the wire t
            told = [text[0] for text in told]
        came = carried(relation, told)
        assert came == told
        shape = shape_of(None, compile_encoder(relation, NATIVE).schemas.value_text)
        assert shape.columns[1][:3] == ("v", sql_type, False)
        if shape.columns[1].base:
            conn.execute(f"CREATE DOMAIN public.again AS {shape.columns[1].base}")
        wrong = conn.execute(
            f"SELECT count(*) FROM public.things t, unnest(%s::text[]) WITH ORDINALITY u(text, number) "
            f"WHERE t.id = u.number - 1 AND t.v::text IS DISTINCT FROM (u.text::{sql_type})::text",
            (came,),
        ).fetchone()
        assert wrong == (0,)
        conn.rollback()


def carried(relation: Relation, texts: list[str]) -> list[str]:
    """Through the encoder and the decoder."""
    encoder = compile_encoder(replace(relation), NATIVE)
    decode = compile_decoder(encoder.schemas.value_text)
    source, came = SourceBlock(NATIVE, committed_us=1, transaction=2), []
    for text in texts:
        (record,) = encoder.records(Op.CREATE, None, (b"1", text.encode()), source, 3, time_stamp(4))
        after = decode(record.value or b"").after
        assert after is not None and isinstance(after["v"], str)
        came.append(after["v"])
    return came


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_float8_texts_are_the_number(number: float) -> None:
    assert struct.pack("<d", float(float_text(number))) == struct.pack("<d", number)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_float4_texts_are_the_number(number: float) -> None:
    text = float_text(number, single=True)
    assert struct.pack("<f", float(text)) == struct.pack("<f", number)


def test_postgresql_prints_floats_alike(postgres: PostgresForTests) -> None:
    """Bit patterns spread over all of float8 and float4, asked of the server."""
    doubles = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in range(1, 0x7FF0 << 48, 0x7FF1 << 37)]
    singles = [struct.unpack("<f", struct.pack("<I", bits))[0] for bits in range(1, 0x7F80_0000, 987_654)]
    with psycopg.connect(postgres.dsn) as conn:
        rows = conn.execute("SELECT n::text FROM unnest(%s::float8[]) n", (doubles,)).fetchall()
        small = conn.execute("SELECT n::text FROM unnest(%s::float4[]) n", (singles,)).fetchall()
    assert [float_text(each) for each in doubles] == [row[0] for row in rows]
    assert [float_text(each, single=True) for each in singles] == [row[0] for row in small]


@given(st.floats() | st.floats(1e-6, 1e-3) | st.floats(1e14, 1e17) | st.integers(-(10**16), 10**16).map(float))
def test_the_quick_way_of_doubles_is_the_slow_one(number: float) -> None:
    assert reader_of("double")(struct.pack("<d", number), 0) == (float_text(number), 8)


@given(st.integers(-(10**40), 10**40), st.integers(1, 30))
def test_the_quick_way_of_decimals_is_the_slow_one(number: int, scale: int) -> None:
    content = number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)
    avro = {"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": scale}
    data = counted(content)
    assert reader_of(avro)(data, 0) == (decimal_text(content, scale), len(data))
