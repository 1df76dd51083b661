"""Columns of every type, and Hypothesis strategies for their values: PostgreSQL text beside what Avro should hold."""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from instep.relation import Column, Relation, Type, TypeKind

Pair = tuple[str, Any]
"""PostgreSQL's output text, and the physical Avro value (no logical types)."""

MOOD = Type(90_001, "public", "mood", TypeKind.ENUM, labels=("sad", "ok", "it's, fine"))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=40)


def base(name: str, schema: str = "pg_catalog") -> Type:
    return Type(0, schema, name)


def array(element: Type) -> Type:
    return Type(0, element.schema, f"_{element.name}", TypeKind.ARRAY, element=element)


def numeric(precision: int, scale: int) -> int:
    return ((precision << 16) | (scale & 0x7FF)) + 4


def integers(bits: int) -> st.SearchStrategy[Pair]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(lambda n: (str(n), n))


def decimals(precision: int, scale: int) -> st.SearchStrategy[Pair]:
    limit = 10**precision - 1

    def pair(unscaled: int) -> Pair:
        text = f"{Decimal(unscaled).scaleb(-scale):.{scale}f}" if precision < 28 else exact(unscaled, scale)
        return text, minimal(unscaled)

    return st.integers(-limit, limit).map(pair)


def exact(unscaled: int, scale: int) -> str:
    digits = str(abs(unscaled)).rjust(scale + 1, "0")
    text = digits if scale == 0 else f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{text}" if unscaled < 0 else text


def minimal(number: int) -> bytes:
    """As few two's complement bytes as there are, found by trying."""
    size = 1
    while True:
        try:
            return number.to_bytes(size, "big", signed=True)
        except OverflowError:
            size += 1


def pg_date(day: date) -> str:
    return day.isoformat()


def pg_time(clock: time) -> str:
    text = clock.strftime("%H:%M:%S")
    return f"{text}.{clock.microsecond:06d}".rstrip("0") if clock.microsecond else text


def micros(moment: datetime) -> int:
    return (moment.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def timestamps(unit: int) -> st.SearchStrategy[Pair]:
    """Timestamps whose fraction is a multiple of `unit` microseconds, as a count of that unit."""

    def pair(moment: datetime) -> Pair:
        moment = moment.replace(microsecond=moment.microsecond // unit * unit)
        return f"{moment.date().isoformat()} {pg_time(moment.time())}", micros(moment) // unit

    return st.datetimes().map(pair)


def zoned(digits: int) -> st.SearchStrategy[Pair]:
    def pair(moment: datetime) -> Pair:
        unit = 10 ** (6 - digits)
        moment = moment.replace(microsecond=moment.microsecond // unit * unit)
        text = f"{moment.date().isoformat()} {pg_time(moment.time())}+00"
        fraction = f".{moment.microsecond:06d}"[: digits + 1] if digits else ""
        return text, f"{moment.date().isoformat()}T{moment.strftime('%H:%M:%S')}{fraction}Z"

    return st.datetimes().map(pair)


def times(unit: int) -> st.SearchStrategy[Pair]:
    def pair(clock: time) -> Pair:
        clock = clock.replace(microsecond=clock.microsecond // unit * unit)
        count = (clock.hour * 3600 + clock.minute * 60 + clock.second) * 1_000_000 + clock.microsecond
        return pg_time(clock), count // unit

    return st.times().map(pair)


def quoted(item: str | None) -> str:
    if item is None:
        return "NULL"
    special = not item or item.upper() == "NULL" or any(c in '{}",\\' or c in " \t\n\r\v\f" for c in item)
    if not special:
        return item
    escaped = item.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def arrays(items: st.SearchStrategy[Pair], *, nulls: bool = True) -> st.SearchStrategy[Pair]:
    def pair(pairs: list[Pair | None]) -> Pair:
        texts = ",".join(quoted(None if each is None else each[0]) for each in pairs)
        return f"{{{texts}}}", [None if each is None else each[1] for each in pairs]

    return st.lists(st.none() | items if nulls else items, max_size=5).map(pair)


def same(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[Pair]:
    return strategy.map(lambda text: (text, text))


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
BYTES = st.binary(max_size=30)
BOOLS = st.booleans().map(lambda yes: ("t" if yes else "f", yes))
DATES = st.dates().map(lambda day: (pg_date(day), (day - date(1970, 1, 1)).days))


@dataclass(frozen=True)
class Sample:
    """One type: how its column looks, its values, and whether Debezium's mapping of it loses nothing."""

    type: Type
    values: st.SearchStrategy[Pair]
    modifier: int = -1
    exact: bool = True
    sql: str = ""


SAMPLES = {
    "int2": Sample(base("int2"), integers(16), sql="smallint"),
    "int4": Sample(base("int4"), integers(32), sql="integer"),
    "int8": Sample(base("int8"), integers(64), sql="bigint"),
    "oid": Sample(base("oid"), st.integers(0, 2**32 - 1).map(lambda n: (str(n), n)), sql="oid"),
    "bool": Sample(base("bool"), BOOLS, sql="boolean"),
    "float8": Sample(
        base("float8"), st.integers(-(10**14), 10**14).map(lambda n: (str(n), float(n))), sql="double precision"
    ),
    "float4": Sample(base("float4"), st.integers(-99_999, 99_999).map(lambda n: (str(n), float(n))), sql="real"),
    "numeric_10_2": Sample(base("numeric"), decimals(10, 2), numeric(10, 2), sql="numeric(10,2)"),
    "numeric_38_0": Sample(base("numeric"), decimals(38, 0), numeric(38, 0), sql="numeric(38,0)"),
    "numeric_60_20": Sample(base("numeric"), decimals(60, 20), numeric(60, 20), sql="numeric(60,20)"),
    "text": Sample(base("text"), same(TEXT), sql="text"),
    "varchar": Sample(base("varchar"), same(TEXT), 44, sql="character varying(40)"),
    "bpchar": Sample(base("bpchar"), same(TEXT), sql="character(5)"),
    "long_text": Sample(base("text"), same(st.integers(60, 20_000).map(lambda n: "ä" * n)), sql="text"),
    "name": Sample(base("name"), same(TEXT), sql="name"),
    "json": Sample(base("json"), same(TEXT), sql="json"),
    "jsonb": Sample(base("jsonb"), same(TEXT), sql="jsonb"),
    "xml": Sample(base("xml"), same(TEXT), sql="xml"),
    "uuid": Sample(base("uuid"), same(st.uuids().map(str)), sql="uuid"),
    "inet": Sample(base("inet"), same(st.ip_addresses().map(str)), sql="inet"),
    "int4range": Sample(base("int4range"), same(TEXT), sql="int4range"),
    "enum": Sample(MOOD, same(st.sampled_from(MOOD.labels)), sql="public.mood"),
    "bytea": Sample(base("bytea"), BYTES.map(lambda b: (f"\\x{b.hex()}", b)), sql="bytea"),
    "date": Sample(base("date"), DATES, sql="date"),
    "time": Sample(base("time"), times(1), sql="time without time zone"),
    "time3": Sample(base("time"), times(1000), 3, sql="time(3) without time zone"),
    "timestamp": Sample(base("timestamp"), timestamps(1), sql="timestamp without time zone"),
    "timestamp3": Sample(base("timestamp"), timestamps(1000), 3, sql="timestamp(3) without time zone"),
    "timestamptz": Sample(base("timestamptz"), zoned(6), sql="timestamp with time zone"),
    "timestamptz0": Sample(base("timestamptz"), zoned(0), 0, sql="timestamp(0) with time zone"),
    "timestamptz2": Sample(base("timestamptz"), zoned(2), 2, sql="timestamp(2) with time zone"),
    "domain": Sample(
        Type(90_002, "public", "price", TypeKind.DOMAIN, element=base("numeric"), modifier=numeric(8, 3)),
        decimals(8, 3),
        sql="public.price",
    ),
    "int4[]": Sample(array(base("int4")), arrays(integers(32)), sql="integer[]"),
    "text[]": Sample(array(base("text")), arrays(same(TEXT)), sql="text[]"),
    "bool[]": Sample(array(base("bool")), arrays(BOOLS), sql="boolean[]"),
    "date[]": Sample(array(base("date")), arrays(DATES), sql="date[]"),
    "uuid[]": Sample(array(base("uuid")), arrays(same(st.uuids().map(str))), sql="uuid[]"),
    "numeric[]": Sample(array(base("numeric")), arrays(decimals(6, 2)), numeric(6, 2), sql="numeric(6,2)[]"),
    "timestamptz[]": Sample(array(base("timestamptz")), arrays(zoned(6)), sql="timestamp with time zone[]"),
    "enum[]": Sample(array(MOOD), arrays(same(st.sampled_from(MOOD.labels)), nulls=False), sql="public.mood[]"),
}


def _variable(pair: tuple[int, int]) -> Pair:
    unscaled, scale = pair
    text = exact(unscaled, scale)
    while scale and unscaled % 10 == 0:
        unscaled, scale = unscaled // 10, scale - 1
    return text, {"scale": scale, "value": minimal(unscaled)}


def _point(pair: tuple[int, int]) -> Pair:
    x, y = (float(each) for each in pair)
    wkb = b"\x01" + struct.pack("<Idd", 1, x, y)
    return f"({pair[0]},{pair[1]})", {"x": x, "y": y, "wkb": wkb, "srid": None}


def _bits(bits: list[bool]) -> Pair:
    text = "".join("1" if bit else "0" for bit in bits)
    number = int(text, 2) if text else 0
    return text, number.to_bytes((number.bit_length() + 7) // 8, "little")


def _interval(parts: tuple[int, int, int]) -> Pair:
    months, days, seconds = parts
    sign = "-" if seconds < 0 else ""
    minutes, second = divmod(abs(seconds), 60)
    text = f"{months} mons {days} days {sign}{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"
    return text, months * 2_629_800_000_000 + days * 86_400_000_000 + seconds * 1_000_000


LOSSY = {
    "numeric": Sample(
        base("numeric"), st.tuples(st.integers(-(10**30), 10**30), st.integers(0, 12)).map(_variable), exact=False
    ),
    "money": Sample(
        base("money"), st.integers(0, 10**9).map(lambda n: (f"${n // 100:,}.{n % 100:02d}", minimal(n))), exact=False
    ),
    "bit1": Sample(base("bit"), st.booleans().map(lambda b: ("1" if b else "0", b)), 1, exact=False),
    "varbit": Sample(base("varbit"), st.lists(st.booleans(), max_size=70).map(_bits), exact=False),
    "interval": Sample(
        base("interval"),
        st.tuples(st.integers(-400, 400), st.integers(-400, 400), st.integers(-90_000, 90_000)).map(_interval),
        exact=False,
    ),
    "point": Sample(base("point"), st.tuples(st.integers(-999, 999), st.integers(-999, 999)).map(_point), exact=False),
}

UNMAPPED = {
    "int4multirange": Type(0, "pg_catalog", "int4multirange", TypeKind.MULTIRANGE),
    "composite": Type(90_003, "public", "address", TypeKind.COMPOSITE),
    "interval[]": array(base("interval")),
    "box": base("box"),
    "own base type": base("temperature", "public"),
}
"""Types that Debezium leaves out; the native profile carries their text."""


def relation_of(columns: list[Column], key: tuple[str, ...] = ("id",)) -> Relation:
    first = Column("id", base("int4"), not_null=True, identity=True, sql_type="integer")
    return Relation(16_384, "public", "things", (first, *columns), key)


def column_of(number: int, sample: Sample, *, not_null: bool) -> Column:
    return Column(
        f"c{number}", sample.type, sample.modifier, not_null=not_null, sql_type=sample.sql or sample.type.name
    )


def base64_text(content: bytes) -> str:
    return base64.b64encode(content).decode()


Build = Callable[[], Relation]
