"""Reading committed records: exact offset ranges (the worker), the last record, a whole topic, a tail.

Readers block; call them in a thread, one call at a time (confluent-kafka lets one thread at a time into a consumer and
makes others nap). Every consumer here assigns its partitions itself and belongs to no group.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import confluent_kafka as ck
from confluent_kafka import KafkaError, KafkaException

from instep.errors import KafkaFault
from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka import admin
from instep_connectors.kafka.client import Connectivity, consumer_config
from instep_connectors.kafka.faults import RangeGone, fault
from instep_connectors.kafka.records import Record, from_message

Range = tuple[int, int]

_JUMP: Final = 20_000
"""Offsets ahead of the fetch position up to which skipping is cheaper than a new consumer."""
_HELD: Final = 50_000
"""Records fetched ahead of what was asked for, over all partitions, before fetching is paused where it runs ahead."""
_LEAST: Final = 1_000
"""Records that each partition may be ahead in any case."""
_SETTLED: Final = 90.0
"""Seconds by which every open transaction is ended: the writers' time-out (60 s) and the broker's look at it."""
_FETCH: Final = 4_000
_POLL: Final = 0.1


class _Partition:
    """One assigned partition.

    Attributes:
        held: records fetched and not handed out yet, in offset order.
        next: every record below this offset was handed out or skipped.
        seen: every committed record below this offset has been fetched.
        paused: fetching is paused because it ran too far ahead.
    """

    __slots__ = ("held", "next", "paused", "seen", "tp")

    def __init__(self, tp: TopicPartition, start: int) -> None:
        self.tp = tp
        self.held: deque[Record] = deque()
        self.next = self.seen = start
        self.paused = False


class RangeReader:
    """Reads exact offset ranges of committed records.

    It goes on fetching behind the ranges it has read, so that a partition's next range is there when it is asked for.

    Args:
        kafka: the brokers.
        name: client id.
        patience: seconds without any progress after which `read` gives up.
    """

    def __init__(self, kafka: KafkaSettings, name: str = "instep-reader", patience: float = 30.0) -> None:
        self._kafka, self._name, self._patience = kafka, name, patience
        self._connectivity = Connectivity(kafka, name)
        self._consumer: ck.Consumer | None = None
        self._partitions: dict[TopicPartition, _Partition] = {}

    def read(self, ranges: Mapping[TopicPartition, Range]) -> Iterator[Record]:
        """Every committed record with start ≤ offset < end, in offset order per partition.

        Control records, aborted and compacted ones are not given and not waited for. Reading a range again, or one
        that is not behind the last, is allowed and costs some 100 ms.

        Raises:
            RangeGone: retention deleted the start of a range, or the topic was created anew.
            ConnectionError: no broker answers for too long.
            TimeoutError: the range is there, but its transaction is still open.
            KafkaFault: refused, or no such topic.
        """
        wanted = {tp: span for tp, span in ranges.items() if span[0] < span[1]}
        self._position(wanted)
        waiting = dict(wanted)
        deadline = time.monotonic() + self._patience
        while waiting:
            for tp, span in list(waiting.items()):
                partition = self._partitions[tp]
                yield from _hand_out(partition, span)
                if partition.seen >= span[1]:
                    del waiting[tp]
                    partition.next = max(partition.next, span[1])
            if not waiting:
                return
            self._resume(waiting)
            if self._fetch(wanted):
                deadline = time.monotonic() + self._patience
            elif time.monotonic() > deadline:
                self._explain(waiting)

    def close(self) -> None:
        """Release the connection; the reader may be used again afterwards. Safe to call twice."""
        consumer, self._consumer = self._consumer, None
        self._partitions.clear()
        if consumer is not None:
            consumer.close()

    # ---- positions

    def _position(self, wanted: Mapping[TopicPartition, Range]) -> None:
        for tp, (start, _) in wanted.items():
            partition = self._partitions.get(tp)
            if partition is None or partition.next <= start <= partition.seen + _JUMP:
                continue
            # Going back, or far ahead. A new consumer instead of a seek: nothing fetched before it can slip in behind.
            self.close()
            break
        new = [(tp, start) for tp, (start, _) in wanted.items() if tp not in self._partitions]
        self._assign(new)
        for tp, (start, _) in wanted.items():
            self._partitions[tp].next = start

    def _assign(self, new: Iterable[tuple[TopicPartition, int]]) -> None:
        targets = [ck.TopicPartition(*tp, start) for tp, start in new]
        if not targets:
            return
        if self._consumer is None:
            self._consumer = ck.Consumer(_reader_config(self._kafka, self._name, self._connectivity))
        try:
            self._consumer.incremental_assign(targets)
        except KafkaException as exc:
            raise fault(exc, f"read {targets[0].topic}", self._kafka.bootstrap) from exc
        for target in targets:
            tp = (target.topic, target.partition)
            self._partitions[tp] = _Partition(tp, target.offset)

    # ---- fetching

    def _fetch(self, wanted: Mapping[TopicPartition, Range]) -> bool:
        consumer = self._consumer
        assert consumer is not None
        # not consume(n, t): it waits the whole time unless n records arrived
        first = consumer.poll(_POLL)
        if first is None:
            if self._connectivity.refusal is not None:
                raise fault(self._connectivity.refusal, "let the reader in", self._kafka.bootstrap)
            return False
        progress = self._take(first, wanted)
        for message in consumer.consume(_FETCH, 0):
            progress |= self._take(message, wanted)
        self._hold_back(wanted)
        if progress:
            self._connectivity.works()
        return progress

    def _take(self, message: Any, wanted: Mapping[TopicPartition, Range]) -> bool:
        partition = self._partitions.get((message.topic(), message.partition()))
        error = message.error()
        if partition is None:
            if error is not None and not error.retriable():
                raise fault(error, "read", self._kafka.bootstrap)
            return False
        if error is None:
            record = from_message(message)
            partition.held.append(record)
            partition.seen = record.offset + 1
            return True
        if error.code() == KafkaError._PARTITION_EOF:
            # behind control records and compacted ones, where no record would say so
            ahead: bool = message.offset() > partition.seen
            partition.seen = max(partition.seen, message.offset())
            return ahead
        return self._failed(partition, error, wanted)

    def _failed(self, partition: _Partition, error: KafkaError, wanted: Mapping[TopicPartition, Range]) -> bool:
        topic, number = partition.tp
        if error.code() not in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            exc = fault(error, f"read {topic} [{number}]", self._kafka.bootstrap)
            if isinstance(exc, ConnectionError):
                return False  # librdkafka goes on by itself
            self.close()
            raise exc
        position = partition.seen
        self.close()  # this consumer does not fetch the partition any more
        if partition.tp in wanted:
            raise self._gone(partition.tp, wanted[partition.tp], position)
        raise ConnectionError(f"Topic {topic} [{number}] was truncated behind what was read; reading starts again.")

    def _gone(self, tp: TopicPartition, span: Range, position: int) -> RangeGone:
        start, end = admin.start_offsets(self._kafka, [tp])[tp], admin.end_offsets(self._kafka, [tp])[tp]
        return RangeGone(
            f"Topic {tp[0]} [{tp[1]}] holds offsets {start} to {end}, but {max(position, span[0])} to {span[1]} are "
            "to be read: retention deleted them, or the topic was created anew.",
            "Set retention.ms=-1 on the topic, then take a new snapshot of the source.",
        )

    def _hold_back(self, wanted: Mapping[TopicPartition, Range]) -> None:
        most = max(_LEAST, _HELD // len(self._partitions))
        ahead = [p for p in self._partitions.values() if len(p.held) > most and not p.paused]
        ahead = [p for p in ahead if p.tp not in wanted or p.seen >= wanted[p.tp][1]]
        self._set_paused(ahead, True)

    def _resume(self, waiting: Iterable[TopicPartition]) -> None:
        self._set_paused([self._partitions[tp] for tp in waiting if self._partitions[tp].paused], False)

    def _set_paused(self, partitions: list[_Partition], paused: bool) -> None:
        if not partitions or self._consumer is None:
            return
        call = self._consumer.pause if paused else self._consumer.resume
        call([ck.TopicPartition(*p.tp) for p in partitions])
        for partition in partitions:
            partition.paused = paused

    def _explain(self, waiting: Mapping[TopicPartition, Range]) -> None:
        """Nothing came for too long: say why."""
        ends = admin.end_offsets(self._kafka, waiting)
        written = admin.end_offsets(self._kafka, waiting, committed_only=False)
        for tp, (start, end) in waiting.items():
            if written[tp] < end:
                position = self._partitions[tp].seen
                self.close()
                raise self._gone(tp, (start, end), position)
        tp, (start, end) = next(iter(waiting.items()))
        raise TimeoutError(
            f"Topic {tp[0]} [{tp[1]}] can be read up to offset {ends[tp]}, but {start} to {end} are to be read: "
            "a transaction is still open."
        )


def _hand_out(partition: _Partition, span: Range) -> Iterator[Record]:
    held, (start, end) = partition.held, span
    while held and held[0].offset < end:
        record = held.popleft()
        partition.next = record.offset + 1
        if record.offset >= start:
            yield record


def _reader_config(kafka: KafkaSettings, name: str, connectivity: Connectivity) -> dict[str, Any]:
    return consumer_config(
        kafka,
        name,
        auto_offset_reset="error",  # a missing offset must be seen, never skipped
        enable_partition_eof=True,
        queued_min_messages=20_000,
        queued_max_messages_kbytes=32_768,
        error_cb=connectivity.error,
    )


def read_topic(kafka: KafkaSettings, topic: str) -> Iterator[Record]:
    """Every committed record from the topic's start to its end as it is now, in offset order per partition.

    Everything published before the call is there: transactions that are open or whose commit is still being spread
    are waited for.

    Raises as `RangeReader.read`; KafkaFault too when there is no such topic.
    """
    count = admin.partitions(kafka, topic)
    if not count:
        raise KafkaFault(f"There is no topic {topic}.", "Start the process that writes it.")
    tps = [(topic, number) for number in range(count)]
    starts, ends = admin.start_offsets(kafka, tps), admin.end_offsets(kafka, tps, committed_only=False)
    reader = RangeReader(kafka, patience=_SETTLED)
    try:
        yield from reader.read({tp: (starts[tp], ends[tp]) for tp in tps})
    finally:
        reader.close()


def last_record(kafka: KafkaSettings, topic: str, partition: int = 0) -> Record | None:
    """The last committed record of the partition; None: it holds none, or there is no such topic.

    Control records and aborted ones stand behind it, so it is searched backwards in growing steps. Transactions that
    are open or whose commit is still being spread are waited for; to learn what a dead writer has committed, start
    its `Publisher` first: that settles what it left open.

    Raises as `RangeReader.read`.
    """
    tp = (topic, partition)
    start, upto = admin.written(kafka, tp)
    reader, step = RangeReader(kafka, patience=_SETTLED), 16
    try:
        while upto > start:
            begin = max(start, upto - step)
            found = deque(reader.read({tp: (begin, upto)}), maxlen=1)
            if found:
                return found[0]
            upto, step = begin, step * 8
        return None
    finally:
        reader.close()


class Follower:
    """Follows topics from given offsets on, as records are committed; for people and tests.

    Args:
        kafka: the brokers.
        at: first offset per topic-partition; or topic names: from the end as it is now.
    """

    def __init__(self, kafka: KafkaSettings, at: Mapping[TopicPartition, int] | Iterable[str]) -> None:
        if not isinstance(at, Mapping):
            known = admin.topics(kafka)
            at = admin.end_offsets(kafka, [(name, p) for name in at for p in range(known.get(name, 0))])
        self._kafka, self._connectivity = kafka, Connectivity(kafka, "instep-follower")
        self._consumer = ck.Consumer(_reader_config(kafka, "instep-follower", self._connectivity))
        self._consumer.assign([ck.TopicPartition(topic, number, offset) for (topic, number), offset in at.items()])

    def poll(self, timeout: float = 1.0) -> Record | None:
        """The next record, or None when none came within `timeout` seconds.

        Raises:
            RangeGone: the asked offset is not in the topic.
            KafkaFault: refused.
        """
        deadline = time.monotonic() + timeout
        while True:
            message: Any = self._consumer.poll(max(0.0, deadline - time.monotonic()))
            if message is None:
                return None
            error = message.error()
            if error is None:
                self._connectivity.works()
                return from_message(message)
            if error.code() == KafkaError._AUTO_OFFSET_RESET:
                raise RangeGone(f"Topic {message.topic()} [{message.partition()}] does not hold the offset asked for.")
            exc = fault(error, f"read {message.topic()}", self._kafka.bootstrap)
            if isinstance(exc, KafkaFault) and error.code() != KafkaError._PARTITION_EOF:
                raise exc

    def __iter__(self) -> Iterator[Record]:
        """Records for ever."""
        while True:
            record = self.poll()
            if record is not None:
                yield record

    def close(self) -> None:
        """Release the connection."""
        self._consumer.close()
