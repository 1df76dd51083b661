"""Debezium's other topics: transaction boundaries, heartbeats, logical messages. Schemas and Avro bodies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from instep_schemas.connectrecords import connect_record, source_record, transaction_record
from instep_schemas.derive import schema_text
from instep_schemas.javatext import hash_order
from instep_schemas.varint import counted, long
from instep_schemas.wire import WireOptions

_COMMON: Final = "io.debezium.connector.common"
_POSTGRES: Final = "io.debezium.connector.postgresql"


@dataclass(frozen=True, slots=True)
class ControlSchemas:
    """Key and value schema texts of one kind of control topic."""

    key_text: str
    value_text: str


def transaction_schemas() -> ControlSchemas:
    """`<source>.transaction`."""
    counts = connect_record(
        "event",
        "collection",
        [{"name": "data_collection", "type": "string"}, {"name": "event_count", "type": "long"}],
    )
    key = connect_record(_COMMON, "TransactionMetadataKey", [{"name": "id", "type": "string"}])
    value = connect_record(
        _COMMON,
        "TransactionMetadataValue",
        [
            {"name": "status", "type": "string"},
            {"name": "id", "type": "string"},
            {"name": "event_count", "type": ["null", "long"], "default": None},
            {
                "name": "data_collections",
                "type": ["null", {"type": "array", "items": ["null", counts]}],
                "default": None,
            },
            {"name": "ts_ms", "type": "long"},
        ],
    )
    return _texts(key, value)


def heartbeat_schemas() -> ControlSchemas:
    """`__debezium-heartbeat.<source>`."""
    return _texts(
        connect_record(_COMMON, "ServerNameKey", [{"name": "serverName", "type": "string"}]),
        connect_record(_COMMON, "Heartbeat", [{"name": "ts_ms", "type": "long"}]),
    )


def message_schemas(options: WireOptions) -> ControlSchemas:
    """`<source>.message`: what `pg_logical_emit_message` wrote."""
    content = "bytes" if options.binary == "bytes" else "string"
    prefix = {"name": "prefix", "type": ["null", "string"], "default": None}
    message = connect_record(
        _POSTGRES, "Message", [prefix, {"name": "content", "type": ["null", content], "default": None}]
    )
    value = connect_record(
        _POSTGRES,
        "MessageValue",
        [
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": ["null", "long"], "default": None},
            {"name": "source", "type": source_record()},
            {"name": "transaction", "type": ["null", transaction_record()], "default": None},
            {"name": "message", "type": message},
        ],
    )
    return _texts(connect_record(_POSTGRES, "MessageKey", [prefix]), value)


def _texts(key: dict[str, Any], value: dict[str, Any]) -> ControlSchemas:
    return ControlSchemas(schema_text(key), schema_text(value))


def transaction_key(transaction: str) -> bytes:
    """Avro body of the key; `transaction` is `txId:LSN`."""
    return counted(transaction.encode())


def transaction_value(
    status: Literal["BEGIN", "END"], transaction: str, ts_ms: int, counts: Mapping[str, int] | None = None
) -> bytes:
    """Avro body of a BEGIN (no counts) or END (changes per `schema.table`, as Java's HashMap orders them)."""
    head = counted(status.encode()) + counted(transaction.encode())
    if counts is None:
        return head + b"\x00\x00" + long(ts_ms)
    tables = b"".join(b"\x02" + counted(table.encode()) + long(counts[table]) for table in hash_order(counts))
    blocks = long(len(counts)) + tables if counts else b""
    return head + b"\x02" + long(sum(counts.values())) + b"\x02" + blocks + b"\x00" + long(ts_ms)


def heartbeat_key(source: str) -> bytes:
    """Avro body of a heartbeat's key."""
    return counted(source.encode())


def heartbeat_value(ts_ms: int) -> bytes:
    """Avro body of a heartbeat."""
    return long(ts_ms)


def message_key(prefix: str) -> bytes:
    """Avro body of a logical message's key."""
    return b"\x02" + counted(prefix.encode())
