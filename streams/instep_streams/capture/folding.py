"""Fold one data topic to the rows it leaves, and check it against the journal while reading. For the audit."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from instep.change import ABSENT, POSITION_HEADER, Op, Position, Row
from instep.journal import Counts, JournalEntry, TopicPartition
from instep_connectors.kafka import Record
from instep_schemas.client import RegistryClient
from instep_schemas.decode import Decoder, Envelope, compile_decoder
from instep_schemas.encode import NEW_KEY, OLD_KEY
from instep_schemas.exact import restored
from instep_schemas.records import unframe
from instep_schemas.schemaids import SchemaIds
from instep_streams.capture.batch import COUNTED

FoldedRow = dict[str, str | None]

_COUNTER = {"r": "read", "c": "create", "u": "update", "d": "delete", "t": "truncate"}


class Schemas:
    """Decoders by registry id."""

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry
        self._values: dict[int, Decoder] = {}
        self.prefixed = SchemaIds(registry).prefixed

    def envelope(self, record: Record) -> Envelope:
        """Decode a record that is no tombstone."""
        schema_id, body = unframe(record.value or b"")
        if schema_id not in self._values:
            self._values[schema_id] = compile_decoder(self._registry.schema(schema_id))
        return restored(self._values[schema_id](body), record.headers)

    def close(self) -> None:
        """Close the registry's connections."""
        self._registry.close()


class Coverage:
    """Which journal entry a record belongs to, and what the entries count."""

    def __init__(self, journal: Sequence[JournalEntry]) -> None:
        self.last = journal[-1].last if journal else Position(0, 0)
        """Records behind this position were written after the journal was read."""
        self._ranges: dict[TopicPartition, list[tuple[int, int, int]]] = {}
        self._expected: dict[tuple[int, str], Counts] = {}
        for entry in journal:
            for at, end in entry.ends.items():
                self._ranges.setdefault(at, []).append((entry.starts[at], end, entry.batch))
            for table, counts in entry.counts.items():
                self._expected[entry.batch, table] = counts

    def batch(self, at: TopicPartition, offset: int) -> int | None:
        """Number of the entry that covers this record; None: no entry does."""
        ranges = self._ranges.get(at, [])
        index = bisect_right(ranges, (offset, 1 << 63, 0)) - 1
        if index < 0 or offset >= ranges[index][1]:
            return None
        return ranges[index][2]

    def check(self, table: str, found: Counter[tuple[int, str]]) -> Iterator[str]:
        """Say where an entry's counts differ from the records found in its ranges."""
        batches = {batch for batch, name in self._expected if name == table} | {batch for batch, _ in found}
        for batch in sorted(batches):
            expected = self._expected.get((batch, table), Counts())
            for name in COUNTED[:-1]:  # dead letters are in another topic
                if found[batch, name] != getattr(expected, name):
                    yield (
                        f"{table}: journal entry {batch} counts {getattr(expected, name)} {name}s, "
                        f"its records {found[batch, name]}"
                    )

    def unread(self, tables: Collection[str]) -> Iterator[str]:
        """Say which counted tables nobody asked for."""
        for table in sorted({table for _, table in self._expected} - set(tables)):
            yield f"{table}: the journal counts changes of it, but it is not captured any more"


class _Change(NamedTuple):
    position: Position
    later: bool
    record: Record
    envelope: Envelope


class TableFold:
    """One table's rows, folded from its topic. Holds the topic's changes in memory.

    Args:
        table: `schema.table`.
        schemas: decoders.
        coverage: of the journal.
        problem: called with each fault found.
    """

    def __init__(self, table: str, schemas: Schemas, coverage: Coverage, problem: Callable[[str], None]) -> None:
        self._table = table
        self._schemas = schemas
        self._coverage = coverage
        self._problem = problem
        self._rows: dict[bytes, tuple[int, FoldedRow]] = {}
        self._keyless: Counter[tuple[tuple[str, str | None], ...]] = Counter()
        self._gone: dict[bytes, FoldedRow] = {}
        self._copied = False
        self.records = 0

    def rows(self) -> list[FoldedRow]:
        """What the changes leave."""
        return [row for _, row in self._rows.values()] + [dict(row) for row in self._keyless.elements()]

    def read(self, records: Iterable[Record], upto: int) -> None:
        """Check every record, then fold those committed below the LSN `upto`."""
        changes: list[_Change] = []
        before: dict[int, _Change] = {}
        found: Counter[tuple[int, str]] = Counter()
        seen: set[tuple[Position, int, bytes | None, str]] = set()
        for record in self._schemas.prefixed(records):
            headers = dict(record.headers)
            position = Position.unpack(headers[POSITION_HEADER])
            if position > self._coverage.last:
                continue
            self.records += 1
            batch = self._covered(record)
            previous = before.get(record.partition)
            if record.value is None:
                self._check_tombstone(record, previous)
                continue
            envelope = self._schemas.envelope(record)
            change = _Change(position, OLD_KEY in headers, record, envelope)
            if previous is not None and position < previous.position:
                self._problem(f"{self._table}: {position} stands behind {previous.position} [{record.partition}]")
            before[record.partition] = change
            identity = (position, record.partition if envelope.op is Op.TRUNCATE else -1, record.key, envelope.op.value)
            if identity in seen and (record.key is not None or envelope.snapshot != "incremental"):
                self._problem(f"{self._table}: the change at {position} was written twice")
            seen.add(identity)
            if batch is not None and (envelope.op is not Op.TRUNCATE or record.partition == 0):
                found[batch, _COUNTER[envelope.op.value]] += 1
            changes.append(change)
        for text in self._coverage.check(self._table, found):
            self._problem(text)
        self._copied = any(change.envelope.snapshot == "incremental" for change in changes)
        changes.sort(key=lambda change: (change.position, change.later, change.record.partition, change.record.offset))
        for change in changes:
            if change.position < Position(self._coverage.last.epoch, upto, 0):
                self._apply(change)

    def _covered(self, record: Record) -> int | None:
        batch = self._coverage.batch((record.topic, record.partition), record.offset)
        if batch is None:
            self._problem(f"{record.topic} [{record.partition}] offset {record.offset} is in no journal entry")
        return batch

    def _check_tombstone(self, record: Record, previous: _Change | None) -> None:
        if previous is None or previous.envelope.op is not Op.DELETE or previous.record.key != record.key:
            self._problem(f"{record.topic} [{record.partition}] offset {record.offset}: a tombstone without its delete")

    def _apply(self, change: _Change) -> None:
        record, envelope = change.record, change.envelope
        if envelope.op is Op.TRUNCATE:
            self._rows = {key: held for key, held in self._rows.items() if held[0] != record.partition}
            if record.partition == 0:
                self._keyless.clear()
        elif record.key is None:
            self._apply_keyless(envelope)
        elif envelope.op is Op.DELETE:
            self._delete(record)
        else:
            self._upsert(change)

    def _delete(self, record: Record) -> None:
        assert record.key is not None
        held = self._rows.pop(record.key, None)
        if held is None and not self._copied:  # a row that its copy has not read may be deleted
            self._problem(f"{self._table}: a delete of a row that is not there [{record.partition}] {record.offset}")
        elif held is not None and NEW_KEY in dict(record.headers):
            self._gone[dict(record.headers)[NEW_KEY]] = held[1]

    def _upsert(self, change: _Change) -> None:
        record, envelope = change.record, change.envelope
        assert record.key is not None and envelope.after is not None
        held = self._rows.get(record.key)
        again = envelope.op is Op.READ and envelope.snapshot == "incremental"
        if (held is None) == (envelope.op is Op.UPDATE) and not again:
            state = "missing" if held is None else "there already"
            self._problem(
                f"{self._table}: {envelope.op.name} of a row that is {state} [{record.partition}] {record.offset}"
            )
        base = held[1] if held else {}
        if change.later and self._gone:
            base = self._gone.popitem()[1]  # the delete of the old key came just before, at the same position
        self._rows[record.key] = (record.partition, _completed(base, envelope.after))

    def _apply_keyless(self, envelope: Envelope) -> None:
        for row, sign in ((envelope.before, -1), (envelope.after, 1)):
            if row is not None:
                self._keyless[tuple(sorted(_completed({}, row).items()))] += sign


def _completed(base: FoldedRow, row: Row) -> FoldedRow:
    """The row with unchanged TOAST columns taken from the state before."""
    return {name: base.get(name) if value is ABSENT else value for name, value in row.items()}
