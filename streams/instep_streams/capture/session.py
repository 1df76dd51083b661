"""One attempt at capturing a source: fence, compare, snapshot if need be, stream.

Any fault ends it; the next starts from the journal again, so that no state in memory can be wrong.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from enum import Enum, auto

from instep.change import format_lsn
from instep.errors import SourceError
from instep.journal import JournalEntry
from instep.topics import capture_dead_letter_topic, data_topic, journal_topic, value_subject
from instep_connectors.postgres import slot as slots
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.pgoutput import RelationMessage
from instep_connectors.postgres.publication import (
    Published,
    check_publication,
    check_readable,
    ensure_publication,
    matcher,
    missing_publication,
    publication_exists,
)
from instep_connectors.postgres.recording import RecordedConnection
from instep_connectors.postgres.replication import ReplicationConnection
from instep_connectors.postgres.selection import open_publication, selected, set_identities, with_columns
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.streamed import Streamed
from instep_schemas.built import told
from instep_schemas.ciphers import hold, tags_of
from instep_schemas.client import RegistryClient
from instep_schemas.records import schema_text
from instep_schemas.schemaids import SchemaIds
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Origin, captured_lsn
from instep_streams.capture.beside import Beside
from instep_streams.capture.copies import Copies
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.gap import Gap
from instep_streams.capture.kafka import BatchPublisher, DataTopics, ensure_own_topics, largest_value, last_entry
from instep_streams.capture.publishing import PublishingThread
from instep_streams.capture.sidetopics import SideTopics
from instep_streams.capture.snapshotting import Snapshotting
from instep_streams.capture.stopped import StoppedTables
from instep_streams.capture.streaming import Streaming
from instep_streams.capture.tables import CapturedTable, Incompatible, Tables
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.transactions import Transactions

log = logging.getLogger(__name__)

_PATIENCE_S = 10.0
"""How long a former holder of lock or slot may take to go."""


class Start(Enum):
    """What a session has to do first."""

    FIRST = auto()
    """Nothing was ever captured: slot and snapshot."""
    AGAIN = auto()
    """A snapshot was not finished, and cannot be: new slot, new snapshot."""
    FINISH = auto()
    """A snapshot was not finished: stream, and copy beside it what is left."""
    STREAM = auto()
    """Go on behind the last journal entry."""


def choose_start(slot: str, slot_exists: bool, last: JournalEntry | None, anew: bool = False) -> Start:
    """Decide from the journal and the slot; `anew`: a snapshot cannot be finished beside the stream.

    Raises:
        SourceError: one of the two is missing, so that changes may be lost.
    """
    if last is None:
        if slot_exists:
            raise slots.unknown_slot(slot)
        return Start.FIRST
    if last.snapshot and last.more:
        begun = Copies.parse(last.snapshot_state)
        # beside the stream a table without a key is read at one go, and within a time that a large one may not keep
        finite = begun.initial and all(copy.order for copy in begun.todo)
        return Start.FINISH if finite and slot_exists and not anew else Start.AGAIN
    if last.more and Gap.of(last) is not None:
        raise SourceError("A recovery was cut off.", "`instep capture recover` does it again.")
    if not slot_exists:
        raise slots.missing_slot(slot, captured_lsn(last))
    return Start.STREAM


class Session:
    """One attempt. Use `run` once.

    Args:
        task: what to capture.
        ready: called when the stream is open.
    """

    def __init__(self, task: Task, ready: Callable[[], None]) -> None:
        self._task = task
        self._own = task.own
        self._ready = ready
        self._stopped: StoppedTables | None = None

    def run(self) -> None:
        """Capture until told to stop.

        Raises:
            ConnectionError, TimeoutError: a part is gone for now.
            InstepError: a person must look.
        """
        hold(self._task.settings.encryption)
        with ExitStack() as stack:
            self._control = connect(self._task.dsn, self._task.application)
            stack.callback(self._control.close)
            server = slots.read_server(self._control)
            slots.check_server(server, slots.read_slot(self._control, self._own.slot) is not None)
            slots.SlotLock(self._control, self._own.slot).acquire(_PATIENCE_S, self._task.idle)
            self._publisher = BatchPublisher(self._task.settings.kafka, self._task.source)
            stack.callback(self._publisher.close)
            last = self._open(stack)
            self._capture(stack, server, last)

    def _open(self, stack: ExitStack) -> JournalEntry | None:
        """Topics, journal and registry side by side: one after the other they would be half of a start."""
        kafka, source = self._task.settings.kafka, self._task.source
        self._topics = DataTopics(kafka, self._own.partitions)

        def journal() -> JournalEntry | None:
            self._publisher.start()  # settles what a dead writer left open
            return last_entry(kafka, source)

        with ThreadPoolExecutor(2, "start") as pool:
            topics, last = pool.submit(ensure_own_topics, kafka, source), pool.submit(journal)
            try:
                self._open_registry(stack)
                topics.result()
                return last.result()
            except BaseException:
                self._publisher.close()  # else the pool would wait for one that waits for Kafka
                raise

    def _open_registry(self, stack: ExitStack) -> None:
        settings, source = self._task.settings.registry, self._task.source
        self._registry = RegistryClient.of(settings)
        stack.callback(self._registry.close)
        self._entry_schema = self._registry.register(value_subject(journal_topic(source)), schema_text("journal_entry"))
        dead = value_subject(capture_dead_letter_topic(source))
        self._dead_letters = DeadLetters(
            source, self._registry.register(dead, schema_text("dead_letter")), largest_value(self._task.settings.kafka)
        )

    def _capture(self, stack: ExitStack, server: slots.Server, last: JournalEntry | None) -> None:
        replication = self._replicate(stack)
        identity = replication.identify()
        if last is not None:
            slots.check_identity(
                slots.Standing(identity.system, identity.timeline, identity.lsn),
                slots.Standing(last.system, last.timeline, captured_lsn(last)),
                replication.history,
            )
        epoch = last.epoch if last else 1
        compatible = self._task.compatible
        origin = Origin(self._task.source, epoch, identity.system, identity.timeline)
        self._publisher.describe(origin, self._entry_schema, last.batch if last else 0, self._ids())
        publishing = PublishingThread(self._publisher.publish, f"publish {self._task.source}")
        stack.callback(publishing.close)
        stack.callback(self._publisher.close)  # first: it makes a publishing thread that waits for Kafka give up
        self._parts = self._make_parts(publishing, server.database, epoch)
        anew = server.standby or (compatible is not None and compatible.snapshot == "initial_only")
        if compatible is not None and compatible.identities:
            set_identities(self._control, compatible.identities, selected(self._control, compatible.selection))
        start = choose_start(self._own.slot, self._look(server.database, last), last, anew)
        if start in (Start.FIRST, Start.AGAIN):
            published = self._publish()
            check_readable(self._control, published)
            self._prepare(published)
            last = Snapshotting(self._task, self._parts, replication, published).run(last)
            replication.close()
            replication = self._replicate(stack)
        if last is not None and compatible is not None and compatible.snapshot == "initial_only":
            log.info("the snapshot is complete; snapshot.mode=initial_only streams nothing")
            while not self._task.idle(1.0):
                pass
        elif last is not None:
            self._stream(replication, server, last)

    def _ids(self) -> SchemaIds | None:
        """Data records say their schemas by an id before their bytes, or with this by headers."""
        return SchemaIds(self._registry) if self._own.schema_ids == "header" else None

    def _make_parts(self, publishing: PublishingThread, database: str, epoch: int) -> Parts:
        compatible = self._task.compatible
        largest = largest_value(self._task.settings.kafka)
        if compatible is None:
            tags = tags_of(self._own, self._task.settings.encryption)
            options = WireOptions(self._task.source, database, tags=tags)
            names = matcher(self._own.tables)
            tables = Tables(options, self._registry, lambda s, t: bool(names.fullmatch(f"{s}.{t}")), self._make_topic)
            return Parts(self._control, publishing, tables, options, self._dead_letters, epoch, largest)
        options = replace(compatible.wire, database=database)
        tables = Tables(options, self._registry, compatible.selection.wants, self._make_topic)
        return Parts(
            self._control, publishing, tables, options, self._dead_letters, epoch, largest, compatible,
            compatible.headers(), SideTopics(compatible, options, self._registry, self._make_topic),
        )  # fmt: skip

    def _publish(self) -> Sequence[Published]:
        """Make or check the publication, and give the tables to copy."""
        name, compatible = self._own.publication, self._task.compatible
        if compatible is None:
            return ensure_publication(self._control, name, self._own.tables)
        open_publication(
            self._control, name, compatible.publication, compatible.selection, via_root=compatible.via_root
        )  # fmt: skip
        selects = dict(compatible.overrides)
        tables = with_columns(self._control, selected(self._control, compatible.selection))
        return [replace(table, select=selects.get(table.table)) for table in tables]

    def _replicate(self, stack: ExitStack) -> ReplicationConnection:
        dsn, application, recorder = self._task.dsn, self._task.application, self._task.recorder
        replication = (
            ReplicationConnection(dsn, application)
            if recorder is None
            else RecordedConnection(dsn, application, recorder)
        )
        stack.callback(replication.close)
        return replication

    def _look(self, database: str, last: JournalEntry | None) -> bool:
        """Whether the slot exists; checked when it does."""
        slot = slots.read_slot(self._control, self._own.slot)
        if slot is None:
            return False
        slots.check_slot(slot, database, None if last is None else captured_lsn(last))
        slots.wait_until_free(self._control, slot.name, self._task.application, _PATIENCE_S, self._task.idle)
        return True

    def _make_topic(self, topic: str) -> int:
        return self._topics.make(topic)

    def _prepare(self, published: Sequence[Published]) -> None:
        """Begin to create the tables' topics before their first rows ask for them. Debezium makes none before."""
        if self._task.compatible is None:
            self._topics.prepare(data_topic(self._task.source, table.schema, table.name) for table in published)

    def _stream(self, replication: ReplicationConnection, server: slots.Server, last: JournalEntry) -> None:
        slot = slots.read_slot(self._control, self._own.slot)
        captured = captured_lsn(last)
        if slot is None:
            raise slots.missing_slot(self._own.slot, captured)
        slots.check_resume(slot, captured, server.standby)
        task = self._task
        if task.compatible is None:
            self._stopped = stopped = StoppedTables(task, self._parts)
            last = stopped.release(last)
            task = replace(task, idle=lambda seconds: self._task.idle(seconds) or stopped.due())
        if self._task.compatible is None:
            self._prepare(check_publication(self._control, self._own.publication, self._own.tables))
        elif not publication_exists(self._control, self._own.publication):
            raise missing_publication(self._own.publication)
        self._beside = Beside(self._task, self._parts, last, standby=server.standby)
        transactions = Transactions(self._parts, self._recorded, self._relax, last, self._beside)
        status_s = min(10.0, server.sender_timeout_s * 0.75) if server.sender_timeout_s else 10.0
        reached = None if last.more else last.last
        self._streaming = Streaming(
            task, self._parts, replication, transactions, captured, status_s, reached, self._beside
        )  # fmt: skip
        replication.start(self._own.slot, captured, self._own.publication, self._streamed())
        log.info("ready: %s streams from %s; transcoder: %s", self._task.source, format_lsn(captured), told())
        self._ready()
        self._beside.resume()
        self._streaming.run()

    def _streamed(self) -> Streamed | None:
        """What makes large transactions whole; None: the store is to do it."""
        if not (self._own.stream_large and self._task.parts):
            return None
        return Streamed(None if self._own.spool is None else self._task.settings.root / self._own.spool)

    def _recorded(self, message: RelationMessage, /, *, keyed: bool = True) -> CapturedTable | None:
        try:
            table = self._describe(message, keyed)
        except Incompatible as exc:
            if self._stopped is None:
                raise
            table = self._stopped.stop(exc.relation, exc)
        else:
            if table is not None and self._stopped is not None and self._stopped.holds(table.name):
                table = self._stopped.stop(table.encoder.relation)
        if table is not None and self._task.recorder is not None:
            self._task.recorder.relation(table.encoder.relation)
        return table

    def _describe(self, message: RelationMessage, keyed: bool) -> CapturedTable | None:
        if not self._parts.tables.wanted(message) or not self._beside.described(message):
            return None
        catalog = Catalog(self._control, primary_first=self._task.compatible is not None)
        return self._patiently(lambda: self._parts.tables.captured(catalog.joined(message), keyed=keyed))

    def _relax(self, table: CapturedTable, column: str) -> CapturedTable:
        return self._patiently(lambda: self._parts.tables.relaxed(table, column))

    def _patiently(self, make: Callable[[], CapturedTable]) -> CapturedTable:
        """Wait for registry and broker within the stream: starting anew would only meet the same wait."""
        told = False
        while True:
            try:
                return make()
            except (ConnectionError, TimeoutError) as exc:
                if self._task.idle(1.0) or self._control.closed:
                    raise
                if not told:
                    log.warning("a table's schema waits: %s", exc)
                told = True
                self._streaming.keep_alive()
