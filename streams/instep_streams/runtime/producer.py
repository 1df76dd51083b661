"""Faust's producer on librdkafka: every send is awaited to its acknowledgement."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping
from typing import Any

import confluent_kafka as ck
from confluent_kafka import KafkaException
from faust.transport.producer import Producer as FaustProducer
from faust.types import TP
from faust.types.tuples import RecordMetadata

from instep.settings import KafkaSettings
from instep_connectors.kafka.client import Connectivity, producer_config
from instep_connectors.kafka.faults import fault
from instep_connectors.kafka.records import OutRecord


class _Acks:
    """Counts the acknowledgements of several records; called in the poll thread."""

    def __init__(self, count: int, done: asyncio.Future[Any], loop: asyncio.AbstractEventLoop) -> None:
        self._left, self._done, self._loop = count, done, loop
        self._error: ck.KafkaError | None = None

    def __call__(self, error: ck.KafkaError | None, message: Any) -> None:
        self._error = self._error or error
        self._left -= 1
        if self._left == 0:
            place = (message.topic(), message.partition(), message.offset())
            self._loop.call_soon_threadsafe(self._resolve, place)

    def _resolve(self, place: Any) -> None:
        if self._done.done():
            return
        if self._error is not None:
            self._done.set_exception(KafkaException(self._error))
        else:
            self._done.set_result(place)


class Producer(FaustProducer):
    """Idempotent; outputs are at least once: a batch that failed half-way is produced again as a whole."""

    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kafka: KafkaSettings = self.app.kafka
        self._servers, who = kafka.bootstrap, f"{self.app.conf.id}-out"
        self._connectivity = Connectivity(kafka, who)
        self._producer = ck.Producer(
            producer_config(kafka, who, linger_ms=2, delivery_timeout_ms=60_000, error_cb=self._connectivity.error)
        )
        self._quit = threading.Event()
        # One thread polls and nobody calls flush(): a second one would eat the reports that flush() waits for.
        self._thread = threading.Thread(target=self._poll, name="kafka-acks", daemon=True)

    async def on_start(self) -> None:
        """Start the thread that serves the acknowledgements."""
        await super().on_start()
        self._thread.start()

    def _poll(self) -> None:
        while not self._quit.is_set():
            self._producer.poll(0.1)

    async def on_stop(self) -> None:
        """Stop the thread. Nobody waits for what is still in flight: awaited sends are done by now."""
        await super().on_stop()
        self._quit.set()
        if self._thread.is_alive():
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    async def send_many(self, records: Iterable[OutRecord]) -> None:
        """Produce, and return when every record is acknowledged by all replicas.

        Raises:
            ConnectionError: no acknowledgement within a minute; some records may be written.
            KafkaFault: refused: too large, no such topic, rights.
        """
        records = list(records)
        if not records:
            return
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        acks = _Acks(len(records), done, loop)
        try:
            for record in records:
                await self._produce(record, acks)
            await done
        except KafkaException as exc:
            raise fault(exc, f"write to {records[0].topic}", self._servers) from exc
        self._connectivity.works()

    async def _produce(self, record: OutRecord, acks: _Acks) -> None:
        topic, key, value, partition, headers, timestamp_ms = record
        number = -1 if partition is None else partition
        pairs: Any = list(headers) if headers is not None else None
        while True:
            try:
                self._producer.produce(topic, value, key, number, acks, None, timestamp_ms, pairs)
                return
            except BufferError:
                await asyncio.sleep(0.01)

    # ---- Faust's interface, for topic.send()

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Any:
        """Produce one record; the awaitable it gives is done when the record is acknowledged."""
        pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
        stamp = int(timestamp * 1000) if timestamp else 0
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        await self._produce(OutRecord(topic, key, value, partition, pairs, stamp), _Acks(1, done, loop))
        return asyncio.ensure_future(self._metadata(topic, done))

    async def _metadata(self, topic: str, done: asyncio.Future[Any]) -> RecordMetadata:
        try:
            _, number, offset = await done
        except KafkaException as exc:
            raise fault(exc, f"write to {topic}", self._servers) from exc
        return RecordMetadata(topic, number, TP(topic, number), offset)

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        """Produce one record and wait for its acknowledgement."""
        metadata: RecordMetadata = await (await self.send(*args, **kwargs))
        return metadata

    async def flush(self) -> None:
        """Wait for Faust's own buffer."""
        await self.buffer.flush()

    def supports_headers(self) -> bool:
        """Always."""
        return True
