"""Kafka records of flow topics as documents on their way."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from instep.change import JOINED_HEADER, POSITION_HEADER, Position
from instep.protocols import Document, Fields, Key, Rejected
from instep_connectors.kafka import Record
from instep_schemas.documents import decode_document, decode_key
from instep_schemas.records import unframe
from instep_streams.delivery.conflate import Origin, Waiting
from instep_streams.delivery.decide import Entry, Kind

BATCH_HEADER: Final = "instep.batch"
COMMITTED_HEADER: Final = "instep.committed_us"
DIGEST_HEADER: Final = "instep.digest"

Schema = Callable[[int], str]
"""Gives the text of a schema by its registry id."""

_BROKEN: Final = (ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)


def waiting_of(record: Record, flow: str, schema: Schema) -> Waiting:
    """Decode one record of a flow topic.

    Raises:
        ValueError: the bytes are no document.
        RegistryError: the registry does not know its schema.
        ConnectionError, TimeoutError: the registry does not answer.
    """
    headers = dict(record.headers)
    try:
        version = int.from_bytes(headers[BATCH_HEADER], "big", signed=True)
        position = Position.unpack(headers[POSITION_HEADER])
        committed_us = int.from_bytes(headers.get(COMMITTED_HEADER, b""), "big", signed=True)
        digest = headers.get(DIGEST_HEADER, b"").decode("ascii")
        joined = tuple(
            (name.removeprefix(JOINED_HEADER), Position.unpack(packed))
            for name, packed in record.headers
            if name.startswith(JOINED_HEADER) and packed is not None
        )
    except (LookupError, ValueError, struct.error) as exc:
        raise ValueError(f"the headers are not those of a document: {exc!r}") from exc
    key, fields = _key(record.key, schema), _fields(record.value, schema)
    document = Document(flow, key, fields, version, position, committed_us, digest, joined)
    return Waiting(document, Origin(record.topic, record.partition, record.offset), record.value)


def _key(data: bytes | None, schema: Schema) -> Key:
    schema_id, body = unframe(data or b"")
    text = schema(schema_id)
    try:
        return decode_key(text, body)
    except _BROKEN as exc:
        raise ValueError(f"the key does not fit its schema {schema_id}: {type(exc).__name__}") from exc


def _fields(data: bytes | None, schema: Schema) -> Fields | None:
    if data is None:
        return None
    schema_id, body = unframe(data)
    text = schema(schema_id)
    try:
        return decode_document(text, body)
    except _BROKEN as exc:
        raise ValueError(f"the value does not fit its schema {schema_id}: {type(exc).__name__}") from exc


def sort_out(records: Sequence[Record], flow: str, schema: Schema) -> tuple[list[Waiting], list[tuple[Waiting, Entry]]]:
    """Decode records: the documents, and those that are none with their rejection. Raises as `waiting_of`."""
    good: list[Waiting] = []
    bad: list[tuple[Waiting, Entry]] = []
    for record in records:
        try:
            good.append(waiting_of(record, flow, schema))
        except ValueError as exc:
            bad.append(_undecodable(record, flow, exc))
    return good, bad


def _undecodable(record: Record, flow: str, exc: ValueError) -> tuple[Waiting, Entry]:
    # Nobody knows its key: its place in Kafka stands for it, so that it too has exactly one outcome.
    key = (f"{record.topic}/{record.partition}/{record.offset}",)
    document = Document(flow, key, None, record.offset, Position(0, 0))
    waiting = Waiting(document, Origin(record.topic, record.partition, record.offset), record.value)
    return waiting, Entry(document, Kind.REJECTED, 0, Rejected("DECODE", str(exc)))
