"""The Kafka end of capture: its topics, its journal, and batches as transactions."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import Final

from instep.failpoints import hit
from instep.journal import JournalEntry, TopicPartition
from instep.settings import KafkaSettings
from instep.topics import capture_dead_letter_topic, commands_topic, held_topic, journal_topic, tables_topic
from instep_connectors.kafka import (
    BlockingPublisher,
    OutRecord,
    RawRecord,
    TopicSpec,
    ensure_topics,
    last_record,
    make_topics,
)
from instep_schemas.records import decode_journal, encode_journal, frame, unframe
from instep_schemas.schemaids import SchemaIds
from instep_streams.capture.batch import Batch, Origin
from instep_streams.capture.meters import TRANSACTION

log = logging.getLogger(__name__)

KEEP: Final = {"cleanup.policy": "delete", "retention.ms": "-1"}
"""Nothing expires by itself: a worker that starts from nothing reads a topic from its beginning. And TRUNCATE has no
key, so a data topic cannot be compacted."""

_LARGEST: Final = 16 << 20
_MARGIN: Final = 64 << 10
"""Around a record's value: headers, key, the batch's own bytes."""

JOURNAL_KEY: Final = b"batch"


def writers(source: str) -> tuple[str, str]:
    """A source's transactional ids: one commits while the other begins, see `BlockingPublisher`.

    No name of another source makes one of them.
    """
    return f"instep-capture-{source}", f"instep-capture2-{source}"


def largest_value(kafka: KafkaSettings) -> int:
    """The most bytes a record's value may have: `message.max.bytes` of the settings, 16 MiB when it is not set."""
    return int(kafka.options.get("message.max.bytes", _LARGEST)) - _MARGIN


def _roomy(kafka: KafkaSettings) -> KafkaSettings:
    """A row is not limited to librdkafka's 1 MB."""
    return kafka.model_copy(update={"options": {"message.max.bytes": str(_LARGEST), **kafka.options}})


def keeping(kafka: KafkaSettings) -> dict[str, str]:
    """Settings of the topics that capture writes."""
    return {**KEEP, "max.message.bytes": _roomy(kafka).options["message.max.bytes"]}


def ensure_own_topics(kafka: KafkaSettings, source: str) -> None:
    """Create the journal, the dead letters, the list of tables and the commands.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    names = (journal_topic(source), capture_dead_letter_topic(source), held_topic(source), commands_topic(source))
    specs = [TopicSpec(name, 1, keeping(kafka)) for name in names]
    ensure_topics(kafka, [*specs, TopicSpec(tables_topic(source), 1, {"cleanup.policy": "compact"})])


class DataTopics:
    """Creates data topics and tells how many partitions each has.

    Args:
        kafka: the brokers.
        wanted: partitions of a new topic.
    """

    def __init__(self, kafka: KafkaSettings, wanted: int) -> None:
        self._kafka, self._wanted = kafka, wanted
        self._coming: dict[str, Future[dict[str, int]]] = {}

    def prepare(self, topics: Iterable[str]) -> None:
        """Begin to create these, all with one request, in a thread; one at a time would cost 0.1 s each."""
        names = list(topics)
        coming: Future[dict[str, int]] = Future()
        coming.set_running_or_notify_cancel()
        self._coming |= dict.fromkeys(names, coming)

        def work() -> None:
            try:
                coming.set_result(self._make(names) if names else {})
            except BaseException as exc:  # asked for again by `make`
                coming.set_exception(exc)

        Thread(target=work, name="topics", daemon=True).start()

    def make(self, topic: str) -> int:
        """Create a topic and give how many partitions it has; raises as `ensure_own_topics`."""
        coming = self._coming.pop(topic, None)
        if coming is not None and coming.exception() is None:
            return coming.result()[topic]
        return self._make([topic])[topic]

    def _make(self, topics: list[str]) -> dict[str, int]:
        return make_topics(self._kafka, [TopicSpec(topic, self._wanted, keeping(self._kafka)) for topic in topics])


def last_entry(kafka: KafkaSettings, source: str) -> JournalEntry | None:
    """The last committed journal entry; None when there is none, or no journal.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    topic = journal_topic(source)
    record = last_record(kafka, topic)
    if record is None or record.value is None:
        return None
    return decode_journal(unframe(record.value)[1])


class BatchPublisher:
    """Publishes batches as Kafka transactions, each closed by its journal entry.

    Args:
        kafka: the brokers.
        source: name of the source.
    """

    def __init__(self, kafka: KafkaSettings, source: str) -> None:
        self._source = source
        self._publisher = BlockingPublisher(_roomy(kafka), *writers(source))
        self._origin = Origin(source, 1, "", 0)
        self._entry_schema_id = 0
        self._number = 0
        self._entry: JournalEntry | None = None
        self._ids: SchemaIds | None = None

    def start(self) -> None:
        """Fence older instances and settle what they left open.

        Raises:
            ConnectionError, TimeoutError: no broker answers.
            KafkaFault: refused.
        """
        self._publisher.start()

    def describe(self, origin: Origin, entry_schema_id: int, number: int, ids: SchemaIds | None = None) -> None:
        """Say what the entries need; before the first batch.

        Args:
            origin: what the entries tell of the source.
            entry_schema_id: registry id of `journal_entry.avsc`.
            number: of the last committed entry.
            ids: data records say their schemas by headers.
        """
        self._origin, self._entry_schema_id, self._number, self._ids = origin, entry_schema_id, number, ids

    def publish(self, batch: Batch) -> JournalEntry:
        """Publish one batch and give its entry; returns when the transaction is committed.

        Raises:
            ConnectionError, TimeoutError: Kafka is gone, the outcome may be unknown: start anew from the journal.
            KafkaFault: refused.
        """
        with TRANSACTION.labels(self._source).time():
            self._publisher.publish(self._records(batch), lambda starts, ends: self._close(batch, starts, ends))
        assert self._entry is not None
        self._number = self._entry.batch
        return self._entry

    def close(self) -> None:
        """Give up what is in flight, also from another thread, and disconnect. Safe to call twice."""
        self._publisher.close()

    def _records(self, batch: Batch) -> Iterator[RawRecord]:
        hit("capture.begun")
        if self._ids is None:
            yield from batch.records
            return
        own = self._own_topics()
        for topic, key, value, partition, headers, timestamp_ms in batch.records:
            if topic not in own:
                key, value, headers = self._ids.bare(key, value, headers)
            yield topic, key, value, partition, headers, timestamp_ms

    def _own_topics(self) -> tuple[str, ...]:
        """Topics that are no data topics."""
        return capture_dead_letter_topic(self._source), held_topic(self._source), tables_topic(self._source)

    def _close(
        self, batch: Batch, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> OutRecord:
        hit("capture.before_entry")
        own = self._own_topics()
        data = {at: end for at, end in ends.items() if at[0] not in own}
        entry = self._origin.entry(self._number + 1, batch, {at: starts[at] for at in data}, data)
        self._entry = entry
        value = frame(self._entry_schema_id, encode_journal(entry))
        return OutRecord(journal_topic(self._source), JOURNAL_KEY, value)
