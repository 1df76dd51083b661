"""What stands where a row has no value: fillers, defaults, and the placeholder of an unchanged TOAST column."""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
import uuid
from decimal import Decimal
from typing import Any, Final

from instep.relation import Column, TypeKind
from instep_schemas import javatext
from instep_schemas.hstores import hstore_json
from instep_schemas.mapping import Avro, Mapped
from instep_schemas.values import codec_of, point
from instep_schemas.varint import counted, long, pack_double, pack_float, read_long

_ZERO_TEXT: Final = {
    "io.debezium.time.ZonedTimestamp": b"1970-01-01T00:00:00Z",
    "io.debezium.time.ZonedTime": b"00:00:00Z",
    "io.debezium.time.IsoDate": b"1970-01-01Z",
    "io.debezium.time.IsoTime": b"00:00:00Z",
    "io.debezium.time.IsoTimestamp": b"1970-01-01T00:00:00Z",
    "io.debezium.time.Interval": b"P0Y0M0DT0H0M0S",
}
_ZERO: Final = {"int": b"\x00", "long": b"\x00", "boolean": b"\x00", "float": bytes(4), "double": bytes(8)}
_ZERO_DECIMAL: Final = b"\x02\x00"

_LITERAL = re.compile(r"B?'((?:[^']|'')*)'(?:::[\w .,\"\[\]()]+)?")
_QUOTED = re.compile(r"'((?:[^']|'')*)'")
_TEXTS: Final = frozenset({"text", "varchar", "bpchar"})
_CALL = re.compile(r"\(?[A-Za-z0-9_.\"]+\(.*\).*|CURRENT_\w+.*|LOCALTIME.*", re.DOTALL)
_KEYWORD = re.compile(r"[A-Z_]+")
_PLAIN = re.compile(r"\(?(-?[0-9.]+|true|false)\)?(?:::.*)?")
_CAST_NUMBER = re.compile(r"\(|-?[0-9.]+::")
"""`(7)::bigint`, `1.5::numeric(5,2)`: Debezium does not read such numbers."""
_DATE = re.compile(rb"\d{4}-\d\d-\d\d")
_STAMP = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d.*")
_DEFAULTABLE: Final[dict[str, str]] = {
    **dict.fromkeys(("int2", "int4", "int8", "numeric", "float4", "float8"), "0"),
    **dict.fromkeys(("bpchar", "varchar", "text"), ""),
    **dict.fromkeys(("json", "jsonb"), "{}"),
    "bool": "f",
    "bit": "",
    "varbit": "",
    "xml": "",
    "enum": "",
    "uuid": "00000000-0000-0000-0000-000000000000",
    "date": "1970-01-01",
    "time": "00:00:00",
    "timestamp": "1970-01-01 00:00:00",
    "timestamptz": "1970-01-01 00:00:00+00",
    "interval": "00:00:00",
}
"""Types whose defaults reach the schema, with the text that a computed default (`now()`) is shown as."""


_JAVA_INFINITIES: Final = {
    ("date", b"infinity"): long(169_560_311),
    ("date", b"-infinity"): long(-170_999_002),
    ("timestamp_us", b"infinity"): long(-9_223_372_036_853_775_810),
    ("timestamp_us", b"-infinity"): long(-1 << 63),
    ("date_iso", b"infinity"): counted(b"+999999999-12-31Z"),
    ("date_iso", b"-infinity"): counted(b"-999999999-01-01Z"),
    ("timestamp_iso", b"infinity"): counted(b"+999999999-12-31T23:59:59.999999999Z"),
    ("timestamp_iso", b"-infinity"): counted(b"-999999999-01-01T00:00:00Z"),
}
"""What Debezium's schema shows of an infinite default, by codec: Java's last and first day, with what overflows."""


def kind_of(avro: Avro) -> tuple[str, str]:
    """Avro's type name and the Connect name (empty for none)."""
    if isinstance(avro, str):
        return avro, ""
    return avro["type"], avro.get("connect.name", "")


def zero(mapped: Mapped) -> bytes:
    """The bytes Debezium fills a NOT NULL column with when it does not know the value."""
    kind, name = kind_of(mapped.avro)
    if mapped.codec in ("numeric_text", "money_text"):
        return counted(f"{0:.{max(mapped.scale, 0)}f}".encode())
    if mapped.codec == "hstore_json":
        return hstore_json(b"")
    if name == "io.debezium.data.VariableScaleDecimal":
        return b"\x00" + _ZERO_DECIMAL
    if name == "org.apache.kafka.connect.data.Decimal":
        return _ZERO_DECIMAL
    if name == "io.debezium.data.geometry.Point":
        return point(b"(0,0)")
    if kind == "string":
        return counted(_ZERO_TEXT.get(name, b""))
    return _ZERO.get(kind, b"\x00")


def unchanged(mapped: Mapped, text: str) -> bytes | None:
    """The bytes of an unchanged TOAST column, as `placeholder`; of an hstore Debezium makes an object's only pair."""
    return counted(pair(text).encode()) if mapped.codec == "hstore_json" else placeholder(mapped.avro, text)


def pair(text: str) -> str:
    """What an unchanged hstore is as JSON: the placeholder, under itself."""
    return json.dumps({text: text}, ensure_ascii=False, separators=(",", ":"))


def placeholder(avro: Avro, text: str) -> bytes | None:
    """The bytes of an unchanged TOAST column; None for types that are never toasted and cannot say so."""
    kind, name = kind_of(avro)
    content = text.encode()
    if name == "io.debezium.data.VariableScaleDecimal":
        return b"\x00" + counted(content)
    if name.startswith("io.debezium.time."):
        return None
    if kind in ("string", "bytes"):
        return counted(content)
    if kind == "map":
        return long(1) + counted(content) + b"\x02" + counted(content) + b"\x00"
    if kind == "array" and isinstance(avro, dict):
        strict = not isinstance(avro["items"], list)
        items = _placeholder_items(avro["items"] if strict else avro["items"][1], content)
        some = b"" if strict else b"\x02"
        return long(len(items)) + b"".join(some + item for item in items) + b"\x00"
    return None


def _placeholder_items(avro: Avro, content: bytes) -> list[bytes]:
    kind, name = kind_of(avro)
    if name == "io.debezium.data.Uuid":
        return [counted(str(_uuid3(content)).encode())]
    if kind in ("int", "long"):
        return [long(byte) for byte in content]
    if kind == "float":
        return [pack_float(byte) for byte in content]
    if kind == "double":
        return [pack_double(byte) for byte in content]
    if kind == "boolean":
        return [bytes((byte >> shift & 1,)) for byte in content for shift in range(8)]
    if kind == "record":
        return [b"\x00" + counted(content)]
    return [counted(content)]


def _uuid3(content: bytes) -> uuid.UUID:
    """Java's UUID.nameUUIDFromBytes: version 3 without a namespace."""
    return uuid.UUID(bytes=hashlib.md5(content, usedforsecurity=False).digest(), version=3)


def default_text(column: Column, base: str) -> bytes | None:
    """The column's default as PostgreSQL text; None when it has none, or one that the schema does not show."""
    expression = column.default
    zero_text = _DEFAULTABLE.get(base)
    if expression is None or zero_text is None:
        return None
    constant = None if _CAST_NUMBER.match(expression) else constant_default(column)
    if constant is not None:
        # of an enum's label Debezium leaves the quotes doubled
        return (constant.replace("'", "''") if base == "enum" else constant).encode()
    if base in _TEXTS and _KEYWORD.fullmatch(expression):  # CURRENT_USER: Debezium takes it for the text itself
        return expression.encode()
    if _CALL.fullmatch(expression) or base in ("bool", "bit"):
        return zero_text.encode()
    quoted = _QUOTED.search(expression)
    if quoted is not None:
        return quoted[1].replace("''", "'").encode()
    return expression.encode() if base in _TEXTS else None  # of `(7)::text` Debezium takes all for the text


def constant_default(column: Column) -> str | None:
    """A default that is a plain constant, as PostgreSQL text; None for computed ones and for none."""
    literal = _LITERAL.fullmatch(column.default or "")
    if literal is not None:
        return literal[1].replace("''", "'")
    plain = _PLAIN.fullmatch(column.default or "")
    return None if plain is None else plain[1]


def default_bytes(column: Column, mapped: Mapped, *, java: bool = False) -> bytes | None:
    """The default's Avro bytes; None for no default that the schema could show.

    Args:
        column: whose default it is.
        mapped: its way onto the wire.
        java: infinite dates and times are what Debezium shows of them.
    """
    text = default_text(column, mapped.base)
    if text is not None:
        text = _moment(text, mapped.base)
    if text is None or (mapped.codec == "variable" or column.type.kind is TypeKind.DOMAIN):
        return None  # the schema of a record shows none; Debezium reads none of a domain's column
    if mapped.codec == "numeric_text" and mapped.scale > 0:
        text = f"{Decimal(text.decode()):.{mapped.scale}f}".encode()
    if java and text in (b"infinity", b"-infinity") and mapped.base in ("date", "timestamp", "timestamptz"):
        return _JAVA_INFINITIES.get((mapped.codec, text))
    try:
        return codec_of(mapped)(text)
    except (ValueError, KeyError, IndexError):
        return None


def _moment(text: bytes, base: str) -> bytes:
    """A date where a timestamp is meant, or the other way round, as what is meant."""
    if base == "date" and _STAMP.fullmatch(text):
        return text[:10]
    return text + b" 00:00:00" if base == "timestamp" and _DATE.fullmatch(text) else text


def json_default(avro: Avro, encoded: bytes) -> Any:
    """An encoded value as Avro's JSON default; None for records, arrays and maps."""
    kind, _ = kind_of(avro)
    if kind in ("int", "long"):
        return read_long(encoded, 0)[0]
    if kind == "boolean":
        return encoded == b"\x01"
    if kind in ("float", "double"):
        value = struct.unpack("<f" if kind == "float" else "<d", encoded)[0]
        return value if math.isfinite(value) else javatext.number(value)
    if kind in ("string", "bytes"):
        size, at = read_long(encoded, 0)
        return encoded[at : at + size].decode("utf-8" if kind == "string" else "latin-1")
    return None
