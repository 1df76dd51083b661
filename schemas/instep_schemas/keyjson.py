"""A Kafka key as JSON text and back, as Kafka Connect's JSON converter writes it: the headers of a key change.

Bytes are base64, decimals numbers with all their digits, dates and times the numbers that Avro holds; Connect's own
(time.precision.mode=connect) are its texts, without quotes, which no JSON reader takes back.
"""

from __future__ import annotations

import base64
import json
import struct
from decimal import Context, Decimal
from typing import Any, Final

from instep_schemas import javatext
from instep_schemas.standins import kind_of
from instep_schemas.values import twos_complement
from instep_schemas.varint import counted, long, read_long

_EXACT: Final = Context(prec=200_000, Emax=999_999, Emin=-999_999)
_DAY_MS: Final = 86_400_000
_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}


def key_json(schema: dict[str, Any], body: bytes) -> bytes:
    """The key record's Avro body as compact JSON; `schema` with every record spelled out."""
    return _read(schema, body, 0)[0].encode()


def key_body(schema: dict[str, Any], text: bytes) -> bytes:
    """The Avro body of what `key_json` wrote.

    Raises:
        ValueError: not such a text.
    """
    try:
        return _write(schema, json.loads(text, parse_float=Decimal, strict=False))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a key of this schema") from exc


def _read(avro: Any, data: bytes, at: int) -> tuple[str, int]:
    """JSON text, and where the next value begins."""
    if isinstance(avro, list):  # only a key that a setting chose has nullable columns
        branch = avro[data[at] >> 1]
        return ("null", at + 1) if branch == "null" else _read(branch, data, at + 1)
    kind, name = kind_of(avro)
    if kind in ("int", "long"):
        whole, at = read_long(data, at)
        if name.startswith("org.apache.kafka.connect.data."):
            return javatext.moment(whole * (_DAY_MS if name.endswith(".Date") else 1)), at
        return str(whole), at
    if kind in ("string", "bytes"):
        size, at = read_long(data, at)
        return _content(avro, kind, data[at : at + size]), at + size
    if kind == "boolean":
        return "true" if data[at] else "false", at + 1
    if kind in _FLOATS:
        value = _FLOATS[kind].unpack_from(data, at)[0]
        return javatext.number(value, single=kind == "float"), at + _FLOATS[kind].size
    if kind == "record":
        shown = []
        for field in avro["fields"]:
            text, at = _read(field["type"], data, at)
            shown.append(f"{_quoted(field['name'])}:{text}")
        return f"{{{','.join(shown)}}}", at
    return _read_array(avro["items"], data, at)


def _content(avro: Any, kind: str, content: bytes) -> str:
    if kind == "string":
        return _quoted(content.decode())
    if isinstance(avro, dict) and avro.get("logicalType") == "decimal":
        return str(Decimal(int.from_bytes(content, "big", signed=True)).scaleb(-avro.get("scale", 0), _EXACT))
    return _quoted(base64.b64encode(content).decode())


def _quoted(text: str) -> str:
    """Debezium escapes nothing else: control characters stand in the text as they are."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _read_array(item: Any, data: bytes, at: int) -> tuple[str, int]:
    items: list[str] = []
    count, at = read_long(data, at)
    for _ in range(count):
        text, at = _read(item, data, at)
        items.append(text)
    return f"[{','.join(items)}]", at + 1 if count else at


def _write(avro: Any, value: Any) -> bytes:
    if isinstance(avro, list):
        null = avro.index("null")
        return bytes((null << 1,)) if value is None else bytes((1 - null << 1,)) + _write(avro[1 - null], value)
    kind = kind_of(avro)[0]
    if kind in ("int", "long"):
        return long(value)
    if kind == "string":
        return counted(value.encode())
    if kind == "bytes" and isinstance(avro, dict) and avro.get("logicalType") == "decimal":
        # base64 in headers of the first version of this module
        if not isinstance(value, str):
            return counted(twos_complement(int(Decimal(value).scaleb(avro.get("scale", 0), _EXACT))))
    if kind == "bytes":
        return counted(base64.b64decode(value, validate=True))
    if kind == "boolean":
        return b"\x01" if value else b"\x00"
    if kind in _FLOATS:
        return _FLOATS[kind].pack(float(value))
    if kind == "record":
        return b"".join(_write(field["type"], value[field["name"]]) for field in avro["fields"])
    items = b"".join(_write(avro["items"], each) for each in value)
    return long(len(value)) + items + b"\x00" if value else b"\x00"
