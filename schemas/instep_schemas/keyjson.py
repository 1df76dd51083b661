"""A Kafka key as JSON text and back, as Kafka Connect's JSON converter writes it: the headers of a key change."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import fastavro


def key_json(schema: dict[str, Any], body: bytes) -> bytes:
    """The key record's Avro body as compact JSON; bytes as base64."""
    record = fastavro.schemaless_reader(io.BytesIO(body), fastavro.parse_schema(_physical(schema)), None)
    return json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":")).encode()


def key_body(schema: dict[str, Any], text: bytes) -> bytes:
    """The Avro body of what `key_json` wrote.

    Raises:
        ValueError: not such a text.
    """
    physical = _physical(schema)
    record = {field["name"]: _typed(field["type"], value) for field, value in _pairs(physical, json.loads(text))}
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(physical), record)
    return out.getvalue()


def _pairs(schema: dict[str, Any], record: Any) -> list[tuple[dict[str, Any], Any]]:
    if not isinstance(record, dict) or any(field["name"] not in record for field in schema["fields"]):
        raise ValueError("not a key of this schema")
    return [(field, record[field["name"]]) for field in schema["fields"]]


def _typed(avro: Any, value: Any) -> Any:
    kind = avro["type"] if isinstance(avro, dict) else avro
    if kind == "bytes":
        return base64.b64decode(value)
    if kind == "record":
        return {field["name"]: _typed(field["type"], each) for field, each in _pairs(avro, value)}
    return value


def _physical(schema: Any) -> Any:
    """Without logical types, so that decimals stay bytes and dates numbers."""
    if isinstance(schema, dict):
        return {name: _physical(value) for name, value in schema.items() if name != "logicalType"}
    if isinstance(schema, list):
        return [_physical(each) for each in schema]
    return schema


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value
