"""Which records an agent gets next, and how far a partition may be committed. No I/O, no Faust.

Rules, each of which stock Faust breaks and loses changes by:

* one chunk in flight per partition: its order holds, also when several agents run at once;
* a chunk is done only when the agent's loop body came back normally; raise, break and cancel are not done;
* a chunk that failed stays in memory and comes again after a back-off; only its partition waits;
* what may be committed is one integer per partition, the end of its last finished chunk: there is no list of acked
  offsets, so compacted offsets and control records cannot be taken for gaps and be committed over;
* a partition that is taken away is left after its *started* chunk; what was only queued is dropped unread.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from instep.journal import TopicPartition
from instep_streams.runtime.batch import Batch

log = logging.getLogger("instep.runtime")


class NotDone(Exception):
    """The agent left its loop body without finishing the batch."""


class Port(Protocol):
    """What the chunks need from the consumer around them."""

    def dispatch(self, chunk: Chunk) -> int:
        """Hand the chunk to the agents; give how many got it (0: none is ready yet)."""
        ...

    def hold(self, partition: Partition) -> None:
        """Stop fetching: the partition waits for a retry."""
        ...

    def release(self, partition: Partition) -> None:
        """Fetch it again."""
        ...

    def backlog_changed(self) -> None:
        """Records were taken from the queues."""
        ...


class Partition:
    """One assigned partition.

    Attributes:
        tp: which.
        queue: messages, fetched and not yet given to an agent.
        retry: the messages of a chunk that failed or could not be dispatched; they come before the queue.
        running: the chunk the agents have.
        done: everything below this offset is finished; None: nothing yet.
        committed: what the group has committed, as far as we know.
        fetched: the offset behind the last message fed.
        end: the offset at which the fetcher found the end of the log.
        attempt: failures of the chunk at hand.
        ready_at: time of the next attempt.
        leaving: it is being taken away, or the process stops.
        held: fetching is paused while it waits for a retry.
        idle: no chunk is running.
    """

    __slots__ = (
        "attempt",
        "committed",
        "done",
        "end",
        "fetched",
        "held",
        "idle",
        "leaving",
        "queue",
        "ready_at",
        "retry",
        "running",
        "tp",
    )

    def __init__(self, tp: TopicPartition, committed: int | None = None) -> None:
        self.tp = tp
        self.queue: deque[Any] = deque()
        self.retry: list[Any] | None = None
        self.running: Chunk | None = None
        self.done: int | None = None
        self.committed = committed
        self.fetched = self.end = 0
        self.attempt, self.ready_at = 0, 0.0
        self.leaving = asyncio.Event()
        self.held = False
        self.idle = asyncio.Event()
        self.idle.set()

    def take(self, most: int) -> list[Any]:
        """The next messages, at most so many; empty when there are none."""
        if self.retry is not None:
            out, self.retry = self.retry, None
            return out
        return [self.queue.popleft() for _ in range(min(most, len(self.queue)))]


class Chunk:
    """One attempt at a batch.

    Attributes:
        partition: where it comes from.
        messages: raw, for another attempt.
        batch: what the agents see.
        agents: how many have not finished it.
        started: an agent has begun.
        error: why it failed.
    """

    __slots__ = ("agents", "batch", "error", "messages", "partition", "started")

    def __init__(self, partition: Partition, messages: list[Any]) -> None:
        self.partition, self.messages = partition, messages
        self.batch = Batch(partition.tp, messages, partition.attempt, partition.leaving)
        self.agents, self.started = 0, False
        self.error: BaseException | None = None


class Chunks:
    """All assigned partitions. Lives in the event loop; nothing here is called from another thread.

    Args:
        port: the consumer around it.
        size: most records of one chunk.
        drain_s: seconds that a partition's leave waits for a started chunk.
        first_delay: seconds before the second attempt; doubled for each further one.
        max_delay: most seconds between two attempts.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        port: Port,
        *,
        size: int = 500,
        drain_s: float = 30.0,
        first_delay: float = 0.1,
        max_delay: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._port, self._size, self._drain_s = port, size, drain_s
        self._first_delay, self._max_delay, self._clock = first_delay, max_delay, clock
        self.partitions: dict[TopicPartition, Partition] = {}
        self.stopping = False

    @property
    def queued(self) -> int:
        """Messages waiting in memory, without partitions that wait for a retry: these must not stop the others."""
        return sum(len(p.queue) for p in self.partitions.values() if not p.held)

    # ---- assignment

    def add(self, tp: TopicPartition, committed: int | None) -> None:
        """A partition was assigned."""
        self.partitions[tp] = Partition(tp, committed)

    async def leave(self, tps: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Finish what was started in these partitions; give the offsets to commit before they go."""
        leaving = [self.partitions[tp] for tp in tps if tp in self.partitions]
        for partition in leaving:
            partition.leaving.set()
        await self._drain(leaving)
        return self.uncommitted(p.tp for p in leaving)

    def remove(self, tps: Iterable[TopicPartition]) -> None:
        """The partitions are gone; results of chunks that still run will be ignored."""
        for tp in tps:
            partition = self.partitions.pop(tp, None)
            if partition is not None:
                partition.leaving.set()
        self._port.backlog_changed()

    async def stop(self) -> None:
        """Hand out nothing more, and wait for what was started."""
        self.stopping = True
        for partition in self.partitions.values():
            partition.leaving.set()
        await self._drain(list(self.partitions.values()))

    async def _drain(self, partitions: Sequence[Partition]) -> None:
        waits = []
        for partition in partitions:
            chunk = partition.running
            if chunk is None:
                continue
            if chunk.started:
                waits.append(partition.idle.wait())
            else:
                partition.running, partition.retry = None, chunk.messages
                partition.idle.set()
        if not waits:
            return
        try:
            await asyncio.wait_for(asyncio.gather(*waits), self._drain_s)
        except TimeoutError:
            log.error("Work is still running after %g s; its records will be delivered again.", self._drain_s)

    # ---- records in

    def feed(self, tp: TopicPartition, messages: list[Any], *, deliver: bool = True) -> None:
        """Fetched messages of one partition, in its order.

        Raises:
            RuntimeError: they are not behind those fed before; going on could commit over unread ones.
        """
        partition = self.partitions.get(tp)
        if partition is None or partition.leaving.is_set():
            return
        if messages[0].offset() < partition.fetched:
            raise RuntimeError(
                f"{tp[0]} [{tp[1]}]: offset {messages[0].offset()} came after {partition.fetched - 1} was read."
            )
        partition.fetched = messages[-1].offset() + 1
        partition.queue.extend(messages)
        if deliver:
            self.deliver(partition)

    def reached_end(self, tp: TopicPartition, offset: int) -> None:
        """The fetcher has read everything below this offset; control records stand between it and the last record."""
        partition = self.partitions.get(tp)
        if partition is None or partition.leaving.is_set():
            return  # records in front of this end may have been dropped unread, by `feed`
        partition.end = max(partition.end, offset)
        self._settle_end(partition)

    def _settle_end(self, partition: Partition) -> None:
        """With nothing left to do, control records at the end count as read: the lag at rest is 0."""
        if partition.running is None and partition.retry is None and not partition.queue:
            if partition.end > max(partition.done or 0, partition.fetched, partition.committed or 0):
                partition.done = partition.end

    def deliver(self, partition: Partition) -> None:
        """Give the agents the partition's next chunk, if it is time for one."""
        if partition.running is not None or partition.leaving.is_set() or self.stopping:
            return
        if self._clock() < partition.ready_at:
            return
        messages = partition.take(self._size)
        if not messages:
            return
        chunk = Chunk(partition, messages)
        partition.running = chunk
        partition.idle.clear()
        chunk.agents = self._port.dispatch(chunk)
        if chunk.agents == 0:
            partition.running, partition.retry = None, messages
            partition.idle.set()
            self._later(0.05, partition)
        self._port.backlog_changed()

    def _later(self, delay: float, partition: Partition) -> None:
        asyncio.get_running_loop().call_later(delay, self.deliver, partition)

    # ---- results

    def finish(self, chunk: Chunk, error: BaseException | None = None) -> None:
        """An agent is through with the chunk; when it was the last one, go on, or try again later."""
        partition = chunk.partition
        if partition.running is not chunk:
            return  # taken away meanwhile
        chunk.error = chunk.error or error
        chunk.agents -= 1
        if chunk.agents > 0:
            return
        partition.running = None
        partition.idle.set()
        if chunk.error is None:
            self._succeeded(partition, chunk)
        else:
            self._failed(partition, chunk)

    def _succeeded(self, partition: Partition, chunk: Chunk) -> None:
        partition.done, partition.attempt, partition.ready_at = chunk.batch.last + 1, 0, 0.0
        if partition.held and not partition.leaving.is_set():
            partition.held = False
            self._port.release(partition)
        self.deliver(partition)
        self._settle_end(partition)

    def _failed(self, partition: Partition, chunk: Chunk) -> None:
        partition.attempt += 1
        partition.retry = chunk.messages
        delay = min(self._max_delay, self._first_delay * 2.0 ** min(partition.attempt - 1, 16))
        partition.ready_at = self._clock() + delay
        if partition.leaving.is_set() or self.stopping:
            return
        if not partition.held:
            partition.held = True
            self._port.hold(partition)
        self._later(delay + 0.002, partition)

    # ---- commits

    def uncommitted(self, tps: Iterable[TopicPartition] | None = None) -> dict[TopicPartition, int]:
        """Per partition, the offset to commit where it differs from what was committed."""
        chosen = self.partitions.values() if tps is None else [p for t in tps if (p := self.partitions.get(t))]
        return {p.tp: p.done for p in chosen if p.done is not None and p.done != p.committed}

    def committed(self, offsets: dict[TopicPartition, int]) -> None:
        """The group's offsets were committed."""
        for tp, offset in offsets.items():
            if tp in self.partitions:
                self.partitions[tp].committed = offset
