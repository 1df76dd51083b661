"""The worker's input: journal entries, the records they point at, and the tables as the registry describes them."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple

from instep.change import POSITION_HEADER, Op, Position
from instep.errors import StateError
from instep.journal import JournalEntry
from instep.settings import KafkaSettings
from instep.topics import journal_topic, key_subject, value_subject
from instep_connectors.kafka import RangeReader, Record
from instep_schemas.client import RegistryClient
from instep_schemas.decode import (
    FRAME,
    ChangeDecoder,
    Decoder,
    Envelope,
    KeyDecoder,
    KeyTexts,
    compile_change_decoder,
    compile_decoder,
    compile_key_texts,
    decode_key_header,
)
from instep_schemas.exact import EXACT_HEADER, exact_row, restored
from instep_schemas.records import decode_journal, frame, unframe
from instep_schemas.schemaids import SchemaIds
from instep_schemas.shape import shape_of
from instep_streams.flows.catalog import Column, Table, called
from instep_streams.flows.rows import RowChange

log = logging.getLogger(__name__)

_OLD_KEY: Final = "__debezium.oldkey"
_NO_POSITION: Final = Position(0, 0, 0).pack()
_POSITION: Final = itemgetter(0)
_UNREADABLE: Final = (ValueError, LookupError, TypeError, struct.error)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How to read the records of one value schema."""

    table: str
    schema: str
    decode: ChangeDecoder


@dataclass(frozen=True, slots=True)
class _Keys:
    """How to read the keys of one key schema."""

    decode: KeyTexts
    decode_header: KeyDecoder


class Read(NamedTuple):
    """What one journal entry brings.

    Attributes:
        entry: the entry.
        changes: its changes, in source order.
        tables: tables whose definition is newer than what was seen before.
    """

    entry: JournalEntry
    changes: list[RowChange]
    tables: list[Table]


class Inbox:
    """Reads what journal entries point at. Blocking; one call at a time.

    Args:
        kafka: the brokers.
        registry: of the data topics' schemas.
        source: the source's name.
        schema: of a joined source: what flows call its schema `public` (`catalog.called`).
    """

    def __init__(self, kafka: KafkaSettings, registry: RegistryClient, source: str, schema: str = "") -> None:
        self._registry, self._source, self._schema = registry, source, schema
        self._reader = RangeReader(kafka, f"instep-worker-{source}")
        self._journal = RangeReader(kafka, f"instep-worker-{source}-journal")
        self._readers: dict[bytes, _Reader] = {}
        self._keys: dict[bytes, _Keys] = {}
        self._envelopes: dict[str, Decoder] = {}
        self._ids = SchemaIds(registry)

    def close(self) -> None:
        """Release the connections."""
        self._reader.close()
        self._journal.close()

    def tables(self) -> list[Table]:
        """Every table that capture has registered, as it is now.

        Raises:
            RegistryError, ConnectionError, TimeoutError: the registry refuses or does not answer.
        """
        start = f"{self._source}."
        topics = [each.removesuffix("-value") for each in self._registry.subjects() if each.endswith("-value")]
        own = [each for each in topics if each.startswith(start) and not each.startswith(f"{start}__")]
        return [table for topic in own if (table := self._latest(topic)) is not None]

    def table(self, topic: str) -> Table | None:
        """The table whose rows a topic holds; None for a topic of something else (`shop.transaction`)."""
        return self._latest(topic)

    def _latest(self, topic: str) -> Table | None:
        value = self._registry.latest(value_subject(topic))
        key = self._registry.latest(key_subject(topic))
        try:
            return None if value is None else self._table_of(None if key is None else key[2], value[2])
        except ValueError as exc:
            log.debug("topic %s holds no rows of a table: %s", topic, exc)
            return None

    def _table_of(self, key_text: str | None, value_text: str) -> Table:
        return called(table_of(key_text, value_text), self._schema)

    def entry(self, record: Record) -> JournalEntry:
        """Decode a journal record.

        Raises:
            StateError: the bytes are no journal entry.
        """
        try:
            return decode_journal(unframe(record.value or b"")[1])
        except (ValueError, EOFError, LookupError, TypeError, struct.error) as exc:
            raise StateError(
                f"Record {record.offset} of {record.topic} is no journal entry: {type(exc).__name__}.",
                "Only `instep capture` may write this topic.",
            ) from exc

    def journal(self, start: int, end: int) -> Iterator[Record]:
        """Journal records of an offset range: for entries that the consumer group has passed."""
        return self._journal.read({(journal_topic(self._source), 0): (start, end)})

    def read(self, entry: JournalEntry) -> Read:
        """Every change of an entry.

        Raises:
            RangeGone: retention took records.
            KafkaFault, ConnectionError, TimeoutError, RegistryError: as the reader and the registry raise.
            StateError: a record cannot be decoded.
        """
        return self.of(entry, self._reader.read({tp: (entry.starts[tp], end) for tp, end in entry.ends.items()}))

    def of(self, entry: JournalEntry, records: Iterable[Record]) -> Read:
        """The changes that an entry's records hold; raises as `read`."""
        tables: list[Table] = []
        found: list[tuple[bytes, RowChange]] = []
        for record in self._ids.prefixed(records):
            told = dict(record.headers)
            if record.value is None:
                continue  # the tombstone behind a delete
            reader = self._readers.get(record.value[:FRAME])
            if reader is None:
                reader, newer = self._value_reader(record)
                tables += newer
            change = self._change(record, record.value, reader, told)
            if change is not None:
                found.append((told.get(POSITION_HEADER, _NO_POSITION), change))
        found.sort(key=_POSITION)  # packed positions sort as positions do; per key the offsets decide
        return Read(entry, [change for _, change in found], tables)

    def envelope(self, record: Record) -> Envelope:
        """What a data record says of its change; raises as `read`."""
        (record,) = self._ids.prefixed([record])
        reader, _ = self._value_reader(record)
        decode = self._envelopes.get(reader.schema)
        if decode is None:
            decode = self._envelopes[reader.schema] = compile_decoder(reader.schema)
        try:
            return restored(decode(_unframed(record, record.value)[1]), record.headers)
        except _UNREADABLE as exc:
            raise _undecodable(record, exc) from exc

    def _value_reader(self, record: Record) -> tuple[_Reader, list[Table]]:
        """The reader of a record's schema, and the tables whose definition is newer than what was seen before."""
        schema_id, _ = _unframed(record, record.value)
        prefix = frame(schema_id, b"")
        known = self._readers.get(prefix)
        if known is not None:
            return known, []
        text = self._registry.schema(schema_id)
        try:
            reader = _Reader(self._table_of(None, text).id, text, compile_change_decoder(text))
        except ValueError as exc:
            raise _undecodable(record, exc) from exc
        latest = self._latest(record.topic)
        self._readers[prefix] = reader
        return reader, [] if latest is None else [latest]

    def _change(self, record: Record, value: bytes, reader: _Reader, told: dict[str, Any]) -> RowChange | None:
        try:
            op, row = reader.decode(value)
            if op is Op.TRUNCATE:
                return RowChange(reader.table, op, ())
            if row is not None and EXACT_HEADER in told:
                row = exact_row(row, told[EXACT_HEADER])
            if record.key is None:
                return None  # a keyless table: no flow can read it
            keys = self._keys.get(record.key[:FRAME]) or self._key_reader(record)
            old = told.get(_OLD_KEY)
            moved = None if old is None else tuple(keys.decode_header(old).values())
            return RowChange(reader.table, op, keys.decode(record.key), row, moved)
        except _UNREADABLE as exc:
            raise _undecodable(record, exc) from exc

    def _key_reader(self, record: Record) -> _Keys:
        schema_id, _ = _unframed(record, record.key)
        text = self._registry.schema(schema_id)
        keys = self._keys[frame(schema_id, b"")] = _Keys(compile_key_texts(text), decode_key_header(text))
        return keys


def table_of(key_text: str | None, value_text: str) -> Table:
    """The table that two schemas describe; raises ValueError when they are not those of a table."""
    shape = shape_of(key_text, value_text)
    columns = tuple(
        Column(each.name, each.type, each.not_null, each.default, each.labels, each.base) for each in shape.columns
    )
    return Table(shape.schema, shape.table, columns, shape.key)


def _unframed(record: Record, data: bytes | None) -> tuple[int, bytes]:
    try:
        return unframe(data or b"")
    except ValueError as exc:
        raise _undecodable(record, exc) from exc


def _undecodable(record: Record, exc: Exception) -> StateError:
    return StateError(
        f"Record {record.offset} of {record.topic} [{record.partition}] cannot be read: {type(exc).__name__}.",
        "Only `instep capture` may write this topic; its schemas must be in the registry.",
    )
