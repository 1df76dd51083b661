"""One source's worker, blocking: state database, input and output put together; `process` runs it in a thread."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection

from instep.errors import Advice, FlowError, StateError, advice
from instep.flowfile import Flow, load_all
from instep.settings import Settings
from instep.topics import journal_topic
from instep_connectors.kafka import RawRecord, Record, last_record
from instep_schemas.client import RegistryClient
from instep_streams.flows import progress
from instep_streams.flows.ahead import Ahead
from instep_streams.flows.batch import Batch
from instep_streams.flows.engine import Engine
from instep_streams.flows.feed import JournalFeed, TopicFeed
from instep_streams.flows.inbox import Inbox, Read
from instep_streams.flows.layout import Share, ensure_database
from instep_streams.flows.outbox import Marker, Outbox
from instep_streams.flows.releases import CLOCK, Clock
from instep_streams.flows.rows import Entry
from instep_streams.flows.session import open_state
from instep_streams.flows.unwritten import store_tables

STEP_CHANGES = 5_000
"""Entries are taken together up to so many changes: one evaluation for all of them."""

_ALL: Final = Share()

log = logging.getLogger(__name__)


class Outgoing(NamedTuple):
    """One Kafka transaction to be made, and the batch number to confirm with `Worker.sent`.

    Attributes:
        batch: what was committed.
        records: made as they are asked for, once: while they are, the next step may be under way.
    """

    batch: Batch
    records: Iterable[RawRecord]


class Worker:
    """The worker of one source, from connecting to closing. Not thread-safe.

    Args:
        settings: resolved.
        source: the source's name.
        share: the keys that it works on.
        generation: of the division that the share belongs to.
        clock: what time it is, for flows with a schedule or an interval.

    Raises:
        ConnectionError: a part does not answer, or another worker still holds the state.
        InstepError: a person must look.
    """

    def __init__(
        self, settings: Settings, source: str, share: Share = _ALL, generation: int = 0, clock: Clock = CLOCK
    ) -> None:  # fmt: skip
        self._settings, self._source, self._generation = settings, source, generation
        own, joined = settings.sources[source], settings.joined(source)
        self._registry = RegistryClient.of(settings.registry)
        schemas = {source: "", **joined}
        self._inboxes = {name: Inbox(settings.kafka, self._registry, name, schemas[name]) for name in schemas}
        self._aheads = {name: Ahead(inbox, f"read-{name}") for name, inbox in self._inboxes.items()}
        self._inbox = self._inboxes[source]
        self._outbox = Outbox(settings.kafka, self._registry, source, share)
        self._feed: TopicFeed | JournalFeed | None = None
        self._tell = self._adopt_all = False
        self._marker: int | None = None
        self._made_at: dict[str, int] = {}
        self._deployed = False
        self._conn: Connection[Any] | None = None
        try:
            self._conn = open_state(ensure_database(settings, source, share))
            for name in self._inboxes:
                _lock(self._conn, name)
            self._engine = Engine(self._conn, source, share, joined, clock)
            self._require_same_feed(own.journal)
            self._outbox.set_up()
            self._ensure_tables()
            done = self._engine.progress
            if not own.journal:
                self._feed = TopicFeed(settings.kafka, self._inbox, source, own, done)
            elif share.of > 1 or joined:
                starts = {name: done.of(name).journal for name in self._inboxes}
                self._feed = JournalFeed(settings.kafka, starts, self._inbox.entry)
        except BaseException:
            self.close()
            raise

    def _require_same_feed(self, journal: bool) -> None:
        """Entries made of topics and those of a journal are counted alike: a state knows one kind only."""
        found = self._engine.progress
        if found.entry and bool(found.offsets) == journal:
            raise StateError(
                f"The state of source {self._source} was filled {'without' if journal else 'from'} a journal, and its"
                f" setting is journal = {str(journal).lower()} now.",
                "Put the setting back, or drop the state database: it is filled again from the topics.",
            )

    def _ensure_tables(self) -> None:
        for name, inbox in self._inboxes.items():
            self._engine.ensure_tables(inbox.tables(), name)

    @property
    def _engine_conn(self) -> Connection[Any]:
        assert self._conn is not None
        return self._conn

    @property
    def _deployable(self) -> bool:
        """Whether the replica holds what the stores had, each at some moment, none before what documents show."""
        done = self._engine.progress
        reached = all(done.of(name).entry >= entry for name, entry in self._made_at.items())
        return done.begun and not done.cut and reached

    def _ends(self) -> dict[str, int]:
        """The last entry of each journal: a document that another state made is of no later one."""
        kafka, own = self._settings.kafka, self._settings.sources[self._source]
        last = {name: last_record(kafka, journal_topic(name), 0) for name in self._inboxes} if own.journal else {}
        return {name: self._inbox.entry(record).batch for name, record in last.items() if record is not None}

    @property
    def _moved(self) -> bool:
        """Whether this state has not followed the present division of keys yet."""
        return progress.generation(self._engine_conn, self._source) != self._generation

    def close(self) -> None:
        """Release everything; safe to call twice."""
        if self._conn is not None:
            self._conn.close()
        if self._feed is not None:
            self._feed.close()
        for ahead in self._aheads.values():
            ahead.close()
        for inbox in self._inboxes.values():
            inbox.close()
        self._registry.close()

    @property
    def next_journal(self) -> int:
        """Offset of the journal record to go on with."""
        return self._engine.progress.journal

    @property
    def entry(self) -> int:
        """The last journal entry applied."""
        return self._engine.progress.entry

    @property
    def waiting(self) -> bool:
        """Whether `slice` has something to do."""
        return self._deployed and self._engine.waiting

    def start(self, marker: Marker) -> Iterator[Outgoing]:
        """Deploy the flows, if whole transactions are applied, and give what a crash left unsent.

        In the middle of a transaction both come behind its end, with a source that was joined since, behind its first
        rows, and where documents of another state are taken over, once this one is as far; until then no flow notes
        the keys that become dirty, so all are looked at then.

        Raises:
            FlowError: a flow is refused.
        """
        self._adopt_all = self._moved or marker.batch > self._engine.progress.batch
        self._made_at = self._ends() if self._adopt_all else {}
        self._engine.start_above(marker.batch)
        self._marker = marker.batch
        self._tell = marker.batch < self._engine.progress.batch  # also when it has no documents: `adopt` raised it
        if not self._deployable:
            self._engine.look_at_all()
        yield from self._deploy()

    def _deploy(self) -> Iterator[Outgoing]:
        if not self._deployable:
            return
        # a table without rows has no records to be known by, and capture may have registered it after our start
        self._ensure_tables()
        flows = self._flows()
        new = self._deployed_now(flows)
        partitions = self._settings.sources[self._source].partitions
        for name, plan in self._engine.plans.items():
            version, columns = self._engine.version(name), self._engine.columns(name)
            self._outbox.add(name, version, columns, plan.flow.key, partitions)
            if name in new or self._adopt_all:
                held = self._outbox.held(name, self._engine.progress.joined.keys())
                self._tell |= held.newest > self._engine.progress.batch
                self._engine.adopt(name, held.alive.items(), held.newest)
        if self._adopt_all:
            progress.adopted(self._engine_conn, self._source, self._generation)
            # the marker may stand below the number to go on from, or at another number of workers
            self._tell, self._adopt_all = True, False
        self._deployed = True
        log.info(
            "ready: source %s, flows %s on %d tables, from journal entry %d", self._source, ", ".join(flows) or "none",
            len(self._engine.tables), self._engine.progress.entry,
        )  # fmt: skip
        if self._marker is not None:
            marker, self._marker = self._marker, None
            yield from self._outgoing(self._engine.unsent(marker))

    def _deployed_now(self, flows: Mapping[str, Flow]) -> set[str]:
        own = self._settings.sources[self._source]
        try:
            return self._engine.deploy(flows)
        except FlowError as exc:
            if own.journal or exc.code != "UNKNOWN_TABLE":
                raise
        # only now: a worker that starts again needs no store
        self._engine.ensure_tables(
            each for each in store_tables(self._source, own) if each.id not in self._engine.tables
        )
        return self._engine.deploy(flows)

    def _flows(self) -> dict[str, Flow]:
        alone = len(self._settings.leaders) == 1
        flows = load_all(self._settings.flows_dir)
        return {
            name: each for name, each in flows.items() if each.source in self._inboxes or (alone and not each.source)
        }

    def step(self, records: Sequence[Record]) -> Iterator[Outgoing]:
        """Work on journal records; each `Outgoing` must be published in this order, and `sent` told of it.

        Records that were applied before are passed over; records that the consumer group passed although this state
        has not seen them (it is new) are read from the journal itself.
        """
        if not records:
            return
        first = self._inbox.entry(records[0])
        if first.batch > self.entry + 1:
            yield from self._entries(self._inbox.journal(self.next_journal, records[0].offset), self._source)
        yield from self._entries(iter(records), self._source)

    def _entries(self, records: Iterator[Record], source: str) -> Iterator[Outgoing]:
        todo: list[Read] = []
        count, journal = 0, 0
        for record, read in self._aheads[source].reads(records, self._engine.progress.of(source).entry):
            if todo and (read.tables or count + read.entry.changes > STEP_CHANGES):
                yield from self._apply(todo, journal, source)
                todo, count = [], 0
            yield from self._follow(read, source)
            todo.append(read)
            count, journal = count + read.entry.changes, record.offset + 1
        if todo:
            yield from self._apply(todo, journal, source)

    def _follow(self, read: Read, source: str) -> Iterator[Outgoing]:
        """Let the replica follow newer table definitions; flows on them are deployed again."""
        changed = self._engine.ensure_tables(read.tables, source) if read.tables else set()
        used = {table for plan in self._engine.plans.values() for table in plan.tables}
        if self._deployed and changed & used:
            self._deployed = False
            yield from self._deploy()

    def _apply(self, reads: Sequence[Read], journal: int, source: str) -> Iterator[Outgoing]:
        entries: list[Entry] = [(read.entry, read.changes) for read in reads]
        yield from self._outgoing(self._engine.process(entries, journal, source=source))
        if not self._deployed:
            yield from self._deploy()

    def poll(self, wait: float) -> Iterator[Outgoing]:
        """Work on what came where the consumer group does not bring it; waits so many seconds for a first record."""
        if isinstance(self._feed, JournalFeed):
            done = self._engine.progress
            found = self._feed.poll(wait, next((name for name in self._inboxes if done.of(name).more), ""))
            if found is not None:
                yield from self._entries(iter(found[1]), found[0])
            return
        fed = self._feed.poll(self._engine.progress, wait) if self._feed is not None else None
        if fed is None:
            return
        yield from self._follow(fed.read, self._source)
        yield from self._outgoing(self._engine.process([(fed.read.entry, fed.read.changes)], 0, fed.offsets))
        if not self._deployed:
            yield from self._deploy()

    def slice(self) -> Iterator[Outgoing]:
        """One slice of what was put off."""
        yield from self._outgoing(self._engine.slice())

    def _outgoing(self, batch: Batch) -> Iterator[Outgoing]:
        if batch.documents or self._tell:
            self._tell = False
            yield Outgoing(batch, self._outbox.records(batch))

    def sent(self, batch: Batch) -> None:
        """A batch is published, and so are all before it."""
        self._engine.sent(batch.progress.batch)


def _lock(conn: Connection[Any], source: str) -> None:
    """One worker per source and state database, also while Kafka moves the source to another process."""
    row = conn.execute("SELECT pg_try_advisory_lock(hashtextextended('instep worker ' || %s, 0))", (source,)).fetchone()
    if row != (True,):
        raise ConnectionError(f"another worker still works on source {source}")


def failure(exc: Exception) -> Exception:
    """What a failure of the worker means: `ConnectionError` when it may pass by itself."""
    if not isinstance(exc, psycopg.Error):
        return exc
    words = (str(exc).splitlines() or [type(exc).__name__])[0].rstrip(".")
    lost = isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError)) and exc.sqlstate is None
    if "password authentication failed" in words or ("database" in words and "does not exist" in words):
        return StateError(f"The state database refuses the connection: {words}.", "Correct state.dsn.")
    if lost or advice(exc) is Advice.AGAIN:
        return ConnectionError(f"the state database interrupts: {words}")
    return StateError(f"The state database refuses: {words} ({exc.sqlstate}).", "Its log may say more.")
