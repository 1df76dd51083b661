"""Which changes of the store made a document what it is: found afterwards, from journal, data topics and replica."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import Connection

from instep.change import ABSENT, POSITION_HEADER, Op, Position, Row
from instep.journal import JournalEntry, TopicPartition
from instep.protocols import Document, Key
from instep.settings import KafkaSettings
from instep.topics import data_topic, journal_topic
from instep_connectors.kafka import Follower, RangeReader, end_offsets, start_offsets
from instep_schemas.client import RegistryClient
from instep_schemas.decode import Envelope
from instep_streams.flows.catalog import query
from instep_streams.flows.compile import Plan
from instep_streams.flows.inbox import Inbox
from instep_streams.flows.walks import Walk

_BEHIND: Final = 200
"""Journal entries read from before the present end: a document may be younger than its entry."""
_KEPT: Final = 2_000
_MOST: Final = 10_000
"""Changes looked at for one document; a document out of more of them has no cause told."""
_COLUMN: Final = re.compile(r'"r"\."((?:[^"]|"")+)"')


@dataclass(frozen=True, slots=True)
class Cause:
    """One change that led to a document.

    Attributes:
        table: `schema.name`.
        op: what happened to the row.
        key: the row's primary key, as text.
        columns: needed columns that changed, as far as the change tells the old row; else those of the new row.
        position: of the change.
        transaction: id of the source transaction, if told.
        committed_us: its commit time.
    """

    table: str
    op: Op
    key: Key
    columns: tuple[str, ...]
    position: Position
    transaction: int | None
    committed_us: int


class Causes:
    """Finds the causes of one flow's documents. Blocking; one call at a time.

    Args:
        conn: of the replica.
        plan: of the flow.
        kafka: the brokers.
        registry: of the data topics' schemas.
        source: the source's name; it has a journal.
    """

    def __init__(
        self, conn: Connection[Any], plan: Plan, kafka: KafkaSettings, registry: RegistryClient, source: str
    ) -> None:
        self._conn, self._plan = conn, plan
        self._topics = {data_topic(source, *table.split(".", 1)): table for table in plan.tables}
        self._inbox = Inbox(kafka, registry, source)
        self._keys = {table.id: table.key for table in self._inbox.tables()}
        tp = (journal_topic(source), 0)
        (start,), (end,) = start_offsets(kafka, [tp]).values(), end_offsets(kafka, [tp]).values()
        self._journal = Follower(kafka, {tp: max(start, end - _BEHIND)})
        self._reader = RangeReader(kafka, "instep-watch")
        self._entries: deque[JournalEntry] = deque(maxlen=_KEPT)

    def close(self) -> None:
        """Disconnect."""
        self._journal.close()
        self._reader.close()
        self._inbox.close()

    def of(self, document: Document, after: Position) -> list[Cause]:
        """The changes behind `after`, up to the document's position, that lead to its key.

        Empty for a first evaluation, for a document out of too many changes, and where nothing is known of a row
        any more that led there: the old row is known as far as its replica identity tells it.
        """
        self._read_journal(document.position)
        entries = [each for each in self._entries if after < each.last <= document.position and not each.snapshot]
        if sum(each.changes for each in entries) > _MOST:
            return []
        at = [self._plan.flow.key.index(name) for name in self._plan.anchor]
        anchor = tuple(document.key[i] for i in at)
        found = [cause for entry in entries for cause in self._changes(entry, anchor)]
        return sorted(found, key=lambda each: each.position)

    def _read_journal(self, upto: Position) -> None:
        while not self._entries or self._entries[-1].last < upto:
            record = self._journal.poll(2.0)
            if record is None:
                return
            if record.value is not None:
                self._entries.append(self._inbox.entry(record))

    def _changes(self, entry: JournalEntry, anchor: Key) -> Iterator[Cause]:
        ranges: dict[TopicPartition, tuple[int, int]] = {
            tp: (entry.starts[tp], end) for tp, end in entry.ends.items() if tp[0] in self._topics
        }
        for record in self._reader.read(ranges) if ranges else ():
            if record.value is None:
                continue
            envelope, table = self._inbox.envelope(record), self._topics[record.topic]
            if envelope.op is Op.TRUNCATE or not self._leads(table, envelope, anchor):
                continue
            row = envelope.after or envelope.before or {}
            key = tuple(str(row.get(name)) for name in self._keys.get(table, ()))
            packed = dict(record.headers).get(POSITION_HEADER)
            position = Position.unpack(packed) if packed else entry.last
            columns = tuple(self._changed(table, envelope))
            if columns:
                yield Cause(table, envelope.op, key, columns, position, envelope.tx_id, envelope.ts_us)

    def _changed(self, table: str, envelope: Envelope) -> Iterator[str]:
        """Needed columns that differ; without an old row, those of the row there is."""
        before, after = envelope.before, envelope.after
        for name in self._plan.needed[table]:
            old, new = _value(before, name), _value(after, name)
            if before is None or after is None or old is ABSENT or (new is not ABSENT and old != new):
                yield name

    def _leads(self, table: str, envelope: Envelope, anchor: Key) -> bool:
        rows = [row for row in (envelope.before, envelope.after) if row is not None]
        return any(self._reaches(walk, row, anchor) for walk in self._plan.walks[table] for row in rows)

    def _reaches(self, walk: Walk, row: Row, anchor: Key) -> bool:
        names = [_COLUMN.fullmatch(each) for each in walk.image]
        if not all(names):
            return True  # an expression of the row: the replica would have to compute it; rather one cause too many
        values = [_value(row, found[1].replace('""', '"')) for found in names if found]
        texts = [each for each in values if isinstance(each, str)]
        if len(texts) < len(values):
            return False
        if walk.sql is None:
            return tuple(texts) == anchor
        try:
            return anchor in self._walked(walk.sql, texts)
        except psycopg.DataError:  # a filler that is no value of the column's type
            return False

    def _walked(self, sql: str, texts: Sequence[str]) -> list[Key]:
        return self._conn.execute(query(sql), [[each] for each in texts]).fetchall()


def _value(row: Row | None, name: str) -> Any:
    return ABSENT if row is None else row.get(name, ABSENT)
