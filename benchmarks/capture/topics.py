"""What a `read_committed` reader of the topics can see: how much, and how soon."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import fastavro
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin import OffsetSpec as _OffsetSpec  # type: ignore[attr-defined]  # not in its stubs

from instep_schemas.client import RegistryClient

Ends = dict[tuple[str, int], int]

_NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE, KafkaError.UNKNOWN_TOPIC_OR_PART)
"""A topic that has just been made answers so."""


class Topics:
    """Looks at topics from outside, the same way for whoever writes them.

    Args:
        bootstrap: of the broker.
        registry: address.
    """

    def __init__(self, bootstrap: str, registry: str) -> None:
        self._bootstrap, self._registry = bootstrap, registry
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
        self._partitions: dict[str, list[int]] = {}
        self._last: Ends = {}

    def ends(self, topics: Iterable[str]) -> Ends:
        """Committed end offset per partition; nothing for a topic that does not exist yet."""
        latest: Any = _OffsetSpec.latest()  # type: ignore[no-untyped-call]  # as above
        wanted = {TopicPartition(topic, p): latest for topic in topics for p in self._of(topic)}
        if not wanted:
            return {}
        found = self._admin.list_offsets(wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=10)
        ends = {}
        for at, future in found.items():
            key = (at.topic, at.partition)
            try:
                self._last[key] = future.result().offset
            except KafkaException as exc:
                if exc.args[0].code() not in _NOT_YET:
                    raise
            ends[key] = self._last.get(key, 0)
        return ends

    def _of(self, topic: str) -> list[int]:
        known = self._partitions.get(topic)
        if known is None:
            entry = self._admin.list_topics(timeout=10).topics.get(topic)
            if entry is None or entry.error is not None:
                return []
            known = self._partitions[topic] = list(entry.partitions)
        return known

    def consumer(self, at: Mapping[tuple[str, int], int]) -> Consumer:
        """A reader that stands at these offsets."""
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "benchmark",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 10,
                "fetch.min.bytes": 1,
            }
        )
        consumer.assign([TopicPartition(topic, p, offset) for (topic, p), offset in at.items()])
        return consumer

    def delivered(self, base: Ends, ends: Ends) -> tuple[int, int]:
        """Changes (records that are no tombstones) between two states of the topics, and the bytes of their values."""
        left = {at for at, end in ends.items() if end > base.get(at, 0)}
        consumer = self.consumer({at: base.get(at, 0) for at in left})
        changes = size = 0
        deadline = time.monotonic() + 60
        try:
            while left:
                for message in consumer.consume(10_000, 0.2):
                    if message.error():
                        raise KafkaException(message.error())
                    value = message.value()
                    if value is not None:
                        changes, size = changes + 1, size + len(value)
                at = consumer.position([TopicPartition(*each) for each in left])
                left -= {(tp.topic, tp.partition) for tp in at if tp.offset >= ends[tp.topic, tp.partition]}
                if time.monotonic() > deadline:
                    raise TimeoutError("the topics could not be read to their end")
        finally:
            consumer.close()
        return changes, size

    def source_times_us(self, values: Iterable[bytes]) -> list[int]:
        """Commit time in the store of each envelope, microseconds."""
        client = RegistryClient(self._registry)
        schemas: dict[int, Any] = {}
        times = []
        for value in values:
            number = int.from_bytes(value[1:5])
            if number not in schemas:
                schemas[number] = fastavro.parse_schema(json.loads(client.schema(number)))
            envelope: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), schemas[number], None)
            times.append(int(envelope["source"]["ts_us"]))
        client.close()
        return times


@dataclass(frozen=True, slots=True)
class Arrival:
    """One change in the hands of a consumer."""

    at_us: int
    value: bytes


class Listener:
    """Notes when changes arrive: a consumer in a thread.

    Args:
        topics: to look at.
        topic: the one to listen to, from now on.
        every: keeps one of so many.
    """

    def __init__(self, topics: Topics, topic: str, every: int) -> None:
        self.seen = 0
        self.arrivals: list[Arrival] = []
        self._every = every
        self._consumer = topics.consumer(topics.ends([topic]))
        self._stopping = False
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        poll, clock = self._consumer.poll, time.time_ns
        while not self._stopping:
            message = poll(0.1)
            if message is None or message.error():
                continue
            value = message.value()
            if value is None:
                continue
            self.seen += 1
            if self.seen % self._every == 0:
                self.arrivals.append(Arrival(clock() // 1000, value))

    def close(self) -> None:
        """Stop listening."""
        self._stopping = True
        self._thread.join()
        self._consumer.close()
