"""Avro as generic values, with what differs from run to run masked (README of the recordings)."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import fastavro

_SOURCE = {"ts_ms": 0, "ts_us": 0, "ts_ns": 0, "txId": 0, "lsn": 0, "sequence": "*"}
_STAMPS = ("ts_ms", "ts_us", "ts_ns")
_HASH = re.compile(r"@[0-9a-f]{6,8}\b")
_WINDOW = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-(open|close)")
_WINDOW_TIME = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z(?=\\?\")")


def _schema(text: str) -> Any:
    return fastavro.parse_schema(json.loads(text.replace('"logicalType"', '"was"')))


def decode(text: str | None, body: bytes | None) -> Any:
    if text is None or body is None:
        return None
    return fastavro.schemaless_reader(io.BytesIO(body), _schema(text), None)


def encode(text: str | None, value: Any) -> str | None:
    if text is None or value is None:
        return None
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _schema(text), value)
    return out.getvalue().hex()


def masked(value: Any, *, top: bool = False) -> Any:
    """Volatile values replaced by constants (README of the recordings)."""
    if isinstance(value, dict):
        return {key: _masked_entry(key, each, value, top) for key, each in value.items()}
    if isinstance(value, list):
        shown = [masked(each) for each in value]
        if any(isinstance(each, dict) and "@*" in str(each.get("data_collection")) for each in shown):
            shown.sort(key=lambda each: each["data_collection"])  # their order follows the hash, too
        return shown
    if isinstance(value, str):
        if "indowTimestamp" in value:
            value = _WINDOW_TIME.sub("*", value)
        return _HASH.sub("@*", _WINDOW.sub(r"*-\2", value))
    return value


def _masked_entry(name: str, value: Any, parent: dict[str, Any], top: bool) -> Any:
    if name == "source" and isinstance(value, dict) and "connector" in value:
        return {key: _SOURCE[key] if key in _SOURCE and each is not None else each for key, each in value.items()}
    if top and name in _STAMPS and value is not None:
        return 0
    if name == "transaction" and isinstance(value, dict):
        return {**value, "id": "*"}
    if name == "id" and isinstance(value, str) and re.fullmatch(r"\d+:\d+", value):
        return "*"
    return masked(value)


def check_relations(value: Any) -> None:
    """What the volatile values of our own records must agree in."""
    if not isinstance(value, dict) or not isinstance(value.get("source"), dict):
        return
    source = value["source"]
    assert source["ts_us"] // 1000 == source["ts_ms"] and source["ts_ns"] // 1000 == source["ts_us"]
    last = json.loads(source["sequence"])[1]
    assert source["lsn"] is None or last == str(source["lsn"])
    block = value.get("transaction")
    assert block is None or block["id"] == f"{source['txId']}:{source['lsn']}"
