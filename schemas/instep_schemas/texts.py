"""From Avro bytes to PostgreSQL text: one reader per Avro type, each `(data, at) -> (text, end)`.

The text is PostgreSQL's own output form, so that a cast gives the value back exactly.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

from instep_schemas import civil, literals
from instep_schemas.mapping import Avro
from instep_schemas.standins import kind_of
from instep_schemas.varint import read_long

Reader = Callable[[bytes, int], tuple[str, int]]

_DOUBLE = struct.Struct("<d").unpack_from
_FLOAT = struct.Struct("<f")
_SHORT_BITS: Final = 14_000


def float_text(number: float, *, single: bool = False) -> str:
    """A float8 (or float4) as PostgreSQL prints it: the shortest digits, `1e+15` from 15 (6) digits on."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "-0" if math.copysign(1.0, number) < 0 else "0"
    mantissa, _, exponent = (_shortest_single(number) if single else _shortest_double(number)).partition("e")
    sign, mantissa = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    digits, power = mantissa.replace(".", "").rstrip("0"), int(exponent)
    if power < -4 or power >= (6 if single else 15):
        point = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}e{power:+03d}"
    if power < 0:
        return f"{sign}0.{'0' * (-power - 1)}{digits}"
    whole = digits[: power + 1].ljust(power + 1, "0")
    return f"{sign}{whole}.{digits[power + 1 :]}" if len(digits) > power + 1 else f"{sign}{whole}"


def _shortest_double(number: float) -> str:
    digits = repr(number)
    if "e" not in digits:
        size = len(digits.replace(".", "").replace("-", "").strip("0"))
        return f"{number:.{max(size - 1, 0)}e}"
    return digits


def _shortest_single(number: float) -> str:
    denormal = abs(number) < 1.2e-38  # fewer than six digits may be all there are
    for precision in range(0 if denormal else 5, 9):
        digits = f"{number:.{precision}e}"
        if _FLOAT.unpack(_FLOAT.pack(float(digits)))[0] == number:
            return digits
    return f"{number:.8e}"


def decimal_text(content: bytes, scale: int) -> str:
    """Two's complement bytes of an unscaled number as a decimal text with `scale` digits."""
    number = int.from_bytes(content, "big", signed=True)
    if scale <= 0:
        return _digits(number * 10**-scale)
    digits = _digits(abs(number)).rjust(scale + 1, "0")
    return f"{'-' if number < 0 else ''}{digits[:-scale]}.{digits[-scale:]}"


def _digits(number: int) -> str:
    """The number in full, however long: Python's `str` refuses more than 4300 digits."""
    return str(number) if number.bit_length() < _SHORT_BITS else format(Decimal(number), "f")


def zoned_text(iso: str) -> str:
    """Debezium's ZonedTimestamp as PostgreSQL prints a timestamptz in UTC."""
    if len(iso) == 27 and iso[10] == "T" and iso[26] == "Z" and iso[25] != "0":  # the usual: all six digits
        return f"{iso[:10]} {iso[11:26]}+00"
    if not iso.endswith("Z"):
        return iso
    at = iso.index("T")
    date, clock = iso[:at], iso[at + 1 : -1]
    if "." in clock:
        clock = clock.rstrip("0").rstrip(".")
    if date[0] in "+-" or date.startswith("0000"):
        year, month, day = date[0].replace("+", "") + date[1:-6], date[-5:-3], date[-2:]
        if int(year) <= 0:
            return f"{1 - int(year):04d}-{month}-{day} {clock}+00 BC"
        date = f"{int(year)}-{month}-{day}"
    return f"{date} {clock}+00"


def _number(render: Callable[[int], str]) -> Reader:
    def read(data: bytes, at: int) -> tuple[str, int]:
        number, at = read_long(data, at)
        return render(number), at

    return read


def _string(render: Callable[[str], str]) -> Reader:
    def read(data: bytes, at: int) -> tuple[str, int]:
        size, at = read_long(data, at)
        return render(data[at : at + size].decode()), at + size

    return read


def _bytes(render: Callable[[bytes], str]) -> Reader:
    def read(data: bytes, at: int) -> tuple[str, int]:
        size, at = read_long(data, at)
        return render(data[at : at + size]), at + size

    return read


def _date(days: int) -> str:
    if days == civil.DATE_INFINITY:
        return "infinity"
    return "-infinity" if days == civil.DATE_MINUS_INFINITY else civil.format_date(days)


def _timestamp(factor: int) -> Callable[[int], str]:
    """From a count of `1/factor`-th microseconds… `factor` is how many microseconds one unit is."""
    infinity = civil.TIMESTAMP_INFINITY_MS * 1000 // factor
    minus_infinity = civil.TIMESTAMP_MINUS_INFINITY_MS * 1000 // factor

    def render(number: int) -> str:
        if minus_infinity < number < infinity:
            return civil.format_timestamp(number * factor)
        if number == infinity:
            return "infinity"
        return "-infinity" if number == minus_infinity else civil.format_timestamp(number * factor)

    return render


def _iso_timestamp(iso: str) -> str:
    return iso.removesuffix("Z").replace("T", " ", 1)


def _zoned_time(iso: str) -> str:
    return iso.removesuffix("Z") + "+00" if iso.endswith("Z") else iso


def _bit_text(length: int) -> Callable[[bytes], str]:
    def render(content: bytes) -> str:
        text = bin(int.from_bytes(content, "little"))[2:] if content else ""
        return text if length == 2_147_483_647 else text.rjust(length, "0")

    return render


_BY_NAME: Final[dict[str, Reader]] = {
    "io.debezium.time.Date": _number(_date),
    "org.apache.kafka.connect.data.Date": _number(_date),
    "io.debezium.time.Time": _number(lambda number: civil.format_time(number * 1000)),
    "org.apache.kafka.connect.data.Time": _number(lambda number: civil.format_time(number * 1000)),
    "io.debezium.time.MicroTime": _number(civil.format_time),
    "io.debezium.time.NanoTime": _number(lambda number: civil.format_time(number // 1000)),
    "io.debezium.time.Timestamp": _number(_timestamp(1000)),
    "org.apache.kafka.connect.data.Timestamp": _number(_timestamp(1000)),
    "io.debezium.time.MicroTimestamp": _number(_timestamp(1)),
    "io.debezium.time.NanoTimestamp": _number(lambda number: civil.format_timestamp(number // 1000)),
    "io.debezium.time.ZonedTimestamp": _string(zoned_text),
    "io.debezium.time.ZonedTime": _string(_zoned_time),
    "io.debezium.time.IsoDate": _string(lambda iso: iso.removesuffix("Z")),
    "io.debezium.time.IsoTime": _string(lambda iso: iso.removesuffix("Z")),
    "io.debezium.time.IsoTimestamp": _string(_iso_timestamp),
    "io.debezium.time.MicroDuration": _number(
        lambda number: ("-" if number < 0 else "") + civil.format_time(abs(number))
    ),
}


def _variable(data: bytes, at: int) -> tuple[str, int]:
    scale, at = read_long(data, at)
    size, at = read_long(data, at)
    return decimal_text(data[at : at + size], scale), at + size


def _point(data: bytes, at: int) -> tuple[str, int]:
    (x,), (y,) = _DOUBLE(data, at), _DOUBLE(data, at + 8)
    at += 16
    if data[at]:
        size, at = read_long(data, at + 1)
        at += size
    else:
        at += 1
    at = read_long(data, at + 1)[1] if data[at] else at + 1
    return f"({float_text(x)},{float_text(y)})", at


def _double(data: bytes, at: int) -> tuple[str, int]:
    (number,) = _DOUBLE(data, at)
    if 1e-4 <= number < 1e15 or -1e15 < number <= -1e-4:  # Python prints these as PostgreSQL does, but for a last .0
        text = repr(number)
        return text[:-2] if text.endswith(".0") else text, at + 8
    return float_text(number), at + 8


def _single(data: bytes, at: int) -> tuple[str, int]:
    return float_text(_FLOAT.unpack_from(data, at)[0], single=True), at + 4


def _boolean(data: bytes, at: int) -> tuple[str, int]:
    return "t" if data[at] else "f", at + 1


_BY_KIND: Final[dict[str, Reader]] = {
    "int": _number(str),
    "long": _number(str),
    "float": _single,
    "double": _double,
    "boolean": _boolean,
    "string": _string(str),
    "bytes": _bytes(lambda content: "\\x" + content.hex()),
}


def reader_of(avro: Avro) -> Reader:
    """The reader of a column's (or array item's) Avro type, without its union with null.

    Raises:
        ValueError: an Avro type that no column is written as.
    """
    kind, name = kind_of(avro)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if isinstance(avro, dict):
        if avro.get("logicalType") == "decimal":
            scale = avro.get("scale", 0)
            return _decimal(scale) if scale > 0 else _bytes(lambda content: decimal_text(content, scale))
        if name == "io.debezium.data.Bits":
            return _bytes(_bit_text(int(avro["connect.parameters"]["length"])))
        if name == "io.debezium.data.VariableScaleDecimal":
            return _variable
        if name == "io.debezium.data.geometry.Point":
            return _point
        if kind == "array":
            return _array(avro["items"])
        if kind == "map":
            return _map(avro["values"])
    if kind not in _BY_KIND:
        raise ValueError(f"no PostgreSQL text for the Avro type {name or kind}")
    return _BY_KIND[kind]


def _decimal(scale: int) -> Reader:
    """A decimal with digits after the point."""
    one, from_bytes = 10**scale, int.from_bytes

    def read(data: bytes, at: int) -> tuple[str, int]:
        size = data[at]
        if size > 127:
            size, at = read_long(data, at)
        else:
            size, at = size >> 1, at + 1
        end = at + size
        number = from_bytes(data[at:end], "big", signed=True)
        if number < one:  # also those below zero
            return decimal_text(data[at:end], scale), end
        text = str(number)
        return f"{text[:-scale]}.{text[-scale:]}", end

    return read


def _nullable(union: Any) -> tuple[Reader, int]:
    """The reader of a nullable item and the branch byte of a value."""
    if not isinstance(union, list):
        return reader_of(union), -1
    branch = 0 if union[1] == "null" else 1
    return reader_of(union[branch]), branch << 1


def _array(items: Any) -> Reader:
    item, some = _nullable(items)

    def read(data: bytes, at: int) -> tuple[str, int]:
        texts: list[str | None] = []
        count, at = _block(data, at)
        while count:
            for _ in range(count):
                if some >= 0:
                    at += 1
                if some >= 0 and data[at - 1] != some:
                    texts.append(None)
                else:
                    text, at = item(data, at)
                    texts.append(text)
            count, at = _block(data, at)
        return literals.format_array(texts), at

    return read


def _map(values: Any) -> Reader:
    value, some = _nullable(values)
    string = _BY_KIND["string"]

    def read(data: bytes, at: int) -> tuple[str, int]:
        pairs: dict[str, str | None] = {}
        count, at = _block(data, at)
        while count:
            for _ in range(count):
                key, at = string(data, at)
                pairs[key] = None
                if some >= 0:
                    at += 1
                if some < 0 or data[at - 1] == some:
                    pairs[key], at = value(data, at)
            count, at = _block(data, at)
        return literals.format_hstore(pairs), at

    return read


def _block(data: bytes, at: int) -> tuple[int, int]:
    """The count of the next block of an array or map; a negative one is followed by the block's size in bytes."""
    count, at = read_long(data, at)
    if count < 0:
        _, at = read_long(data, at)
    return abs(count), at
