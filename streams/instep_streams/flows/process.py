"""The worker process of one source: the journal in, documents out.

A Faust agent consumes the journal, so the consumer group gives exactly one active worker per source and a warm standby.
The authoritative place is in the state database, not in the group's offset.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from instep.errors import ConfigError, InstepError
from instep.failpoints import hit
from instep.settings import Settings
from instep.telemetry import DOCUMENTS, LAG, POSITION
from instep.topics import emission_topic, journal_topic
from instep_connectors.kafka import Fenced, Publisher, TopicSpec, ensure_topics, topics
from instep_schemas.ciphers import hold
from instep_streams.flows.outbox import read_marker
from instep_streams.flows.worker import Outgoing, Worker, failure
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app, run_app

log = logging.getLogger("instep.worker")

_LOOK_S: Final = 0.05
"""How often the process looks whether it has the journal and whether keys wait."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
_SWITCH_S: Final = 0.0005


def group(settings: Settings, source: str) -> str:
    """The consumer group of a source's workers."""
    return f"{settings.name}-worker-{source}"


async def run(settings: Settings, source: str, stop: asyncio.Event) -> None:
    """Keep a source's flows true until `stop` is set.

    Passing faults (Kafka, registry, state database) never end it.

    Raises:
        InstepError: a person must look; nothing is lost, the worker goes on from here when started again.
    """
    if source not in settings.sources:
        raise ConfigError(f"There is no source {source!r}.", f"There are: {', '.join(settings.sources)}.")
    hold(settings.encryption)
    sys.setswitchinterval(_SWITCH_S)
    topic = journal_topic(source) if settings.sources[source].journal else emission_topic(source)
    if not await _topic_there(settings, source, topic, stop):
        return
    app = flow_app(group(settings, source), settings.kafka)
    office = _Office(settings, source, app, topic)
    flow_agent(app, [topic], name=f"worker {source}")(office.records)
    looking = asyncio.create_task(office.look())
    try:
        await run_app(app, stop)
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await office.aclose()


async def _topic_there(settings: Settings, source: str, topic: str, stop: asyncio.Event) -> bool:
    """Wait for capture to make the journal, or make the marker's topic; False when the process is to stop."""
    pause, told = _FIRST_PAUSE_S, ""
    while not stop.is_set():
        reason = f"capture has not made the topic {topic} yet"
        try:
            if not settings.sources[source].journal:
                await asyncio.to_thread(ensure_topics, settings.kafka, [_marker_topic(source)])
            if topic in await asyncio.to_thread(topics, settings.kafka):
                return True
        except (ConnectionError, TimeoutError) as exc:
            reason = str(exc)
        if reason != told:
            log.info("the worker of %s waits: %s", source, reason)
        told = reason
        await _sleep(pause, stop)
        pause = min(pause * 2, 1.0)
    return False


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


def _marker_topic(source: str) -> TopicSpec:
    return TopicSpec(emission_topic(source), 1, {"cleanup.policy": "compact"})


class _Office:
    """Keeps one `Worker` with its publisher while this process has the partition of the topic that it subscribes to.

    That is the journal. A source without one is followed by the worker itself; the marker's topic, of one partition
    too, says which process has it.

    Blocking work runs in one thread, one piece at a time; after any failure both are thrown away and made anew, which
    finds out what was committed and sends what was not.
    """

    def __init__(self, settings: Settings, source: str, app: FlowApp, topic: str) -> None:
        self._settings, self._source, self._app, self._topic = settings, source, app, topic
        self._journal = settings.sources[source].journal
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"worker-{source}")
        self._worker: Worker | None = None
        self._publisher: Publisher | None = None
        self._told = ""

    async def records(self, batch: Batch) -> None:
        """The agent's work: some journal records."""
        if self._journal:
            async with self._lock:
                await self._guarded(self._step, batch)

    async def look(self) -> None:
        """Beside the agent: start work when the journal is ours, and work on what was put off between batches."""
        pause = _FIRST_PAUSE_S
        await self._app.in_group.wait()
        while True:
            try:
                async with self._lock:
                    busy = await self._guarded(self._between)
                pause = _FIRST_PAUSE_S
                await asyncio.sleep(0 if busy else _LOOK_S)  # lets the agent in
            except InstepError as exc:
                self._app.fail(exc)
                return
            except Exception as exc:
                self._tell(exc)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)

    def _tell(self, exc: Exception) -> None:
        reason = (str(exc).splitlines() or [type(exc).__name__])[0]
        if reason != self._told:
            log.warning("the worker of %s waits: %s", self._source, reason)
        self._told = reason

    async def _guarded(self, work: Any, *args: Any) -> Any:
        try:
            return await work(*args)
        except BaseException as exc:
            await self._drop()
            if isinstance(exc, Fenced):
                raise ConnectionError("another worker of this source has taken over the publisher") from exc
            if isinstance(exc, Exception):
                raise failure(exc) from exc
            raise

    async def _step(self, batch: Batch) -> None:
        worker = await self._ready()
        await self._publish_all(worker, worker.step(batch.records))

    async def _between(self) -> bool:
        if not any(tp.topic == self._topic for tp in self._assignment()):
            await self._drop()
            return False
        worker = await self._ready()
        if not self._journal:
            await self._publish_all(worker, worker.poll(0.0 if worker.waiting else _LOOK_S))
        if not worker.waiting:
            return not self._journal
        await self._publish_all(worker, worker.slice())
        return True

    def _assignment(self) -> Any:
        consumer: Any = self._app.consumer
        return consumer.assignment()

    async def _ready(self) -> Worker:
        """The worker, opened if need be: fences older publishers, learns what was published, sends the rest."""
        if self._worker is not None and self._publisher is not None:
            return self._worker
        await self._drop()
        await self._blocking(ensure_topics, self._settings.kafka, [_marker_topic(self._source)])
        self._publisher = Publisher(self._settings.kafka, group(self._settings, self._source))
        await self._publisher.start()
        marker = await self._blocking(read_marker, self._settings.kafka, self._source)
        worker: Worker = await self._blocking(self._open)
        await self._publish_all(worker, worker.start(marker))
        self._told = ""
        return worker

    def _open(self) -> Worker:
        # in the thread, so that a worker whose opener was cancelled meanwhile is still found and closed
        self._worker = Worker(self._settings, self._source)
        return self._worker

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def _publish_all(self, worker: Worker, steps: Iterator[Outgoing]) -> None:
        """Run a generator of steps in the thread, publishing what each gives."""
        while (outgoing := await self._blocking(next, steps, None)) is not None:
            if self._publisher is None:
                raise ConnectionError("the publisher was closed")
            await self._publisher.publish(outgoing.records)
            hit("worker.produced")
            self._count(outgoing)

    def _count(self, outgoing: Outgoing) -> None:
        progress = outgoing.batch.progress
        for each in outgoing.batch.documents:
            DOCUMENTS.labels(each.flow).inc()
        if progress.committed_us and not outgoing.batch.seed:
            LAG.labels("flow").observe(max(0.0, time.time() - progress.committed_us / 1e6))
        POSITION.labels("flow", self._source).set(progress.position.lsn)

    async def _blocking(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _drop(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.aclose()
        await self._blocking(self._close)

    async def aclose(self) -> None:
        """Release everything."""
        async with self._lock:
            await self._drop()
        self._thread.shutdown(wait=False)
