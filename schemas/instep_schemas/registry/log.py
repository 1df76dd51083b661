"""The `_schemas` topic: a thread that reads it from the start and follows it, and a writer that is fenced.

The writer's `transactional.id` is the same in every instance: whoever initialises it last makes the broker refuse the
one before, also in the middle of a write. So two instances that both believe they lead can do no harm.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it re-exports these without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from instep.errors import RegistryError
from instep.settings import KafkaSettings

log = logging.getLogger("instep.registry")
_library = logging.getLogger("instep.registry.librdkafka")
_library.setLevel(logging.CRITICAL + 1)  # it tells of each try; we tell of each change of state, ourselves

TOPIC: Final = "_schemas"
_TIMEOUT_S: Final = 4.0
_WRITE_S: Final = 5.0
_ABORT_S: Final = 2.0
_POLL_S: Final = 0.2
_BATCH: Final = 1_000
_GONE: Final = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
_FENCED: Final = (KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED)
_TOO_LARGE: Final = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the topic."""

    offset: int
    key: bytes | None
    value: bytes | None
    written_ms: int


class WriteFailed(Exception):
    """The transaction did not happen; the writer can go on."""


class Behind(WriteFailed):
    """Someone else has written since the reader's position; the log now ends at `end`."""

    def __init__(self, end: int) -> None:
        super().__init__(f"the log ends at offset {end}")
        self.end = end


class TooLarge(WriteFailed):
    """The brokers take no record of this size."""


class WriterLost(Exception):
    """This writer is of no use any more; `certain` says that nothing was written."""

    def __init__(self, reason: str, *, certain: bool) -> None:
        super().__init__(reason)
        self.certain = certain


class Fenced(WriterLost):
    """Another instance has taken over."""

    def __init__(self) -> None:
        super().__init__("another instance has taken over", certain=True)


def ensure_topic(settings: KafkaSettings, topic: str = TOPIC) -> None:
    """Create the topic when it is missing; check it when it is there. Blocking.

    Raises:
        RegistryError: it could lose schemas: not compacted, or more than one partition.
        ConnectionError: the brokers do not answer.
    """
    admin = AdminClient(settings.client(), logger=_library)
    try:
        found = admin.list_topics(timeout=_TIMEOUT_S).topics.get(topic)
        if found is None:
            _create(admin, topic, settings.replication)
            return
        policy = _cleanup_policy(admin, topic)
    except KafkaException as exc:
        raise ConnectionError(f"Kafka does not answer: {exc.args[0].str()}") from exc
    if len(found.partitions) != 1:
        raise RegistryError(
            f"The topic {topic} has {len(found.partitions)} partitions; a schema registry's has one.",
            "Copy its records into a topic of one partition, or name another cluster in kafka.bootstrap.",
        )
    if policy != "compact":
        raise RegistryError(
            f"The topic {topic} has cleanup.policy={policy}, which deletes old schemas.",
            f"Run: kafka-configs --alter --topic {topic} --add-config cleanup.policy=compact",
        )


def _create(admin: AdminClient, topic: str, replication: int) -> None:
    new = NewTopic(topic, 1, replication, config={"cleanup.policy": "compact"})
    try:
        admin.create_topics([new], operation_timeout=_TIMEOUT_S)[topic].result(_TIMEOUT_S)
    except KafkaException as exc:
        error = exc.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:  # another instance was faster
            return
        if error.retriable() or error.code() in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
            raise
        raise RegistryError(
            f"The topic {topic} cannot be created: {error.str()}.",
            "Create it with one partition and cleanup.policy=compact, or give this account the right to.",
        ) from exc


def _cleanup_policy(admin: AdminClient, topic: str) -> str:
    resource = ConfigResource(ResourceType.TOPIC, topic)
    try:
        config = admin.describe_configs([resource], request_timeout=_TIMEOUT_S)[resource].result(_TIMEOUT_S)
    except KafkaException as exc:
        if exc.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise
        log.warning("no right to describe the topic %s: whether it is compacted is not checked", topic)
        return "compact"
    return str(config["cleanup.policy"].value)


def following(records: Sequence[Record]) -> int:
    """The offset after a finished transaction with these records: its end marker takes one, too."""
    return records[-1].offset + 2


class Reader:
    """Reads the topic from the start and follows it, in a thread of its own.

    Args:
        settings: the brokers.
        take: called in the reader's thread with records in offset order, the offset that comes next, and whether that
            is the end of the log.
        fail: called in the reader's thread when the topic no longer holds what was read from it.
        topic: the topic.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        take: Callable[[Sequence[Record], int, bool], None],
        fail: Callable[[RegistryError], None],
        topic: str = TOPIC,
    ) -> None:
        self._take, self._fail = take, fail
        self._partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
        self._consumer = Consumer(
            {
                **settings.client(),
                "group.id": f"instep-registry-{uuid.uuid4()}",  # asked for by the library; nothing is committed
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 100,  # the end of the log is reported after one idle wait
                "error_cb": self._state,
            },
            logger=_library,
        )
        self._reachable = True
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="schemas-reader", daemon=True)

    def start(self) -> None:
        """Begin at the first record."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread. Blocking."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        self._consumer.assign([self._partition])
        while not self._stopping.is_set():
            first = self._consumer.poll(_POLL_S)
            if first is not None and not self._digest([first, *self._consumer.consume(_BATCH, 0)]):
                return

    def _digest(self, messages: Sequence[Message]) -> bool:
        """Pass on what was read; False when there is nothing more to be had from this topic."""
        records: list[Record] = []
        position, at_end = -1, False
        for message in messages:
            error = message.error()
            if error is None:
                records.append(_record(message))
                position, at_end = records[-1].offset + 1, False
            elif error.code() == KafkaError._PARTITION_EOF:
                position, at_end = message.offset() or 0, True
            elif error.code() in _GONE:
                self._fail(_topic_lost(self._partition.topic))
                return False
        if position >= 0:
            self._report(True)
            self._take(records, position, at_end)
        return True

    def _state(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._stopping.is_set():
            self._report(False)

    def _report(self, reachable: bool) -> None:
        if reachable != self._reachable:
            self._reachable = reachable
            log.warning("Kafka is back" if reachable else "Kafka is gone; reads go on, writes are refused")


def _topic_lost(topic: str) -> RegistryError:
    return RegistryError(
        f"The topic {topic} no longer holds what this registry has read from it: it was deleted or truncated.",
        "Restore it from an export, then start the registry again.",
    )


def _record(message: Message) -> Record:
    offset, (_, written_ms) = message.offset(), message.timestamp()
    assert offset is not None
    return Record(offset, message.key(), message.value(), written_ms)


class Writer:
    """The one writer. Every method blocks; call them from one thread."""

    def __init__(self, settings: KafkaSettings, topic: str = TOPIC) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                **settings.client(),
                "transactional.id": f"instep-registry-{topic}",
                "transaction.timeout.ms": int(2 * _WRITE_S * 1000),
                "message.timeout.ms": int(_WRITE_S * 1000),
                "linger.ms": 0,
                "acks": "all",
                "error_cb": lambda _: None,  # what matters of it comes back from each call
            },
            logger=_library,
        )

    def take_over(self) -> None:
        """Make the broker refuse every writer before this one, and end what they left open.

        Raises:
            WriterLost: not possible now.
        """
        try:
            self._producer.init_transactions(_WRITE_S)
        except KafkaException as exc:
            raise WriterLost(exc.args[0].str(), certain=True) from exc

    def write(self, items: Sequence[tuple[bytes, bytes | None]], expected: int) -> list[Record]:
        """Write all items or none, if they land on the offsets from `expected` on, with nothing between them.

        Raises:
            Behind: they did not; nothing is written.
            TooLarge, WriteFailed: nothing is written.
            Fenced, WriterLost: this writer is of no use any more.
        """
        delivered: list[Message] = []
        try:
            self._producer.begin_transaction()
            for key, value in items:
                self._producer.produce(
                    self._topic, value, key, partition=0, on_delivery=lambda _, message: delivered.append(message)
                )
            left = self._producer.flush(_WRITE_S)
        except SystemError as exc:  # what the library makes of a fatal error while it calls us back
            raise self._give_up(exc.__cause__ or exc) from exc
        except (KafkaException, BufferError) as exc:
            raise self._give_up(exc) from exc
        failed = next((message.error() for message in delivered if message.error()), None)
        if failed is not None or left:
            raise self._give_up(KafkaException(failed or KafkaError(KafkaError._TIMED_OUT)))
        records = [_record(message) for message in delivered]
        if [record.offset for record in records] != list(range(expected, expected + len(records))):
            self._abort()
            raise Behind(following(records))
        self._commit()
        return records

    def _commit(self) -> None:
        try:
            self._producer.commit_transaction(_WRITE_S)
        except KafkaException as exc:
            if exc.args[0].code() in _FENCED:
                raise Fenced from exc
            if exc.args[0].txn_requires_abort():
                raise self._give_up(exc) from exc
            raise WriterLost(exc.args[0].str(), certain=False) from exc

    def _give_up(self, exc: BaseException) -> Exception:
        """Abort, and say what that leaves us with."""
        error = exc.args[0] if isinstance(exc, KafkaException) else KafkaError(KafkaError._QUEUE_FULL)
        if error.code() in _FENCED:
            return Fenced()
        try:
            self._abort()
        except WriterLost as lost:
            return lost
        return (TooLarge if error.code() in _TOO_LARGE else WriteFailed)(error.str())

    def _abort(self) -> None:
        try:
            self._producer.abort_transaction(_ABORT_S)
        except KafkaException as exc:
            if exc.args[0].code() in _FENCED:
                raise Fenced from exc
            raise WriterLost(exc.args[0].str(), certain=True) from exc

    def close(self) -> None:
        """Forget what was not written."""
        self._producer.purge()
