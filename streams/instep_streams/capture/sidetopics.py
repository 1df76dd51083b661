"""Debezium's other topics: transaction boundaries, logical messages, heartbeats. Registered when first used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from instep.topics import key_subject, value_subject
from instep_connectors.postgres.pgoutput import LogicalMessage
from instep_connectors.postgres.selection import matches
from instep_schemas import control
from instep_schemas.control import ControlSchemas
from instep_schemas.envelope import SourceBlock, message_value, transaction_block
from instep_schemas.records import frame
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Record
from instep_streams.capture.options import Compatible
from instep_streams.capture.tables import Registry

_NULL: Final = b"\x00"
_MESSAGES: Final = "io.debezium.connector.postgresql.LogicalDecodingMessageMonitor$LogicalDecodingMessageId@"
"""Debezium counts each logical message by itself, under the text of a Java object, which ends in its hash."""


class SideTopics:
    """Makes the records of the other topics.

    Args:
        settings: which of them are wanted.
        options: how the source is written.
        registry: holds the schemas.
        make_topic: creates the topic when it is missing.

    Every method that makes a record raises what the registry and the broker raise.
    """

    def __init__(
        self, settings: Compatible, options: WireOptions, registry: Registry, make_topic: Callable[[str], object]
    ) -> None:
        self._settings = settings
        self._options = options
        self._registry = registry
        self._make_topic = make_topic
        self._ids: dict[str, tuple[int, int]] = {}

    def wants(self, message: LogicalMessage) -> bool:
        """Whether the prefix filters let a logical message through."""
        included = not self._settings.messages or matches(self._settings.messages, message.prefix)
        return included and not matches(self._settings.not_messages, message.prefix)

    def heartbeat(self) -> Record:
        """A heartbeat."""
        key, value = control.heartbeat_key(self._options.source), control.heartbeat_value(time.time_ns() // 1_000_000)
        return self._record(self._settings.heartbeat_topic, control.heartbeat_schemas, key, value)

    def message(self, message: LogicalMessage, source: SourceBlock, transaction: bytes) -> Record:
        """A logical message."""
        now_ms = time.time_ns() // 1_000_000
        value = message_value(
            self._options, message.prefix, message.content, source, message.lsn, now_ms, transaction
        )  # fmt: skip
        key = control.message_key(message.prefix)
        return self._record(
            self._settings.message_topic, lambda: control.message_schemas(self._options), key, value
        )  # fmt: skip

    def begin(self, transaction: str, committed_ms: int) -> Record:
        """A transaction's begin."""
        return self._transaction(transaction, control.transaction_value("BEGIN", transaction, committed_ms))

    def end(self, transaction: str, committed_ms: int, counts: Counter[str]) -> Record:
        """A transaction's end."""
        return self._transaction(transaction, control.transaction_value("END", transaction, committed_ms, counts))

    def _transaction(self, transaction: str, value: bytes) -> Record:
        topic = self._settings.transaction_topic
        assert topic is not None
        return self._record(topic, control.transaction_schemas, control.transaction_key(transaction), value)

    def _record(self, topic: str, schemas: Callable[[], ControlSchemas], key: bytes, value: bytes) -> Record:
        ids = self._ids.get(topic)
        if ids is None:
            self._make_topic(topic)
            texts = schemas()
            ids = self._ids[topic] = (
                self._registry.register(key_subject(topic), texts.key_text),
                self._registry.register(value_subject(topic), texts.value_text),
            )
        return Record(topic, frame(ids[0], key), frame(ids[1], value), -1, [])


class TransactionCounter:
    """Counts the events of the running transaction and writes its boundaries.

    Args:
        topics: makes the records.
    """

    def __init__(self, topics: SideTopics) -> None:
        self._topics = topics
        self._xid = self._committed_ms = 0
        self._counts: Counter[str] = Counter()
        self.begun = False

    def start(self, xid: int, committed_us: int) -> None:
        """A transaction starts."""
        self._xid, self._committed_ms, self.begun = xid, committed_us // 1000, False
        self._counts = Counter()

    def counts(self) -> Counter[str]:
        """The events so far, to come back to."""
        return self._counts.copy()

    def restore(self, counts: Counter[str]) -> None:
        """Forget the events since `counts`."""
        self._counts = counts

    def begin(self, lsn: int, *, written: bool = False) -> list[Record]:
        """Its BEGIN behind its first event; `written`: an earlier batch holds it."""
        return [] if not self._counts.total() else self.open(lsn, written=written)

    def open(self, lsn: int, *, written: bool = False) -> list[Record]:
        """Its BEGIN, also before any event."""
        if self.begun:
            return []
        self.begun = True
        return [] if written else [self._topics.begin(f"{self._xid}:{lsn}", self._committed_ms)]

    def event(self, collection: str, lsn: int) -> bytes:
        """Count one event, and give its `transaction` field."""
        self._counts[collection] += 1
        return transaction_block(f"{self._xid}:{lsn}", self._counts.total(), self._counts[collection])

    def message(self, lsn: int) -> bytes:
        """Count one logical message, and give its `transaction` field."""
        return self.event(f"{_MESSAGES}{self._counts.total():08x}", lsn)

    def end(self, end_lsn: int) -> list[Record]:
        """Its END when it commits; a transaction without events has none."""
        return [self._topics.end(f"{self._xid}:{end_lsn}", self._committed_ms, self._counts)] if self.begun else []
