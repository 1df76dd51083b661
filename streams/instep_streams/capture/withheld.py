"""Changes of stopped tables, as they wait in `<source>.__held`: withheld from the table's topic, with all they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from instep.change import ABSENT, Op, Position
from instep.relation import Relation
from instep.settings import KafkaSettings
from instep.topics import held_topic
from instep_connectors.kafka import (
    RangeGone,
    RangeReader,
    delete_records,
    end_offsets,
    partitions,
    read_topic,
    start_offsets,
)
from instep_connectors.kafka import Record as KafkaRecord
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.recording import relation_of
from instep_schemas.encode import Record as Encoded
from instep_schemas.encode import TableEncoder
from instep_schemas.envelope import SourceBlock
from instep_schemas.wire import Unencodable, WireOptions
from instep_streams.capture.batch import Record
from instep_streams.capture.tables import CapturedTable

_RELEASED: Final = b'{"released":'


class Withheld(Unencodable):
    """A change of a table that is stopped.

    Attributes:
        source: its `source` block.
        lsn: its own LSN.
        description: the table's relation, with the first change behind a RELATION only.
    """

    def __init__(self, reason: str, source: SourceBlock, lsn: int | None, description: Relation | None) -> None:
        super().__init__("", reason)
        self.source = source
        self.lsn = lsn
        self.description = description


class StoppedEncoder(TableEncoder):
    """Encodes nothing: every change is withheld.

    Args:
        relation: the table as its rows are sent now.
        options: of the source.
        reason: why the table is stopped.
    """

    def __init__(self, relation: Relation, options: WireOptions, reason: str) -> None:
        super().__init__(relation, options, None, None)
        self._reason = reason
        self._described = False

    def goes_straight(self, op: Op) -> bool:
        """Nothing does."""
        return False

    def records(self, op: Op, before: Any, after: Any, source: SourceBlock, lsn: int | None, *_: Any) -> list[Encoded]:
        """Withhold a change.

        Raises:
            Withheld: always.
        """
        raise self._withheld(source, lsn)

    def envelope(
        self, op: Op, before: Any, after: Any, source: SourceBlock, lsn: int | None, *_: Any
    ) -> bytes:  # fmt: skip
        """Withhold a TRUNCATE.

        Raises:
            Withheld: always.
        """
        raise self._withheld(source, lsn)

    def describe_again(self) -> None:
        """Let the next change carry the relation: the one that had it is not among those that wait."""
        self._described = False

    def _withheld(self, source: SourceBlock, lsn: int | None) -> Withheld:
        description = None if self._described else self.relation
        self._described = True
        return Withheld(self._reason, source, lsn, description)


def held_record(
    source: str,
    table: CapturedTable,
    position: Position,
    op: Op,
    old: RawRow | None,
    new: RawRow | None,
    fault: Withheld,
) -> Record:
    """The record of one withheld change."""
    document = {
        "op": op.value,
        "old": _texts(old),
        "new": _texts(new),
        "position": str(position),
        "lsn": fault.lsn,
        "source": fault.source.arguments,
        "reason": fault.reason,
        "relation": None if fault.description is None else asdict(fault.description),
    }
    # a row that just fits must not grow by escapes; `surrogatepass` is how json.loads decodes
    value = json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return Record(held_topic(source), table.name.encode(), value, 0, [])


def released(source: str, table: str, end: int) -> Record:
    """The record that says that of a table nothing before `end` waits any more."""
    return Record(held_topic(source), table.encode(), json.dumps({"released": end}).encode(), 0, [])


def _texts(row: RawRow | None) -> list[str | bool | None] | None:
    """Cells as text; `false` is an unchanged TOAST value."""
    if row is None:
        return None
    return [False if cell is ABSENT else cell if cell is None else _text(cell) for cell in row]


def _text(cell: Any) -> str:
    return bytes(cell).decode("utf-8", "surrogateescape")


def raw_row(texts: list[str | bool | None] | None) -> RawRow | None:
    """What `held_record` made cells of."""
    if texts is None:
        return None
    return tuple(ABSENT if text is False else _cell(text) for text in texts)


def _cell(text: Any) -> bytes | None:
    return None if text is None else str(text).encode("utf-8", "surrogateescape")


@dataclass(slots=True)
class Waiting:
    """What waits of one table.

    Attributes:
        changes: how many.
        reason: why the table is stopped.
        first: offset of the first change that waits.
        relations: the versions of the table that the changes need, in order.
    """

    changes: int = 0
    reason: str = ""
    first: int = 0
    relations: list[Relation] = field(default_factory=list)


def waiting(kafka: KafkaSettings, source: str, *, settled: bool = True) -> dict[str, Waiting]:
    """What waits, by table; usually nothing.

    Args:
        kafka: the brokers.
        source: its name.
        settled: wait for transactions that a killed capture left open (up to a minute), as a writer must.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    try:
        return _waiting(kafka, source, settled)
    except RangeGone:  # a capture began meanwhile, and deleted what was released
        return _waiting(kafka, source, settled)


def _waiting(kafka: KafkaSettings, source: str, settled: bool) -> dict[str, Waiting]:
    gone: dict[str, int] = {}
    newest: dict[str, int] = {}
    for table, offset, value in _values(kafka, source, settled):
        if value.startswith(_RELEASED):  # it stands behind changes that it leaves waiting
            gone[table] = json.loads(value)["released"]
        else:
            newest[table] = offset
    found: dict[str, Waiting] = {}
    if all(offset < gone.get(table, 0) for table, offset in newest.items()):
        return found
    last: dict[str, Relation] = {}
    for table, offset, document in held(kafka, source, settled=settled):
        if "released" in document:
            continue
        if document["relation"] is not None:
            last[table] = relation_of(document["relation"])
        if offset < gone.get(table, 0):
            continue
        each = found.setdefault(table, Waiting(first=offset))
        each.changes += 1
        each.reason = document["reason"]
        if last[table] not in each.relations:
            each.relations.append(last[table])
    return found


def forget(kafka: KafkaSettings, source: str) -> None:
    """Delete all records, when nothing waits any more; only for who captures the source. Errors as of `waiting`."""
    at = (held_topic(source), 0)
    if not partitions(kafka, at[0]):
        return
    end = end_offsets(kafka, [at])[at]
    if start_offsets(kafka, [at])[at] < end:
        delete_records(kafka, {at: end})


def held(kafka: KafkaSettings, source: str, *, settled: bool = True) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Every record: its table, its offset, its document; arguments and errors as of `waiting`."""
    for table, offset, value in _values(kafka, source, settled):
        yield table, offset, json.loads(value)


def _values(kafka: KafkaSettings, source: str, settled: bool) -> Iterator[tuple[str, int, bytes]]:
    topic = held_topic(source)
    if not partitions(kafka, topic):
        return
    for record in read_topic(kafka, topic) if settled else _committed(kafka, topic):
        if record.key is not None and record.value is not None:
            yield record.key.decode(), record.offset, record.value


def _committed(kafka: KafkaSettings, topic: str) -> Iterator[KafkaRecord]:
    at = (topic, 0)
    reader = RangeReader(kafka)
    try:
        yield from reader.read({at: (start_offsets(kafka, [at])[at], end_offsets(kafka, [at])[at])})
    finally:
        reader.close()
