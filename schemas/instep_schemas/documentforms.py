"""How a SELECT's columns travel in documents: from PostgreSQL's JSON to Avro values, and to exact Python values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any, Final, NamedTuple

from instep_schemas.civil import format_date, format_time, format_timestamp, parse_date, parse_time, parse_timestamp
from instep_schemas.values import twos_complement
from instep_schemas.wire import NoRoom

_MODIFIER: Final = re.compile(r"\([^)]*\)")
_DECIMAL: Final = re.compile(r"numeric\((\d+),(\d+)\)")
_EPOCH: Final = datetime(1970, 1, 1)
_TIMESTAMP_END: Final = 2**63 - 1
"""`infinity` as Avro timestamp; PostgreSQL itself keeps it as the largest int64. `-infinity` is its negative."""
_DATE_END: Final = 2**31 - 1


class Number(str):
    """A JSON number as it was written: its digits stay."""

    __slots__ = ()


class Form(NamedTuple):
    """How values of one PostgreSQL type travel.

    Attributes:
        avro: the Avro type.
        encode: from JSON's value (numbers as `Number`) to Avro's; raises NoRoom where `exact` reads the value.
        decode: from Avro's value to Python's.
        exact: from JSON's value to Python's, for what the Avro type has no room for; None where it has room for all.
    """

    avro: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    exact: Callable[[Any], Any] | None = None

    def read(self, value: Any) -> Any:
        """Python's value of JSON's; raises as `encode`."""
        try:
            return self.decode(self.encode(value))
        except NoRoom:
            if self.exact is None:
                raise
            return self.exact(value)


def form_of(sql_type: str, kind: str = "b", element: str | None = None) -> Form:
    """The form of a column's type, told as `DocumentColumn` tells it."""
    if kind == "a" and element:
        return _array(form_of(element))
    if kind == "c":
        return Form("string", json_text, json.loads)
    found = _DECIMAL.fullmatch(sql_type)
    if found is not None and int(found[2]) <= int(found[1]):
        return _decimal(int(found[1]), int(found[2]))
    return _FORMS.get(unmodified(sql_type), _TEXT) if kind == "b" else _TEXT


def unmodified(sql_type: str) -> str:
    """A type's name without its modifiers."""
    return _MODIFIER.sub("", sql_type)


def _array(element: Form) -> Form:
    def encode(values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise ValueError("not an array")
        if element is not _JSON and any(isinstance(each, list) for each in values):
            raise NoRoom("an array of more than one dimension")
        return [None if each is None else element.encode(each) for each in values]

    def decode(values: Any) -> list[Any]:
        return [None if each is None else element.decode(each) for each in values]

    def exact(values: Any) -> list[Any]:
        nested = element is not _JSON
        return [
            None if each is None else exact(each) if nested and isinstance(each, list) else element.read(each)
            for each in values
        ]

    return Form({"type": "array", "items": ["null", element.avro]}, encode, decode, exact)


def _decimal(precision: int, scale: int) -> Form:
    def encode(value: Any) -> bytes:
        if value == "NaN":
            raise NoRoom("NaN has no decimal form")
        return twos_complement(int(Decimal(value).scaleb(scale, _EXACT)))

    def decode(content: bytes) -> Decimal:
        return Decimal(int.from_bytes(content, "big", signed=True)).scaleb(-scale, _EXACT)

    avro = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    return Form(avro, encode, decode, Decimal)


def json_text(value: Any) -> str:
    """A JSON value read with `Number` as text again: same digits, no blanks."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{','.join(map(json_text, value))}]"
    return (
        "{"
        + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{json_text(each)}" for name, each in value.items())
        + "}"
    )


def _plain(value: Any) -> str:
    """Text as it is; anything else that PostgreSQL's JSON of a type may be, as JSON."""
    return value if type(value) is str else json_text(value)


def _timestamp_us(text: str) -> int:
    if text.endswith("infinity"):
        return -_TIMESTAMP_END if text.startswith("-") else _TIMESTAMP_END
    micros = _counted_us(text)
    if micros >= _TIMESTAMP_END:
        raise NoRoom("outside the range of 64 bits")
    return micros


def _far_timestamp(text: str) -> str:
    return format_timestamp(_counted_us(text))


def _counted_us(text: str) -> int:
    return parse_timestamp(text.replace("T", " ", 1).encode())


def _zoned(micros: int) -> datetime | str:
    moment = _local(micros)
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else moment


def _local(micros: int) -> datetime | str:
    """A datetime, or PostgreSQL's text of a moment that Python does not know."""
    if abs(micros) == _TIMESTAMP_END:
        return "infinity" if micros > 0 else "-infinity"
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return format_timestamp(micros)


def _days(text: str) -> int:
    if text.endswith("infinity"):
        return -_DATE_END if text.startswith("-") else _DATE_END
    return parse_date(text.encode())


def _date(days: int) -> date | str:
    if abs(days) == _DATE_END:
        return "infinity" if days > 0 else "-infinity"
    try:
        return _EPOCH.date() + timedelta(days=days)
    except OverflowError:
        return format_date(days)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, Number) and math.isinf(number):
        raise OverflowError
    return number


def _same(value: Any) -> Any:
    return value


_EXACT: Final = Context(prec=150_000)
"""Enough for every numeric PostgreSQL can hold, so that moving the point never rounds."""
_TEXT: Final = Form("string", _plain, _same)
_INT: Final = Form("int", int, _same)
_LONG: Final = Form("long", int, _same)
_DOUBLE: Final = Form("double", _float, _same)
_JSON: Final = Form("string", json_text, json.loads)
_FORMS: Final[dict[str, Form]] = {
    "smallint": _INT,
    "integer": _INT,
    "bigint": _LONG,
    "oid": _LONG,
    "real": _DOUBLE,
    "double precision": _DOUBLE,
    "boolean": Form("boolean", bool, _same),
    "numeric": Form("string", _plain, Decimal),
    "uuid": Form({"type": "string", "logicalType": "uuid"}, _plain, _same),
    "bytea": Form("bytes", lambda text: bytes.fromhex(text[2:]), _same),
    "json": _JSON,
    "jsonb": _JSON,
    "date": Form({"type": "int", "logicalType": "date"}, _days, _date),
    "time without time zone": Form(
        {"type": "long", "logicalType": "time-micros"}, lambda text: parse_time(text.encode()), format_time
    ),
    "timestamp without time zone": Form(
        {"type": "long", "logicalType": "local-timestamp-micros"}, _timestamp_us, _local, _far_timestamp
    ),
    "timestamp with time zone": Form(
        {"type": "long", "logicalType": "timestamp-micros"}, _timestamp_us, _zoned, _far_timestamp
    ),
}
