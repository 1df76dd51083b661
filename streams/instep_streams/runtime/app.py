"""A Faust app on librdkafka, its agents, and how a process runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import faust
from faust.transport import base

from instep.errors import InstepError, KafkaFault
from instep.settings import KafkaSettings
from instep_connectors.kafka.records import OutRecord, Record
from instep_streams.runtime.batch import Batch
from instep_streams.runtime.consumer import Consumer
from instep_streams.runtime.producer import Producer
from instep_streams.runtime.stream import FlowAgent, FlowStream, NoTables

log = logging.getLogger("instep.runtime")

Outputs = Sequence[OutRecord] | None
Work = Callable[[Batch], Awaitable[Outputs]]
DeadLetter = Callable[[Record, Exception, int], Awaitable[Outputs]]


class Transport(base.Transport):
    """librdkafka instead of aiokafka."""

    Consumer = Consumer
    Producer = Producer
    default_port = 9092
    driver_version = "confluent-kafka"


class FlowApp(faust.App):
    """A Faust app with our transport. For one run.

    The transport is put in by overriding the two methods that make it, so that nothing of Faust's registries changes.

    Attributes:
        kafka: the brokers.
        batch_size: most records of a batch.
        drain_s: seconds a rebalance or a stop waits for begun batches.
        in_group: set when the process is a member of the group and knows its partitions.
        ending: set when the app must end because of `failure`.
        failure: what `run_app` will raise.
    """

    def __init__(self, app_id: str, kafka: KafkaSettings, batch_size: int, drain_s: float, **options: Any) -> None:
        self.kafka, self.batch_size, self.drain_s = kafka, batch_size, drain_s
        self.in_group, self.ending = asyncio.Event(), asyncio.Event()
        self.failure: BaseException | None = None
        super().__init__(app_id, **options)

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Any:
        return Transport(self.conf.broker_producer, self)

    async def on_first_start(self) -> None:
        """Faust would create a data folder in the current directory."""

    def fail(self, exc: BaseException) -> None:
        """End the app: `run_app` stops it without committing what is not finished, and raises the error."""
        if self.failure is None:
            self.failure = exc
        self.ending.set()


def flow_app(
    app_id: str, kafka: KafkaSettings, *, batch_size: int = 500, drain_s: float = 30.0, commit_s: float = 1.0
) -> FlowApp:
    """An app whose agents get batches.

    Args:
        app_id: the consumer group.
        kafka: the brokers.
        batch_size: most records of a batch.
        drain_s: seconds a rebalance or a stop waits for batches that agents have begun.
        commit_s: seconds between commits.
    """
    # every app's life is logged by Faust in dozens of lines that help nobody who runs Instep
    for logger in ("faust", "mode", "instep_streams.runtime"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    return FlowApp(
        app_id,
        kafka,
        batch_size,
        drain_s,
        broker="kafka://instep",  # not used: our transport reads app.kafka
        Stream=FlowStream,
        Agent=FlowAgent,
        TableManager=NoTables,
        web_enabled=False,  # Faust's server would listen on all interfaces
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        broker_commit_interval=commit_s,
        processing_guarantee="at_least_once",  # Faust's exactly_once loses and repeats
    )


def flow_agent(
    app: FlowApp,
    topics: Sequence[str],
    *,
    name: str = "",
    concurrency: int = 1,
    max_attempts: int = 5,
    dead_letter: DeadLetter | None = None,
) -> Callable[[Work], Work]:
    """Make an async function of a batch an agent of the app.

    The function gets consecutive records of one partition; batches of one partition never overlap and keep their
    order. It returns records to produce (or None); they are acknowledged before the batch counts as done. It must not
    block the event loop: rebalances run in it. It may be called again with the same records.

    When it raises `InstepError`, the app ends with it (a person must act) and commits nothing of the batch. Any other
    exception: the batch comes again after 0.1, 0.2, … up to 30 s, while only its partition waits. After
    `max_attempts` failures it is called with one record at a time, and each record that still fails goes to
    `dead_letter(record, error, failures)`; what that returns is produced too. If the dead letter fails for a reason
    that does not pass, the app ends without committing. Without `dead_letter` the batch is tried for ever.

    Args:
        app: of `flow_app`.
        topics: what it reads.
        name: for logs; default: the function's name.
        concurrency: batches (of different partitions) at once.
        max_attempts: failures of a batch before its records are tried one by one.
        dead_letter: puts a record away.
    """

    def register(work: Work) -> Work:
        title = name or work.__name__

        async def loop(stream: Any) -> None:
            async for batch in stream:
                try:
                    alone = dead_letter is not None and batch.attempt >= max_attempts
                    outputs = await (_one_by_one(work, batch, dead_letter) if alone else work(batch))
                    await _producer(app).send_many(outputs or ())
                except InstepError as exc:
                    _fail(app, batch, exc)
                    app.fail(exc)
                except Exception as exc:
                    _fail(app, batch, exc)
                    # said once per batch, and once more when its records are tried one by one
                    level = logging.WARNING if batch.attempt in (0, max_attempts) else logging.DEBUG
                    if not batch.revoked:
                        log.log(level, "%s: %r failed, it will be tried again: %s", title, batch, _words(exc))

        topic = app.topic(*topics, value_serializer="raw", value_type=bytes)
        app.agent(topic, name=f"{app.conf.id}.{title}", concurrency=concurrency)(loop)
        return work

    return register


def _words(exc: Exception) -> str:
    """The first line of an error: further ones (PostgreSQL's DETAIL) may show a row's values."""
    return f"{type(exc).__name__}: {(str(exc).splitlines() or ['no message'])[0][:300]}"


def _producer(app: FlowApp) -> Producer:
    producer = app.producer
    assert isinstance(producer, Producer)
    return producer


def _fail(app: FlowApp, batch: Batch, exc: Exception) -> None:
    consumer: Any = app.consumer
    running = consumer.chunks.partitions.get(batch.tp)
    if running is not None and running.running is not None and running.running.batch is batch:
        running.running.error = exc


async def _one_by_one(work: Work, batch: Batch, dead_letter: DeadLetter | None) -> list[OutRecord]:
    assert dead_letter is not None
    outputs: list[OutRecord] = []
    for single in batch.singles():
        try:
            outputs += await work(single) or ()
        except InstepError:
            raise
        except Exception as exc:
            outputs += await _put_away(dead_letter, single.records[0], exc, batch.attempt)
    return outputs


async def _put_away(dead_letter: DeadLetter, record: Record, exc: Exception, failures: int) -> Sequence[OutRecord]:
    try:
        return await dead_letter(record, exc, failures) or ()
    except (InstepError, ConnectionError, TimeoutError):
        raise
    except Exception as failed:
        raise KafkaFault(
            f"The dead letter of {record.topic} [{record.partition}] offset {record.offset} cannot be written: "
            f"{_words(failed)}.",
            "Nothing of it was committed: mend the cause and start again.",
        ) from failed


async def run_app(app: FlowApp, stop: asyncio.Event) -> None:
    """Run the app in this event loop until `stop` is set; then finish begun batches, commit, leave the group.

    Raises:
        InstepError: an agent or Kafka met something a person must mend; nothing unfinished is committed.
        Exception: a programming error in the transport.
    """
    waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(app.ending.wait())]
    try:
        await app.start()
        waits.append(asyncio.ensure_future(app._crashed.wait()))
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await app.stop()
    reason = app.failure or app.crash_reason
    if reason is not None:
        raise reason
