"""Prove a capture: the topics folded by key equal the store at one position, and the journal's chain has no fault.

Four checks: (1) entries are numbered densely and their positions only grow; (2) per partition the entries' offset
ranges follow one another, and every committed record lies in exactly one of them; (3) each entry's counts are those of
its records, and no change was written twice; (4) the folded rows are the store's rows.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from instep.change import format_lsn
from instep.errors import SourceError
from instep.journal import JournalEntry, TopicPartition
from instep.settings import Settings
from instep.topics import data_topic, journal_topic
from instep_connectors.kafka import read_topic, topics
from instep_connectors.postgres.publication import check_publication
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.snapshot import Snapshot
from instep_schemas.ciphers import hold
from instep_schemas.client import RegistryClient
from instep_schemas.records import decode_journal, unframe
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.folding import Coverage, FoldedRow, Schemas, TableFold
from instep_streams.capture.gap import gaps
from instep_streams.capture.kafka import last_entry
from instep_streams.capture.watermarks import MESSAGE_PREFIX
from instep_streams.capture.withheld import waiting

_MOST = 50
"""Problems told in full; the rest is counted."""


@dataclass(slots=True)
class Audit:
    """What an audit found.

    Attributes:
        position: LSN at which topics and store were compared.
        entries: journal entries.
        changes: changes they count.
        rejected: changes that went to the dead letters.
        records: data records read.
        rows: rows compared.
        faults: how many problems.
        problems: the first of them, one sentence each, without row values.
        mended: gaps that a recovery has mended, one sentence each.
    """

    position: int = 0
    entries: int = 0
    changes: int = 0
    rejected: int = 0
    records: int = 0
    rows: int = 0
    faults: int = 0
    problems: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.faults == 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {"ok": self.ok, "position": format_lsn(self.position)} | {
            name: getattr(self, name)
            for name in ("entries", "changes", "rejected", "records", "rows", "faults", "problems", "mended")
        }

    def sentence(self) -> str:
        """The finding, in one line."""
        at = format_lsn(self.position)
        seen = f"{self.rows} rows, {self.records} records and {self.entries} journal entries at {at}"
        if not self.ok:
            return f"{self.faults} problems in {seen}."
        rejected = f"; {self.rejected} changes wait in the dead letters" if self.rejected else ""
        chain = f"; {len(self.mended)} mended: {'; '.join(self.mended)}" if self.mended else "; no gap"
        return f"The topics equal the store: {seen}{chain}, no overlap, counts right{rejected}."

    def problem(self, text: str) -> None:
        """Note one."""
        self.faults += 1
        if len(self.problems) < _MOST:
            self.problems.append(text)


@dataclass(slots=True)
class _Store:
    """The store at one position: all rows per table."""

    position: int
    rows: dict[str, list[FoldedRow]]


def audit(settings: Settings, source: str, wait_s: float = 60.0) -> Audit:
    """Audit a source while it is being captured.

    Args:
        settings: resolved.
        source: its name.
        wait_s: how long capture may take to reach the store's position.

    Raises:
        SourceError: capture does not get there in time.
        InstepError, ConnectionError: store, broker or registry.
    """
    store = _read_store(settings, source)
    _await_capture(settings, source, store.position, wait_s)
    result = Audit(store.position)
    journal = read_journal(settings, source)
    check_chain(journal, result)
    held = waiting(settings.kafka, source)
    coverage = Coverage(journal)
    hold(settings.encryption)
    schemas = Schemas(RegistryClient.of(settings.registry))
    try:
        for table, rows in store.rows.items():
            fold = TableFold(table, schemas, coverage, result.problem)
            topic = data_topic(source, *table.split(".", 1))
            if topic in topics(settings.kafka):
                fold.read(read_topic(settings.kafka, topic), store.position)
            result.records += fold.records
            if table in held:
                result.problem(f"{table}: stopped, {held[table].changes} changes wait: {held[table].reason}")
            else:
                _compare(table, rows, fold.rows(), result)
    finally:
        schemas.close()
    for text in coverage.unread(store.rows):
        result.problem(text)
    return result


def read_journal(settings: Settings, source: str) -> list[JournalEntry]:
    """Every committed entry, in order."""
    records = read_topic(settings.kafka, journal_topic(source))
    return [decode_journal(unframe(record.value)[1]) for record in records if record.value is not None]


def check_chain(journal: list[JournalEntry], result: Audit) -> None:
    """Check that the entries follow one another without gap or overlap."""
    ends: dict[TopicPartition, int] = {}
    before: JournalEntry | None = None
    for entry in journal:
        if entry.batch != (before.batch + 1 if before else 1):
            result.problem(f"journal entry {entry.batch} follows {before.batch if before else 'nothing'}")
        released = before and entry.first == entry.last == before.last  # what a stopped table held
        if before and (entry.last < before.last or (entry.changes and entry.first <= before.last and not released)):
            result.problem(f"journal entry {entry.batch} goes back: {entry.first} after {before.last}")
        if entry.first > entry.last:
            result.problem(f"journal entry {entry.batch} ends before it starts")
        for at, end in entry.ends.items():
            if entry.starts[at] < ends.get(at, 0) or end <= entry.starts[at]:
                result.problem(f"journal entry {entry.batch} overlaps in {at[0]} [{at[1]}]")
            ends[at] = end
        before = entry
    result.mended = [f"{gap.start} to {gap.end} ({gap.reason})" for gap in gaps(journal)]
    result.entries = len(journal)
    result.changes = sum(entry.changes for entry in journal)
    result.rejected = sum(counts.rejected for entry in journal for counts in entry.counts.values())


def _read_store(settings: Settings, source: str) -> _Store:
    """All captured tables at the point where a temporary slot starts; then ask capture to get there."""
    own = settings.sources[source]
    dsn, application = own.dsn.reveal(), f"instep audit {source}"
    with connect(dsn, application) as control:
        published = check_publication(control, own.publication, own.tables)
        replication = ReplicationConnection(dsn, application)
        try:
            new = replication.create_slot(f"instep_audit_{secrets.token_hex(6)}", lambda seconds: False, temporary=True)
            assert new is not None
            snapshot = Snapshot(dsn, application, new.snapshot, published)
        finally:
            replication.close()
        rows = {}
        try:
            for oid, relation in snapshot.relations(published).items():
                table = next(each for each in published if each.oid == oid)
                names = [column.name for column in relation.columns]
                rows[table.table] = [
                    {name: text if text is None else text.decode() for name, text in zip(names, row, strict=True)}
                    for row in snapshot.rows(table, relation)
                ]
        finally:
            snapshot.close()
        control.execute("SELECT pg_logical_emit_message(true, %s, 'audit')", (MESSAGE_PREFIX,))
    return _Store(new.lsn, rows)


def _await_capture(settings: Settings, source: str, position: int, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        entry = last_entry(settings.kafka, source)
        if entry is not None and entry.whole and captured_lsn(entry) >= position:
            return
        if time.monotonic() > deadline:
            at = "nothing" if entry is None else format_lsn(captured_lsn(entry))
            raise SourceError(
                f"Capture of {source} stands at {at} and did not reach {format_lsn(position)} in {wait_s:.0f} s.",
                "Is it running? `instep status` tells how far it is.",
            )
        time.sleep(0.05)


def _compare(table: str, store: list[FoldedRow], topic: list[FoldedRow], result: Audit) -> None:
    """Compare two sets of rows; columns that the store no longer has do not count."""
    result.rows += len(store)
    names = sorted(store[0]) if store else []  # an empty table: each folded row is one too many

    def shown(row: FoldedRow) -> tuple[str | None, ...]:
        return tuple(row.get(name, "(no such column in the topic)") for name in names)

    held = Counter(map(shown, store))
    folded = Counter(map(shown, topic))
    missing, surplus = held - folded, folded - held
    for what, rows in (("in the store only", missing), ("in the topic only", surplus)):
        if total := rows.total():
            result.problem(f"{table}: {total} rows {what}")
            result.faults += total - 1
