"""A recording played back through the real stream, without PostgreSQL, Kafka or a registry, with a kill at any frame.

    recording = Recording.read(Path("incident.frames"))
    broker = Broker()
    with pytest.raises(Killed):
        replay(recording, broker, kill_at=17)
    replay(recording, broker)              # goes on from the broker's journal, as capture does after a kill
    broker.journal, broker.topics          # what a read_committed reader sees

The frames are the recorded ones bit for bit. What the store would do is done after them: a stream that begins at an LSN
brings whole transactions that commit there or later, each table described before its first row.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from instep.journal import JournalEntry, TopicPartition
from instep.relation import Relation
from instep.settings import Settings, parse
from instep_connectors.postgres import pgoutput
from instep_connectors.postgres.recording import Entry, Kind, entries
from instep_connectors.postgres.replication import Keepalive, ReplicationConnection
from instep_connectors.postgres.slot import Connection
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Batch, Origin, Record, captured_lsn
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.publishing import PublishingThread
from instep_streams.capture.streaming import Streaming
from instep_streams.capture.tables import CapturedTable, Tables
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.transactions import Transactions

_PARTITIONS: Final = 3
_LARGEST: Final = 16 << 20
_ROWS: Final = (pgoutput.Insert, pgoutput.Update, pgoutput.Delete)


class Killed(Exception):
    """The replay was killed where the test wanted it."""


class _Transaction(NamedTuple):
    lsn: int
    frames: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording, taken apart.

    Attributes:
        transactions: whole ones, by commit LSN; each once, however often the store sent it.
        relations: per RELATION message what the catalog added to it.
    """

    transactions: tuple[_Transaction, ...]
    relations: Mapping[pgoutput.RelationMessage, Relation]

    @classmethod
    def read(cls, path: Path) -> Recording:
        """Read a file of `instep capture --record`.

        Raises:
            EnvironmentFault: it is not one.
        """
        found: dict[int, _Transaction] = {}
        relations: dict[pgoutput.RelationMessage, Relation] = {}
        described: dict[int, pgoutput.RelationMessage] = {}
        lsn, open_frames = 0, list[Entry]()
        for entry in entries(path):
            if entry.kind is Kind.RELATION:
                relation = entry.relation
                relations[described[relation.oid]] = relation
            if entry.kind is not Kind.FRAME:
                continue
            message = pgoutput.decode(entry.message)
            if isinstance(message, pgoutput.Begin):
                lsn, open_frames = message.lsn, []
            elif isinstance(message, pgoutput.RelationMessage):
                described[message.oid] = message
            open_frames.append(entry)
            if isinstance(message, pgoutput.Commit):
                found[lsn] = _Transaction(lsn, tuple(open_frames))
        return cls(tuple(found[lsn] for lsn in sorted(found)), relations)

    def frames(self, lsn: int) -> list[Entry]:
        """What the store sends when a stream begins at this LSN."""
        sent: set[int] = set()
        known: dict[int, Entry] = {}
        stream: list[Entry] = []
        for transaction in self.transactions:
            for frame in transaction.frames:
                message = pgoutput.decode(frame.message)
                if isinstance(message, pgoutput.RelationMessage):
                    known[message.oid] = frame
                    sent.discard(message.oid)
                    continue
                if transaction.lsn >= lsn:
                    stream += [known[oid] for oid in _oids(message) if oid not in sent and oid in known]
                    sent.update(_oids(message))
                    stream.append(frame)
        return stream


def _oids(message: pgoutput.Message) -> tuple[int, ...]:
    """The tables whose description must be there before the message."""
    if isinstance(message, pgoutput.Truncate):
        return message.oids
    return (message.oid,) if isinstance(message, _ROWS) else ()


class Broker:
    """What Kafka and the registry keep over kills: committed batches, and schemas.

    Attributes:
        topics: per topic-partition the committed records, in offset order.
        journal: the committed entries.
        schemas: texts by registry id, from 1.
    """

    def __init__(self) -> None:
        self.topics: dict[TopicPartition, list[Record]] = {}
        self.journal: list[JournalEntry] = []
        self.schemas: list[str] = []
        self.away = False
        """A batch in flight fails instead of being committed."""

    def publish(self, batch: Batch) -> JournalEntry:
        """Commit a batch, whole or not at all."""
        if self.away:
            raise ConnectionError("killed before the commit")
        starts: dict[TopicPartition, int] = {}
        for record in batch.records:
            number = record.partition if record.partition >= 0 else zlib.crc32(record.key or b"") % _PARTITIONS
            at = (record.topic, number)
            starts.setdefault(at, len(self.topics.setdefault(at, [])))
            self.topics[at].append(record)
        ends = {at: len(self.topics[at]) for at in starts}
        entry = Origin("replay", 1, "0", 1).entry(len(self.journal) + 1, batch, starts, ends)
        self.journal.append(entry)
        return entry

    def register(self, subject: str, text: str) -> int:
        """Register or find a schema."""
        if text not in self.schemas:
            self.schemas.append(text)
        return self.schemas.index(text) + 1

    def latest(self, subject: str) -> tuple[int, int, str] | None:
        """No level is checked, so nobody asks."""
        return None

    def check(self, subject: str, text: str) -> list[str]:
        """Everything is compatible."""
        return []


@dataclass
class _Stream:
    """The part of a `ReplicationConnection` that streaming uses, fed from a recording."""

    frames: Iterator[Entry]
    kill_at: int | None
    given: int = 0
    exhausted: bool = False
    frame_lsn: int = 0
    confirmed: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ready, self._wake = os.pipe()
        os.write(self._wake, b".")

    def receive(self) -> bytes | Keepalive | None:
        if self.given == self.kill_at:
            raise Killed
        frame = next(self.frames, None)
        if frame is None:
            self.exhausted = True
            return None
        self.given += 1
        self.frame_lsn = frame.lsn
        return frame.message

    def send_status(self, flushed: int, *, ask: bool = False) -> None:
        self.confirmed.append(flushed)

    def fileno(self) -> int:
        return self._ready

    def check_silence(self) -> None: ...

    def heard(self) -> None: ...

    def close(self) -> None:
        os.close(self._ready)
        os.close(self._wake)


def replay(
    recording: Recording, broker: Broker, *, kill_at: int | None = None, commit_in_flight: bool = True,
    batch_changes: int = 2_000,
) -> int:  # fmt: skip
    """Capture a recording into the broker, going on behind its last journal entry.

    Args:
        recording: what the store sent.
        broker: what is there already; gets the batches.
        kill_at: die instead of taking this frame, counted from 0 in this stream; None: play to the end.
        commit_in_flight: whether a batch that Kafka had at the kill is committed all the same.
        batch_changes: most changes in one batch.

    Returns:
        Frames played.

    Raises:
        Killed: where the caller wanted it.
        InstepError: as the capture.
    """
    last = broker.journal[-1] if broker.journal else None
    captured = captured_lsn(last) if last is not None else 0
    stream = _Stream(iter(recording.frames(captured)), kill_at)
    publishing = PublishingThread(broker.publish, "replay")
    transactions: list[Transactions] = []

    def over(_: float) -> bool:
        return stream.exhausted and not publishing.busy and transactions[0].batch.last is None

    task = Task(_settings(batch_changes), "replay", over)
    options = WireOptions("replay", "replay")
    tables = Tables(options, broker, lambda schema, name: True, lambda topic: _PARTITIONS)
    dead_letters = DeadLetters("replay", 0, _LARGEST)
    parts = Parts(cast(Connection, None), publishing, tables, options, dead_letters, 1, _LARGEST)

    def described(message: pgoutput.RelationMessage, /, *, keyed: bool = True) -> CapturedTable | None:
        relation = recording.relations.get(message)
        return None if relation is None else tables.captured(relation, keyed=keyed)

    transactions.append(Transactions(parts, described, tables.relaxed, last))
    connection = cast(ReplicationConnection, stream)
    try:
        Streaming(task, parts, connection, transactions[0], captured, 10.0).run()
    finally:
        broker.away = kill_at is not None and not commit_in_flight
        publishing.close()
        broker.away = False
        stream.close()
    return stream.given


def _settings(batch_changes: int) -> Settings:
    own: dict[str, Any] = {"dsn": "", "heartbeat_s": 3600.0, "batch_changes": batch_changes, "batch_wait_ms": 0}
    return parse({"sources": {"replay": own}}, Path("."))
