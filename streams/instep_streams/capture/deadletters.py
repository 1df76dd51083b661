"""What capture cannot encode goes to `<source>.__dead`, in the same Kafka transaction, with the reason."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from instep.change import ABSENT, POSITION_HEADER, Op, Position
from instep.topics import capture_dead_letter_topic
from instep_connectors.postgres.pgoutput import RawRow
from instep_schemas import records
from instep_schemas.wire import Unencodable
from instep_streams.capture.batch import REJECTED, Batch, Record
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.withheld import StoppedEncoder, Withheld, held_record

log = logging.getLogger(__name__)


class DeadLetters:
    """Writes dead letters.

    Args:
        source: the source's name.
        schema_id: registry id of `dead_letter.avsc`.
        largest: a row of more bytes is left out; table, key and position still tell which it is.
    """

    def __init__(self, source: str, schema_id: int, largest: int) -> None:
        self._source = source
        self._topic = capture_dead_letter_topic(source)
        self._schema_id = schema_id
        self._largest = largest

    def _record(
        self,
        table: CapturedTable,
        position: Position,
        op: Op,
        old: RawRow | None,
        new: RawRow | None,
        fault: Unencodable,
    ) -> Record:
        """The record of one refused change; the row goes along as JSON text, so that nothing is lost.

        A withheld change that is too large to wait is refused, too.
        """
        if isinstance(fault, Withheld):
            held = held_record(self._source, table, position, op, old, new, fault)
            size = len(held.value or b"")
            if size <= self._largest:
                return held
            if fault.description is not None and isinstance(table.encoder, StoppedEncoder):
                table.encoder.describe_again()
            fault = Unencodable(
                "", f"the table is stopped, and its record of {size} bytes is larger than message.max.bytes allows"
            )
        log.error("%s: a change at %s goes to %s: %s", table.name, position, self._topic, fault)
        names = [column.name for column in table.encoder.relation.columns]
        row = {"op": op.value, "before": _texts(names, old), "after": _texts(names, new)}
        document = json.dumps(row, ensure_ascii=False).encode()
        body = records.encode(
            "dead_letter",
            {
                "target": self._source,
                "flow": table.name,
                "key": _key(table, names, new if new is not None else old),
                "version": position.lsn,
                "code": "UNENCODABLE" if fault.column else "TOO_LARGE",
                "field": fault.column or None,
                "message": fault.reason,
                "attempts": 1,
                "at_us": time.time_ns() // 1000,
                "topic": table.topic,
                "partition": -1,
                "offset": -1,
                "document": document if len(document) < self._largest else None,
            },
        )
        value = records.frame(self._schema_id, body)
        return Record(self._topic, table.name.encode(), value, -1, [(POSITION_HEADER, position.pack())])

    def add(
        self, batch: Batch, table: CapturedTable, position: Position, op: Op, old: RawRow | None, new: RawRow | None,
        fault: Unencodable,
    ) -> None:  # fmt: skip
        """Put one refused change into a batch; a withheld one counts only when it is written."""
        record = self._record(table, position, op, old, new, fault)
        batch.records.append(record)
        batch.size += len(record.value or b"")
        if record.topic == self._topic:
            batch.count(table.name, REJECTED)


def _texts(names: list[str], row: RawRow | None) -> dict[str, Any] | None:
    """Column texts by name; absent columns are left out."""
    if row is None:
        return None
    return {
        name: value if value is None else value.decode("utf-8", "backslashreplace")
        for name, value in zip(names, row, strict=True)
        if value is not ABSENT
    }


def _key(table: CapturedTable, names: list[str], row: RawRow | None) -> list[str]:
    texts = _texts(names, row) or {}
    return [str(texts.get(name, "")) for name in table.encoder.relation.key]
