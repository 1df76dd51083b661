"""Avro records that every envelope has: where a change comes from, and its place in its transaction (pure)."""

from __future__ import annotations

from typing import Any, Final

from instep_schemas.mapping import Avro, named

SNAPSHOT_MARKERS: Final = "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"

_LONG: Final = ["null", "long"]
_TEXT: Final = ["null", "string"]


def with_default(avro: Avro, default: object) -> dict[str, Any]:
    """Put `connect.default` where Connect's converter puts it: before the name and the 16-bit mark."""
    if isinstance(avro, str):
        return {"type": avro, "connect.default": default}
    later = ("connect.name", "connect.type", "logicalType")
    first = {name: value for name, value in avro.items() if name not in later}
    return {**first, "connect.default": default, **{name: avro[name] for name in later if name in avro}}


def source_record() -> dict[str, Any]:
    """Where a record comes from."""
    snapshot = named("string", "io.debezium.data.Enum", {"allowed": SNAPSHOT_MARKERS})
    optional: dict[str, list[str]] = {
        "txId": _LONG, "lsn": _LONG, "xmin": _LONG, "origin": _TEXT, "origin_lsn": _LONG,
    }  # fmt: skip
    return connect_record(
        "io.debezium.connector.postgresql",
        "Source",
        [
            *({"name": name, "type": "string"} for name in ("version", "connector", "name")),
            {"name": "ts_ms", "type": "long"},
            {"name": "snapshot", "type": [with_default(snapshot, "false"), "null"], "default": "false"},
            {"name": "db", "type": "string"},
            {"name": "sequence", "type": _TEXT, "default": None},
            {"name": "ts_us", "type": _LONG, "default": None},
            {"name": "ts_ns", "type": _LONG, "default": None},
            {"name": "schema", "type": "string"},
            {"name": "table", "type": "string"},
            *({"name": name, "type": avro, "default": None} for name, avro in optional.items()),
        ],
    )


def transaction_record() -> dict[str, Any]:
    """A record's place in its source transaction."""
    fields = [
        {"name": "id", "type": "string"},
        {"name": "total_order", "type": "long"},
        {"name": "data_collection_order", "type": "long"},
    ]
    return connect_record("event", "block", fields)


def connect_record(namespace: str, name: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """A record under a Connect name, version 1."""
    return {
        "type": "record",
        "name": name,
        "namespace": namespace,
        "fields": fields,
        "connect.version": 1,
        "connect.name": f"{namespace}.{name}",
    }
