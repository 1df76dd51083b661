"""One batch, one Kafka transaction, whose last record may say where the others landed.

What a caller must know: an exception of `publish` does not say that nothing was committed. A commit whose answer was
lost is *unknown*. So after any exception throw the publisher away (`aclose`), start a new one (`start` waits until the
brokers have settled the old transaction and fences whoever else uses the id), and only then read with `last_record`
what was committed last.

When `publish` has returned, the batch is durable, but the brokers may still be spreading its commit: a read_committed
reader sees it some milliseconds later, and not in all partitions at the same moment.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import confluent_kafka as ck
from confluent_kafka import KafkaException

from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka.client import Connectivity, producer_config
from instep_connectors.kafka.faults import error_of, fault
from instep_connectors.kafka.records import OutRecord, RawRecord

Offsets = dict[TopicPartition, int]
Last = Callable[[Offsets, Offsets], OutRecord]
Delivered = Callable[[ck.KafkaError | None, Any], None]
Answer = TypeVar("Answer")

_TIMEOUT: Final = 30.0
"""Seconds that one step (start, delivery, commit) may take before the attempt is given up."""
_SLICE: Final = 0.5
"""Seconds of one blocking call, so that `aclose` is noticed."""


class _Landed:
    """Where the records of a batch landed.

    One Python call per record costs 0.1 to 0.6 µs; finding the partition beforehand would cost more.
    """

    def __init__(self) -> None:
        self.starts: Offsets = {}
        self.ends: Offsets = {}
        self._failed: ck.KafkaError | None = None

    def callback(self) -> Delivered:
        """The delivery callback of librdkafka: a plain function, since it is called for each record."""
        starts, ends = self.starts, self.ends

        def delivered(error: ck.KafkaError | None, message: Any) -> None:
            if error is not None:
                self._failed = self._failed or error
                return
            tp, offset = (message.topic(), message.partition()), message.offset()
            if tp not in starts:  # the deliveries of one partition come in its order
                starts[tp] = offset
            ends[tp] = offset + 1

        return delivered

    def failed(self, error: ck.KafkaError | None, _message: Any) -> None:
        """The delivery callback of a record whose place nobody asks for."""
        self._failed = self._failed or error

    def check(self) -> None:
        """Raise the first failed delivery."""
        if self._failed is not None:
            raise KafkaException(self._failed)


class BlockingPublisher:
    """Publishes batches in transactions in the thread that calls. One call at a time.

    Args:
        kafka: the brokers.
        transactional_ids: name the only writer; whoever starts later fences the earlier one. With several, their
            producers take turns: brokers refuse a transaction while they still spread the commit of the last one under
            the same id, and librdkafka then waits 20 ms before it asks again; a second id has no such wait. Each
            transaction still begins only when the one before it is committed, so their order is the same (but the
            control record of one may stand behind the first records of the next).
    """

    def __init__(self, kafka: KafkaSettings, *transactional_ids: str) -> None:
        self._kafka, self._ids, self._id = kafka, transactional_ids, transactional_ids[0]
        self._connectivity = Connectivity(kafka, self._id)
        self._producers: list[ck.Producer] = []
        self._turn = 0
        self._closing = self._broken = False
        self._working = threading.Lock()

    def start(self) -> None:
        """Fence older publishers with this id and wait until their last transactions are settled; see `Publisher`."""
        with self._working:
            self._check_closing()
            self._producers = [self._make(each) for each in self._ids]  # all connect while the first one waits
            for producer in self._producers:
                self._repeat(producer.init_transactions, "start a transactional producer")
        self._connectivity.works()

    def publish(self, records: Iterable[RawRecord], last: Last | None = None) -> tuple[Offsets, Offsets]:
        """Commit all records, and the one that `last` makes of their offsets, or none of them; see `Publisher`."""
        with self._working:
            if self._broken:  # the outcome may be unknown: nothing may come behind it, least of all another id's turn
                raise ConnectionError(f"The publisher {self._id} has been given up; make a new one.")
            try:
                return self._publish(records, last)
            except BaseException:
                self._broken = True
                raise

    def close(self) -> None:
        """Give up what is in flight, also from another thread, and disconnect. Safe to call twice."""
        self._closing = True
        with self._working:
            producers, self._producers = self._producers, []
            for producer in producers:
                _discard(producer)

    def give_up(self) -> None:
        """Make a call that is waiting in another thread end soon."""
        self._closing = True

    def _make(self, transactional_id: str) -> ck.Producer:
        config = producer_config(
            self._kafka,
            transactional_id,
            transactional_id=transactional_id,
            transaction_timeout_ms=60_000,
            delivery_timeout_ms=int(_TIMEOUT * 1000),
            linger_ms=5,  # flush and commit do not wait for it; it only lets large batches form
            error_cb=self._connectivity.error,
        )
        return ck.Producer(config)

    def _publish(self, records: Iterable[RawRecord], last: Last | None) -> tuple[Offsets, Offsets]:
        self._check_closing()
        if not self._producers:
            raise ConnectionError(f"The publisher {self._id} has not been started.")
        producer = self._producers[self._turn]
        self._turn = (self._turn + 1) % len(self._producers)
        try:
            producer.begin_transaction()
        except KafkaException as exc:
            raise fault(exc, "begin a transaction", self._kafka.bootstrap) from exc
        landed = _Landed()
        try:
            self._produce(producer, records, landed.callback())
            if last is not None:
                self._flush(producer)
                landed.check()
                self._produce(producer, [last(landed.starts, landed.ends)], landed.failed)
            try:
                self._repeat(producer.commit_transaction, "commit a transaction")  # also waits for the deliveries
            finally:  # a commit that fails for a delivery does not tell why that failed
                landed.check()
        except BaseException as exc:
            self._abort(producer)
            if isinstance(exc, KafkaException):
                raise fault(exc, f"publish a batch of {self._id}", self._kafka.bootstrap) from exc
            raise
        self._connectivity.works()
        return landed.starts, landed.ends

    def _produce(self, producer: ck.Producer, records: Iterable[RawRecord], delivered: Delivered) -> None:
        produce: Any = producer.produce
        for topic, key, value, partition, headers, timestamp_ms in records:
            number = -1 if partition is None else partition
            pairs = headers if headers is None or type(headers) is list else list(headers)
            while True:
                try:
                    produce(topic, value, key, number, delivered, None, timestamp_ms, pairs)
                    break
                except BufferError:  # the local queue is full: let it drain
                    self._check_closing()
                    producer.poll(0.05)

    def _flush(self, producer: ck.Producer) -> None:
        # delivery.timeout.ms bounds it: every record is delivered or failed by then
        while producer.flush(_SLICE):
            self._check_closing()

    def _repeat(self, call: Callable[[float], None], doing: str) -> None:
        """Transactional calls go on where they were when they are repeated after a time-out."""
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                return call(_SLICE)
            except KafkaException as exc:
                if not error_of(exc).retriable() or time.monotonic() > deadline:
                    raise fault(exc, doing, self._kafka.bootstrap) from exc
            self._check_closing()

    def _abort(self, producer: ck.Producer) -> None:
        """Make room for other readers at once; when it fails, the next start with our id does it."""
        try:
            producer.abort_transaction(_SLICE * 4)
        except KafkaException:
            return

    def _check_closing(self) -> None:
        if self._connectivity.refusal is not None:
            raise fault(self._connectivity.refusal, f"let {self._id} in", self._kafka.bootstrap)
        if self._closing:
            raise ConnectionError(f"The publisher {self._id} was closed while it waited for Kafka.")


class Publisher:
    """Publishes batches in transactions. One call at a time; its work runs in one thread.

    Args:
        kafka: the brokers.
        transactional_ids: name the only writer, see `BlockingPublisher`; whoever starts later fences the earlier one.
    """

    def __init__(self, kafka: KafkaSettings, *transactional_ids: str) -> None:
        self._id = transactional_ids[0]
        self._io = ThreadPoolExecutor(1, thread_name_prefix=f"publish-{self._id}")
        self._blocking = BlockingPublisher(kafka, *transactional_ids)
        self._closing = self._broken = False

    async def start(self) -> None:
        """Fence older publishers with these ids and wait until their last transactions are settled.

        Raises:
            ConnectionError: no broker answers; make a new publisher and try again.
            KafkaFault: refused.
        """
        await self._in_thread(self._blocking.start)

    async def publish(self, records: Iterable[RawRecord], last: Last | None = None) -> tuple[Offsets, Offsets]:
        """Commit all records, and the one that `last` makes of their offsets, or none of them.

        Args:
            records: in the order they must have; those of one partition keep it.
            last: called in the publisher's thread with (starts, ends) when all records have an offset.

        Returns:
            Per topic-partition the offset of the first record, and the one behind the last, without the record `last`.

        Raises:
            ConnectionError: a passing fault. The outcome may be unknown, see the module's docstring.
            Fenced: another publisher took an id, or the broker ended our transaction after its time-out.
            KafkaFault: refused: record too large, rights, no such topic.
        """
        return await self._in_thread(self._blocking.publish, records, last)

    async def aclose(self) -> None:
        """Give up what is in flight and release the connection. Safe to call twice."""
        self._blocking.give_up()
        if not self._closing:
            self._closing = True
            await asyncio.get_running_loop().run_in_executor(self._io, self._blocking.close)
        self._io.shutdown(wait=False)

    async def _in_thread(self, work: Callable[..., Answer], *args: Any) -> Answer:
        if self._closing or self._broken:
            raise ConnectionError(f"The publisher {self._id} has been given up; make a new one.")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._io, work, *args)
        except BaseException:
            self._broken = True  # also when our caller was cancelled: the outcome is unknown
            raise


def _discard(producer: ck.Producer) -> None:
    producer.purge()
    with suppress(KafkaException):  # a fatal error of its own, told late: nothing of it is wanted any more
        producer.flush(0)
