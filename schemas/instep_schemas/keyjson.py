"""A Kafka key as JSON text, as Kafka Connect's JSON converter writes it: for the headers of a key change."""

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
