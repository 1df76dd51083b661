"""From encoded changes to the Kafka records of a batch."""

from __future__ import annotations

from instep.change import POSITION_HEADER, Position
from instep_schemas.encode import Record as Encoded
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import TRUNCATE, Batch, Headers, Record
from instep_streams.capture.tables import CapturedTable


def framed(
    table: CapturedTable, encoded: list[Encoded], position: Position, largest: int, context: Headers | None = None
) -> tuple[list[Record], int]:
    """The Kafka records of one change, and their bytes.

    Raises:
        Unencodable: a record is too large for Kafka.
    """
    header: Headers = [(POSITION_HEADER, position.pack())] if context is None else context
    if len(encoded) == 1:
        key, value, moved = encoded[0]
        if moved is None and value is not None and len(value) <= largest:  # most changes
            return [Record(table.topic, key, value, header)], len(value) + len(key or b"")
    records, size = [], 0
    for key, value, moved in encoded:
        headers = header
        if moved is not None:
            headers = [*header, moved] if context is None else [moved, *context]
        records.append(Record(table.topic, key, value, headers))
        size += len(key or b"") + len(value or b"")
    if size > largest and any(len(value or b"") > largest for _, value, _ in encoded):
        raise Unencodable("", f"its record of {size} bytes is larger than Kafka's message.max.bytes allows")
    return records, size


def add_truncate(
    batch: Batch, table: CapturedTable, value: bytes, position: Position, context: Headers | None = None
) -> None:
    """Add a TRUNCATE: one keyless record in every partition, since each has its own order; Debezium writes only one."""
    headers: Headers = [(POSITION_HEADER, position.pack())] if context is None else context
    for partition in range(table.partitions if context is None else 1):
        batch.records.append(Record(table.topic, None, value, headers, partition if context is None else -1))
        batch.size += len(value)
    batch.count(table.name, TRUNCATE)
    batch.schema_ids |= table.ids
