"""Instep's own Kafka records (`avro/*.avsc`) to and from bytes, framed as the registry's clients expect."""

from __future__ import annotations

import io
import json
import struct
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro

from instep.change import Position
from instep.journal import Counts, JournalEntry

_PREFIX = struct.Struct(">BI")


@cache
def schema_text(name: str) -> str:
    """The Avro schema of one of our records, `journal_entry`, as compact JSON for the registry."""
    text = files("instep_schemas").joinpath("avro", f"{name}.avsc").read_text(encoding="utf-8")
    return json.dumps(json.loads(text), separators=(",", ":"))


@cache
def _parsed(name: str) -> Any:
    return fastavro.parse_schema(json.loads(schema_text(name)))


def frame(schema_id: int, body: bytes) -> bytes:
    """Confluent's wire format: a zero byte, the id as big-endian int32, the Avro body."""
    return _PREFIX.pack(0, schema_id) + body


def unframe(data: bytes) -> tuple[int, bytes]:
    """Give schema id and Avro body.

    Raises:
        ValueError: not in Confluent's wire format.
    """
    if len(data) < 5 or data[0] != 0:
        raise ValueError("not in the registry's wire format: no zero byte and schema id in front")
    return _PREFIX.unpack_from(data)[1], data[5:]


def encode(name: str, record: dict[str, Any]) -> bytes:
    """The Avro body (unframed) of one of our records."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, _parsed(name), record)
    return out.getvalue()


def decode(name: str, body: bytes) -> dict[str, Any]:
    """Read what `encode` wrote."""
    record = fastavro.schemaless_reader(io.BytesIO(body), _parsed(name), None)
    assert isinstance(record, dict)
    return record


def encode_journal(entry: JournalEntry) -> bytes:
    """The Avro body of a journal entry."""
    return encode(
        "journal_entry",
        {
            "source": entry.source,
            "batch": entry.batch,
            "epoch": entry.epoch,
            "system": entry.system,
            "timeline": entry.timeline,
            "first": {"lsn": entry.first.lsn, "seq": entry.first.seq},
            "last": {"lsn": entry.last.lsn, "seq": entry.last.seq},
            "first_commit_us": entry.first_commit_us,
            "last_commit_us": entry.last_commit_us,
            "partitions": [
                {"topic": topic, "partition": number, "start": entry.starts[topic, number], "end": end}
                for (topic, number), end in entry.ends.items()
            ],
            "counts": {
                table: {name: getattr(counts, name) for name in Counts.__slots__}
                for table, counts in entry.counts.items()
            },
            "schema_ids": list(entry.schema_ids),
            "more": entry.more,
            "snapshot": entry.snapshot,
            "snapshot_state": entry.snapshot_state,
        },
    )


def decode_journal(body: bytes) -> JournalEntry:
    """Read a journal entry from its Avro body."""
    raw = decode("journal_entry", body)
    partitions = raw.pop("partitions")
    first, last, counts = raw.pop("first"), raw.pop("last"), raw.pop("counts")
    return JournalEntry(
        **{**raw, "schema_ids": tuple(raw["schema_ids"])},
        first=Position(raw["epoch"], first["lsn"], first["seq"]),
        last=Position(raw["epoch"], last["lsn"], last["seq"]),
        starts={(p["topic"], p["partition"]): p["start"] for p in partitions},
        ends={(p["topic"], p["partition"]): p["end"] for p in partitions},
        counts={table: Counts(**each) for table, each in counts.items()},
    )
