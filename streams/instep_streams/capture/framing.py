"""From encoded changes to the Kafka records of a batch."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from instep.change import POSITION_HEADER, Op, Position
from instep_schemas.encode import Record as Encoded
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import CREATE, DELETE, READ, TRUNCATE, UPDATE, Batch, Headers, Record
from instep_streams.capture.tables import CapturedTable

_KIND: Final = {Op.READ: READ, Op.CREATE: CREATE, Op.UPDATE: UPDATE, Op.DELETE: DELETE}


def add_change(
    batch: Batch, table: CapturedTable, op: Op, encoded: list[Encoded], position: Position, largest: int,
    context: Headers | None = None, skipped: Collection[Op] = (),
) -> None:  # fmt: skip
    """Add one change: its Kafka records, and what the journal counts.

    Args:
        batch: gets it.
        table: whose row it is.
        op: what happened to the row.
        encoded: its records.
        position: goes along as a header.
        largest: bytes of the largest value that Kafka takes.
        context: Debezium's headers, in place of the position.
        skipped: halves of a key change that are not written.

    Raises:
        Unencodable: a record is too large for Kafka; nothing is added.
    """
    header: Headers = [(POSITION_HEADER, position.pack())] if context is None else context
    single = len(encoded) == 1 and encoded[0].moved is None
    if single and encoded[0].exact is None:
        key, value, _, _ = encoded[0]
        if value is not None and len(value) > largest:
            raise _too_large(len(key or b"") + len(value))
        batch.records.append(Record(table.topic, key, value, -1, header))  # most changes
        batch.size += len(key or b"") + len(value or b"")
    else:
        _add_several(batch, table, encoded, header, largest, context)
    if op is Op.UPDATE and not single:
        # a key change is a delete and a create, as far as the settings want them
        for half in (Op.DELETE, Op.CREATE):
            if half not in skipped:
                batch.count(table.name, _KIND[half])
    else:
        batch.count(table.name, _KIND[op])
    batch.schema_ids |= table.ids


def _add_several(
    batch: Batch, table: CapturedTable, encoded: list[Encoded], header: Headers, largest: int, context: Headers | None
) -> None:
    values = [len(value or b"") + (0 if exact is None else len(exact[1])) for _, value, _, exact in encoded]
    size = sum(values) + sum(len(each.key or b"") for each in encoded)
    if any(each > largest for each in values):
        raise _too_large(size)
    for key, value, moved, exact in encoded:
        headers = header if exact is None else [*header, exact]
        if moved is not None:
            headers = [*headers, moved] if context is None else [moved, *headers]
        batch.records.append(Record(table.topic, key, value, -1, headers))
    batch.size += size


def _too_large(size: int) -> Unencodable:
    return Unencodable("", f"its record of {size} bytes is larger than Kafka's message.max.bytes allows")


def add_truncate(
    batch: Batch, table: CapturedTable, value: bytes, position: Position, context: Headers | None = None
) -> None:
    """Add a TRUNCATE: one keyless record in every partition, since each has its own order; Debezium writes only one."""
    headers: Headers = [(POSITION_HEADER, position.pack())] if context is None else context
    for partition in range(table.partitions if context is None else 1):
        batch.records.append(Record(table.topic, None, value, partition if context is None else -1, headers))
        batch.size += len(value)
    batch.count(table.name, TRUNCATE)
    batch.schema_ids |= table.ids
