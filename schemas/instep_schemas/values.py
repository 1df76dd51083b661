"""From a column's PostgreSQL text to its Avro bytes: one codec per way onto the wire.

A codec takes the text as the store sent it and gives the bytes without the union's branch. It raises Refused with a
reason (never with the value) when the Avro type cannot carry the value, ValueError when it is no text of the type.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from instep_schemas import civil, javatext, literals
from instep_schemas.hstores import hstore_json, hstore_map
from instep_schemas.mapping import Mapped
from instep_schemas.varint import LENGTH, counted, long, pack_double, pack_float, unsigned
from instep_schemas.wire import NoRoom, Refused, RefusedLabel

Codec = Callable[[bytes], bytes]

_MEMO_SIZE: Final = 4096
_INT64: Final = 1 << 63
_POINT_WKB = struct.Struct("<BIdd").pack


class Memo(dict[bytes, bytes]):
    """Remembers a codec's answers for the texts that come again (prices, quantities, dates); bounded."""

    __slots__ = ("codec",)

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def __missing__(self, text: bytes) -> bytes:
        encoded = self.codec(text)
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[text] = encoded
        return encoded


def integer(text: bytes) -> bytes:
    """Any of int2, int4, int8, oid."""
    number = int(text)
    return LENGTH[number] if 0 <= number < 8192 else unsigned((number << 1) ^ (number >> 63))


def checked_long(number: int) -> bytes:
    """A computed long.

    Raises:
        NoRoom: more than 64 bits.
    """
    if not -_INT64 <= number < _INT64:
        raise NoRoom("outside the range of 64 bits")
    return long(number)


_BITS: Final = {b"1": b"\x01", b"0": b"\x00"}
BOOLEANS: Final = {b"t": b"\x01", b"f": b"\x00", b"true": b"\x01", b"false": b"\x00"}


def boolean(text: bytes) -> bytes:
    """A bool: `t` or `f`."""
    return BOOLEANS[text]


def real(text: bytes) -> bytes:
    """A float4."""
    return pack_float(float(text))


def double(text: bytes) -> bytes:
    """A float8."""
    return pack_double(float(text))


def twos_complement(number: int) -> bytes:
    """Java's BigInteger.toByteArray: as few bytes as hold the number with its sign."""
    if number >= 0:
        return number.to_bytes(number.bit_length() // 8 + 1, "big")
    return number.to_bytes((~number).bit_length() // 8 + 1, "big", signed=True)


def unscaled(text: bytes, scale: int) -> int:
    """The digits of a number with exactly `scale` digits after the point.

    Raises:
        NoRoom: NaN, Infinity.
        Refused: more digits (never rounded in silence).
    """
    whole, point, fraction = text.partition(b".")
    if not text[-1:].isdigit():
        raise NoRoom("NaN and Infinity have no decimal form")
    if scale < 0 and not point:
        number, rest = divmod(int(whole), int(10**-scale))
        if rest:
            raise Refused("more digits than the column's scale")
        return number
    if len(fraction) != scale:
        if len(fraction) > scale and fraction[scale:].strip(b"0"):
            raise Refused("more digits than the column's scale")
        fraction = fraction[:scale].ljust(scale, b"0")
    return int(whole + fraction)


def decimal(mapped: Mapped) -> Codec:
    """A numeric(p,s) as two's complement bytes of the unscaled number."""
    scale = mapped.scale
    point = -scale - 1

    def encode(text: bytes) -> bytes:
        whole = scale > 0 and text[point:-scale] == b"."  # how the store writes every number of that scale
        content = twos_complement(int(text[:point] + text[-scale:]) if whole else unscaled(text, scale))
        return LENGTH[len(content)] + content if len(content) < 8192 else counted(content)

    return encode


def variable(text: bytes) -> bytes:
    """A numeric without scale: VariableScaleDecimal, trailing zeros stripped."""
    if not text[-1:].isdigit():
        raise NoRoom("NaN and Infinity have no decimal form")
    whole, _, fraction = text.partition(b".")
    fraction = fraction.rstrip(b"0")
    return long(len(fraction)) + counted(twos_complement(_integer(whole + fraction)))


def _integer(digits: bytes) -> int:
    """The number, of however many digits: Python's `int` refuses more than 4300."""
    return int(digits) if len(digits) <= _INT_DIGITS else int(Decimal(digits.decode()))


_INT_DIGITS: Final = 4300
_SPECIAL_DECIMAL: Final = {b"NaN": b"NAN", b"Infinity": b"POSITIVE_INFINITY", b"-Infinity": b"NEGATIVE_INFINITY"}


def numeric_text(text: bytes) -> bytes:
    """decimal.handling.mode=string."""
    return counted(_SPECIAL_DECIMAL.get(text, text))


def plain_money(text: bytes) -> bytes:
    """`-$1,234.50` as `-1234.50`; also `(1.00)` styles of accounting locales."""
    digits = bytes(byte for byte in text if byte in b"0123456789.")
    return b"-" + digits if text[:1] in (b"-", b"(") or b"-" in text else digits


def money(mapped: Mapped) -> Codec:
    """A money as decimal bytes; where the settings give it fewer digits than the store, rounded as they ask for."""
    scale, unit = mapped.scale, Decimal(1).scaleb(-mapped.scale)

    def encode(text: bytes) -> bytes:
        plain = plain_money(text)
        if len(plain.partition(b".")[2]) > scale:
            plain = str(Decimal(plain.decode()).quantize(unit, ROUND_HALF_UP)).encode()
        return counted(twos_complement(unscaled(plain, scale)))

    return encode


def bits(text: bytes) -> bytes:
    """A bit string: little-endian bytes without trailing zero bytes (Java's BitSet)."""
    number = 0 if text == b"" else int(text, 2)  # None is no empty one
    return counted(number.to_bytes((number.bit_length() + 7) // 8, "little"))


def bit_array(text: bytes) -> bytes:
    """An array of bit strings, for which Debezium's schema has one bit string: always refused."""
    raise Refused("an array of bit strings, for which Debezium's schema has no room")


def unhex(text: bytes) -> bytes:
    r"""The bytes of `\x00ff`."""
    if text[:2] != b"\\x":
        raise Refused("not in bytea_output=hex")
    return bytes.fromhex(text[2:].decode("ascii"))


def point(text: bytes) -> bytes:
    """A point: x, y, its WKB, no srid."""
    x, y = literals.parse_point(text.decode())
    return pack_double(x) + pack_double(y) + b"\x02" + counted(_POINT_WKB(1, 1, x, y)) + b"\x00"


def date(text: bytes) -> bytes:
    """Days since 1970; the infinities by the numbers Debezium's stream writes."""
    if text == b"infinity":
        return long(civil.DATE_INFINITY)
    if text == b"-infinity":
        return long(civil.DATE_MINUS_INFINITY)
    return long(civil.parse_date(text))


def time_us(text: bytes) -> bytes:
    """Microseconds of the day."""
    return long(civil.parse_time(text))


def time_ms(text: bytes) -> bytes:
    """Milliseconds of the day."""
    return long(civil.parse_time(text) // 1000)


def time_ns(text: bytes) -> bytes:
    """Nanoseconds of the day."""
    return long(civil.parse_time(text) * 1000)


def timestamp_ns(text: bytes) -> bytes:
    """Nanoseconds since the Unix epoch."""
    return checked_long(_timestamp_micros(text) * 1000)


def timestamp_us(text: bytes) -> bytes:
    """Microseconds since the Unix epoch; the infinities by pgjdbc's numbers."""
    if len(text) >= 19 and text[4] == 45 and text[-1] != 67:
        return checked_long(_DAYS[text[:10]] + civil.parse_time(text[11:]))
    return checked_long(_timestamp_micros(text))


def timestamp_ms(text: bytes) -> bytes:
    """Milliseconds since the Unix epoch."""
    return checked_long(_timestamp_micros(text) // 1000)


def _timestamp_micros(text: bytes) -> int:
    if text == b"infinity":
        return civil.TIMESTAMP_INFINITY_MS * 1000
    if text == b"-infinity":
        return civil.TIMESTAMP_MINUS_INFINITY_MS * 1000
    micros = civil.parse_timestamp(text)
    if micros in (civil.TIMESTAMP_INFINITY_MS * 1000, civil.TIMESTAMP_MINUS_INFINITY_MS * 1000):
        raise NoRoom("this moment stands for infinity on the wire")
    return micros


class _Days(dict[bytes, int]):
    """Microseconds of the midnights seen lately."""

    def __missing__(self, text: bytes) -> int:
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[text] = civil.parse_date(text) * civil.DAY_US
        return self[text]


_DAYS: Final = _Days()


def zoned(mapped: Mapped) -> Codec:
    """A timestamptz as ISO text in UTC, the fraction padded to the column's precision."""
    digits = mapped.scale
    size = 9 + digits if digits else 8

    def encode(text: bytes) -> bytes:
        if text[-3:] != b"+00" or text[4] != 45:
            return counted(_zoned_slowly(text, digits))
        clock = text[11:-3]
        if len(clock) != size:
            clock = (clock + b".").ljust(size, b"0") if len(clock) == 8 else clock.ljust(size, b"0")
        return LENGTH[size + 12] + text[:10] + b"T" + clock + b"Z"

    return encode


def _zoned_slowly(text: bytes, digits: int) -> bytes:
    if text in (b"infinity", b"-infinity"):
        return text
    days, clock = divmod(civil.parse_timestamp(text), civil.DAY_US)
    year, month, day = civil.civil_from_days(days)
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+05d}"
    time, _, fraction = civil.format_time(clock).partition(".")
    padded = f".{fraction.ljust(digits, '0')}" if digits else ""
    return f"{shown}-{month:02d}-{day:02d}T{time}{padded}Z".encode()


def zoned_time(text: bytes) -> bytes:
    """A timetz moved to UTC; its own offset is lost (Debezium's ZonedTime)."""
    at = max(text.rfind(b"+"), text.rfind(b"-"))
    hours, minutes, seconds = [*text[at + 1 :].split(b":"), b"0", b"0"][:3]
    offset = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * (-1 if text[at] == 45 else 1)
    micros = (civil.parse_time(text[:at]) - offset * 1_000_000) % civil.DAY_US
    return counted(civil.format_time(micros).encode() + b"Z")


def clock_iso(text: bytes) -> bytes:
    """Dates, times and timestamps with time.precision.mode=isostring; the infinities by their names."""
    return counted(text if text.endswith(b"y") else text.replace(b" ", b"T", 1) + b"Z")


class _Labels(dict[bytes, bytes]):
    """An enum's labels, encoded."""

    def __missing__(self, text: bytes) -> bytes:
        raise RefusedLabel("it is a label that the enum did not have when the table was described")


def label(mapped: Mapped) -> Codec:
    """An enum's label; one that the type did not have yet is refused."""
    return _Labels({text.encode(): counted(text.encode()) for text in mapped.labels}).__getitem__


def vector(text: bytes) -> bytes:
    """An int2vector or oidvector, `1 2`, as an array of numbers."""
    items = text.split()
    return long(len(items)) + b"".join(map(integer, items)) + b"\x00" if items else b"\x00"


def array(mapped: Mapped) -> Codec:
    """A one-dimensional array of nullable items."""
    if mapped.item is None:
        raise AssertionError("an array without an item type")
    item = codec_of(mapped.item)
    labels = mapped.item.codec == "label"
    strict = isinstance(mapped.avro, dict) and not isinstance(mapped.avro["items"], list)

    def encode(text: bytes) -> bytes:
        try:
            items = literals.parse_array(text.decode())
        except NoRoom:
            if labels:  # a label that the type did not have is to be looked up, also where a header tells the text
                for each in literals.leaves(text.decode()):
                    item(each.encode())
            raise
        if not items:
            return b"\x00"
        if strict:
            if None in items:
                raise Refused("a null in an array whose schema has no null for the items")
            return long(len(items)) + b"".join(item((each or "").encode()) for each in items) + b"\x00"
        parts = [b"\x00" if each is None else b"\x02" + item(each.encode()) for each in items]
        return long(len(items)) + b"".join(parts) + b"\x00"

    return encode


_PLAIN: Final[dict[str, Codec]] = {
    "text": counted,
    "text_base64": lambda text: counted(base64.b64encode(text)),
    "text_base64-url-safe": lambda text: counted(base64.urlsafe_b64encode(text)),
    "text_hex": lambda text: counted(text.hex().encode()),
    "geometric": lambda text: counted(javatext.geometric(text)),
    "geometric_base64": lambda text: counted(base64.b64encode(javatext.geometric(text))),
    "geometric_base64-url-safe": lambda text: counted(base64.urlsafe_b64encode(javatext.geometric(text))),
    "geometric_hex": lambda text: counted(javatext.geometric(text).hex().encode()),
    "bit_array": bit_array,
    "int": integer,
    "bool": boolean,
    "float": real,
    "double": double,
    "variable": variable,
    "vector": vector,
    "numeric_text": numeric_text,
    "money_text": lambda text: counted(plain_money(text)),
    "money_double": lambda text: pack_double(float(plain_money(text))),
    "bit": lambda text: _BITS[text],
    "bits": bits,
    "bytea": lambda text: counted(unhex(text)),
    "bytea_base64": lambda text: counted(base64.b64encode(unhex(text))),
    "bytea_base64-url-safe": lambda text: counted(base64.urlsafe_b64encode(unhex(text))),
    "bytea_hex": lambda text: counted(unhex(text).hex().encode()),
    "hstore_json": hstore_json,
    "hstore_map": hstore_map,
    "interval": lambda text: checked_long(literals.interval_micros(text.decode())),
    "interval_iso": lambda text: counted(literals.interval_iso(text.decode()).encode()),
    "point": point,
    "date": date,
    "time_us": time_us,
    "time_ms": time_ms,
    "timestamp_us": timestamp_us,
    "timestamp_ms": timestamp_ms,
    "time_ns": time_ns,
    "timestamp_ns": timestamp_ns,
    "zoned_time": zoned_time,
    "date_iso": clock_iso,
    "time_iso": clock_iso,
    "timestamp_iso": clock_iso,
}
_PARAMETRIC: Final[dict[str, Callable[[Mapped], Codec]]] = {
    "decimal": decimal,
    "money": money,
    "zoned": zoned,
    "label": label,
    "array": array,
}
MEMOISED: Final = frozenset({"decimal", "date", "variable", "time_ms"})
"""Codecs whose texts come again often enough to be worth remembering."""


def codec_of(mapped: Mapped) -> Codec:
    """The codec of a column or an array item."""
    plain = _PLAIN.get(mapped.codec)
    return plain if plain is not None else _PARAMETRIC[mapped.codec](mapped)
