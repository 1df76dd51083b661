"""The worker process of a source: the journal in, documents out.

A Faust agent consumes the journal, so the consumer group gives exactly one active worker per source and a warm standby.
The authoritative place is in the state database, not in the group's offset.

Where several workers share a source, or it has no journal, or others are joined to it, each follows its input by
itself, and the agent consumes the markers' topic: it has a partition for each share of the keys, and the group says
which process works on which share.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import psycopg

from instep.errors import ConfigError, InstepError
from instep.failpoints import hit
from instep.settings import Settings
from instep.telemetry import DOCUMENTS, LAG, POSITION
from instep.topics import emission_topic, journal_topic
from instep_connectors.kafka import Fenced, Publisher, ensure_topics, topics
from instep_schemas.ciphers import hold
from instep_streams.flows.layout import Layout, Share, behind, group, require, shares, take, transactional_ids
from instep_streams.flows.outbox import Marker, marker_topic, read_marker
from instep_streams.flows.releases import CLOCK, Clock
from instep_streams.flows.worker import Outgoing, Worker, failure
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app, run_app

log = logging.getLogger("instep.worker")

_LOOK_S: Final = 0.05
"""How often the process looks whether it has the journal and whether keys wait."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0


async def run(settings: Settings, source: str, stop: asyncio.Event, clock: Clock = CLOCK) -> None:
    """Keep a source's flows true until `stop` is set.

    Passing faults (Kafka, registry, state database) never end it.

    Raises:
        InstepError: a person must look; nothing is lost, the worker goes on from here when started again.
    """
    if source not in settings.sources:
        raise ConfigError(f"There is no source {source!r}.", f"There are: {', '.join(settings.sources)}.")
    if source not in settings.leaders:
        leader = settings.leader(source)
        raise ConfigError(f"Source {source} has no worker: it is joined to {leader}.", f"`instep worker {leader}`.")
    hold(settings.encryption)
    layout = await _begin(settings, source, stop)
    if layout is None:
        return
    app = flow_app(group(settings, source, layout.workers), settings.kafka)
    offices = [_Office(settings, source, app, layout, share, clock) for share in shares(settings, source)]
    subscribed = offices[0]
    flow_agent(app, [subscribed.topic], name=f"worker {source}")(subscribed.records)
    looking = [asyncio.create_task(office.look()) for office in offices]
    try:
        await run_app(app, stop)
    finally:
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        for office in offices:
            await office.aclose()


async def _begin(settings: Settings, source: str, stop: asyncio.Event) -> Layout | None:
    """Put the wanted division of keys in force once there is a journal; None when the process is to stop."""
    pause, told = _FIRST_PAUSE_S, ""
    while not stop.is_set():
        try:
            missing = await asyncio.to_thread(_missing, settings, source)
            if missing is None:
                return await asyncio.to_thread(take, settings, source)
            reason = f"capture has not made the topic {missing} yet"
        except (ConnectionError, TimeoutError) as exc:
            reason = str(exc)
        except psycopg.Error as exc:
            failed = failure(exc)
            if not isinstance(failed, ConnectionError):
                raise failed from exc
            reason = str(failed)
        if reason != told:
            log.info("the worker of %s waits: %s", source, reason)
        told = reason
        await _sleep(pause, stop)
        pause = min(pause * 2, 1.0)
    return None


def _missing(settings: Settings, source: str) -> str | None:
    """The journal that is not there yet; None when all are, or there is to be none."""
    own, joined = settings.sources[source], settings.joined(source)
    if own.workers > 1 or not own.journal or joined:
        ensure_topics(settings.kafka, [marker_topic(source, own.workers)])
    known = topics(settings.kafka)
    wanted = map(journal_topic, [source, *joined]) if own.journal else ()
    return next((topic for topic in wanted if topic not in known), None)


async def _sleep(seconds: float, stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


class _Office:
    """Keeps one `Worker` with its publisher while this process has the share's partition of the topic subscribed to.

    Blocking work runs in one thread, one piece at a time. While Kafka commits one step's documents, the next step is
    made; they are published in order, one after the other. After any failure worker and publisher are thrown away and
    made anew, which finds out what was committed and sends what was not, be it of one step or of two.
    """

    def __init__(
        self, settings: Settings, source: str, app: FlowApp, layout: Layout, share: Share, clock: Clock
    ) -> None:  # fmt: skip
        self._settings, self._source, self._app, self._clock = settings, source, app, clock
        self._layout, self._share = layout, share
        self._brought = settings.sources[source].journal and share.of == 1 and not settings.joined(source)
        self.topic = journal_topic(source) if self._brought else emission_topic(source, share.of)
        self._lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"worker-{source}-{share.number}")
        self._worker: Worker | None = None
        self._publisher: Publisher | None = None
        self._publishing: asyncio.Task[Outgoing] | None = None
        self._told = ""

    async def records(self, batch: Batch) -> None:
        """The agent's work: some journal records, or nothing with the markers."""
        if self._brought:
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
        if not any(tp.topic == self.topic and tp.partition == self._share.number for tp in self._assignment()):
            await self._drop()
            return False
        worker = await self._ready()
        if self._publishing is not None and self._publishing.done():
            await self._published(worker)
        if not self._brought:
            await self._publish_all(worker, worker.poll(0.0 if worker.waiting else _LOOK_S))
        if not worker.waiting:
            return not self._brought
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
        await self._blocking(ensure_topics, self._settings.kafka, [marker_topic(self._source, self._share.of)])
        self._publisher = Publisher(self._settings.kafka, *transactional_ids(self._settings, self._source, self._share))
        await self._publisher.start()
        await self._blocking(require, self._settings, self._source, self._layout)
        moved = await self._blocking(behind, self._settings, self._source, self._share, self._layout)
        former = [await self._settle(each) for each in self._former()] if moved else []
        marker = max([await self._blocking(read_marker, self._settings.kafka, self._source, self._share), *former])
        worker: Worker = await self._blocking(self._open)
        await self._publish_all(worker, worker.start(marker))
        self._told = ""
        return worker

    def _former(self) -> Iterator[Share]:
        return (Share(number, count) for count in self._layout.former for number in range(count))

    async def _settle(self, former: Share) -> Marker:
        """End what a worker of an earlier division may still have open, for ever, and see how far it came."""
        publisher = Publisher(self._settings.kafka, *transactional_ids(self._settings, self._source, former))
        try:
            await publisher.start()
        finally:
            await publisher.aclose()
        await self._blocking(ensure_topics, self._settings.kafka, [marker_topic(self._source, former.of)])
        found: Marker = await self._blocking(read_marker, self._settings.kafka, self._source, former)
        return found

    def _open(self) -> Worker:
        # in the thread, so that a worker whose opener was cancelled meanwhile is still found and closed
        self._worker = Worker(self._settings, self._source, self._share, self._layout.generation, self._clock)
        return self._worker

    def _close(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close()

    async def _publish_all(self, worker: Worker, steps: Iterator[Outgoing]) -> None:
        """Run a generator of steps in the thread, publishing what each gives."""
        while (outgoing := await self._blocking(next, steps, None)) is not None:
            await self._published(worker)
            if self._publisher is None:
                raise ConnectionError("the publisher was closed")
            self._publishing = asyncio.create_task(self._publish(self._publisher, outgoing))

    async def _publish(self, publisher: Publisher, outgoing: Outgoing) -> Outgoing:
        await publisher.publish(outgoing.records)
        hit("worker.produced")
        self._count(outgoing)
        return outgoing

    async def _published(self, worker: Worker) -> None:
        """Wait until nothing is on its way to Kafka."""
        task, self._publishing = self._publishing, None
        if task is not None:
            outgoing = await task
            await self._blocking(worker.sent, outgoing.batch)

    def _count(self, outgoing: Outgoing) -> None:
        progress = outgoing.batch.progress
        for flow, count in Counter(each.flow for each in outgoing.batch.documents).items():
            DOCUMENTS.labels(flow).inc(count)
        if progress.newest_us and not outgoing.batch.seed:
            LAG.labels("flow").observe(max(0.0, time.time() - progress.newest_us / 1e6))
        for source in (self._source, *progress.joined):
            POSITION.labels("flow", source).set(progress.of(source).position.lsn)

    async def _blocking(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)

    async def _drop(self) -> None:
        task, self._publishing = self._publishing, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.aclose()
        await self._blocking(self._close)

    async def aclose(self) -> None:
        """Release everything."""
        async with self._lock:
            if self._worker is not None:
                with contextlib.suppress(Exception):  # what Kafka has not got is sent by the next start
                    await self._published(self._worker)
            await self._drop()
        self._thread.shutdown(wait=False)
