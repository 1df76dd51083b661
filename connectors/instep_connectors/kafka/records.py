"""Kafka records as we hand them around: raw bytes, headers as pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Headers = Sequence[tuple[str, bytes]]


RawRecord = tuple[str, bytes | None, bytes | None, int | None, Headers | None, int]
"""The fields of an `OutRecord`, without the cost of making one."""


class OutRecord(NamedTuple):
    """A record to produce.

    Attributes:
        topic: where to.
        key: bytes, or None.
        value: bytes; None is a tombstone.
        partition: None: murmur2 of the key, as Java's producer does.
        headers: pairs of name and bytes.
        timestamp_ms: milliseconds since the Unix epoch; 0: now.
    """

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers | None = None
    timestamp_ms: int = 0


class Record(NamedTuple):
    """A record as it was read.

    Attributes:
        topic: its topic.
        partition: its partition.
        offset: its offset.
        key: bytes, or None.
        value: bytes; None is a tombstone.
        headers: pairs of name and bytes, in their order; a header's null value is b"".
        timestamp_ms: milliseconds since the Unix epoch.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int


def from_message(message: Any) -> Record:
    """Read confluent-kafka's message, once and completely."""
    headers = message.headers()
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        message.value(),
        tuple([(name, value or b"") for name, value in headers]) if headers else (),
        message.timestamp()[1],
    )
