"""A Kafka key as JSON text and back, as Kafka Connect's JSON converter writes it: the headers of a key change.

Bytes (decimals too) are base64, dates and times the numbers that Avro holds.
"""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

from instep_schemas.standins import kind_of
from instep_schemas.varint import counted, long, read_long

_FLOATS = {"float": struct.Struct("<f"), "double": struct.Struct("<d")}


def key_json(schema: dict[str, Any], body: bytes) -> bytes:
    """The key record's Avro body as compact JSON; `schema` with every record spelled out."""
    value, _ = _read(schema, body, 0)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def key_body(schema: dict[str, Any], text: bytes) -> bytes:
    """The Avro body of what `key_json` wrote.

    Raises:
        ValueError: not such a text.
    """
    try:
        return _write(schema, json.loads(text))
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError("not a key of this schema") from exc


def _read(avro: Any, data: bytes, at: int) -> tuple[Any, int]:
    if isinstance(avro, list):  # only a key that a setting chose has nullable columns
        branch = avro[data[at] >> 1]
        return (None, at + 1) if branch == "null" else _read(branch, data, at + 1)
    kind = kind_of(avro)[0]
    if kind in ("int", "long"):
        return read_long(data, at)
    if kind in ("string", "bytes"):
        size, at = read_long(data, at)
        content = data[at : at + size]
        return (content if kind == "string" else base64.b64encode(content)).decode(), at + size
    if kind == "boolean":
        return data[at] == 1, at + 1
    if kind in _FLOATS:
        return _FLOATS[kind].unpack_from(data, at)[0], at + _FLOATS[kind].size
    if kind == "record":
        record = {}
        for field in avro["fields"]:
            record[field["name"]], at = _read(field["type"], data, at)
        return record, at
    return _read_array(avro["items"], data, at)


def _read_array(item: Any, data: bytes, at: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    count, at = read_long(data, at)
    for _ in range(count):
        value, at = _read(item, data, at)
        items.append(value)
    return items, at + 1 if count else at


def _write(avro: Any, value: Any) -> bytes:
    if isinstance(avro, list):
        null = avro.index("null")
        return bytes((null << 1,)) if value is None else bytes((1 - null << 1,)) + _write(avro[1 - null], value)
    kind = kind_of(avro)[0]
    if kind in ("int", "long"):
        return long(value)
    if kind == "string":
        return counted(value.encode())
    if kind == "bytes":
        return counted(base64.b64decode(value, validate=True))
    if kind == "boolean":
        return b"\x01" if value else b"\x00"
    if kind in _FLOATS:
        return _FLOATS[kind].pack(value)
    if kind == "record":
        return b"".join(_write(field["type"], value[field["name"]]) for field in avro["fields"])
    items = b"".join(_write(avro["items"], each) for each in value)
    return long(len(value)) + items + b"\x00" if value else b"\x00"
