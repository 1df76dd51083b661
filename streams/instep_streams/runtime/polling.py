"""The thread that owns the group consumer: it polls, runs rebalances, carries out commands.

confluent-kafka 2.16 lets one thread at a time into a Consumer; others nap 1 ms until it is free, and a commit from a
second thread starves for ever behind poll and consume. So only this thread touches it, and others send commands.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

import confluent_kafka as ck
from confluent_kafka import OFFSET_BEGINNING, KafkaError, KafkaException

from instep.errors import KafkaFault
from instep.journal import TopicPartition
from instep_connectors.kafka.client import Connectivity
from instep_connectors.kafka.faults import RangeGone, fault, passing

log = logging.getLogger("instep.runtime")
Answer = TypeVar("Answer")
Offsets = dict[TopicPartition, int]
Messages = dict[TopicPartition, list[Any]]

_FETCH: Final = 4_000
_POLL: Final = 0.05
_COMMIT: Final = 5.0
"""Seconds to wait for the answer to a commit."""
_LEAVE: Final = 8.0
"""Seconds to wait for leaving the group."""


class Rebalances(Protocol):
    """What happens in the event loop. All but the coroutines must be quick."""

    async def assigned(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Partitions came, with the group's committed offsets."""
        ...

    async def revoked(self, tps: list[TopicPartition]) -> Offsets:
        """Partitions will go: finish, and say what to commit."""
        ...

    async def gone(self, tps: list[TopicPartition]) -> None:
        """Partitions went."""
        ...

    def fetched(self, messages: Messages, ends: Offsets, hold: TopicPartition | None) -> None:
        """Messages came; `hold`: more of this partition follow at once."""
        ...

    def kick(self, tp: TopicPartition) -> None:
        """Nothing more follows now."""
        ...

    def failed(self, exc: BaseException) -> None:
        """The consumer cannot go on."""
        ...


class PollThread:
    """Runs a subscribed consumer in a thread of its own.

    Args:
        config: of the consumer.
        incremental: the group's protocol adds and takes single partitions (KIP-848), not all at once.
        port: gets what happens, in `loop`.
        loop: the event loop.
        servers: for messages.
        connectivity: knows whether the brokers refuse us.
        on_missing: called (in the thread) when a subscribed topic does not exist.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        incremental: bool,
        port: Rebalances,
        loop: asyncio.AbstractEventLoop,
        servers: str,
        connectivity: Connectivity,
        on_missing: Callable[[str], None],
    ) -> None:
        self._consumer = ck.Consumer({**config, "on_commit": self._on_commit})
        self._incremental, self._port, self._loop, self._servers = incremental, port, loop, servers
        self._connectivity, self._on_missing = connectivity, on_missing
        self._commands: collections.deque[Callable[[Any], Any]] = collections.deque()
        self._committing: tuple[Offsets, asyncio.Future[bool]] | None = None
        self._ours: set[TopicPartition] = set()
        self._quit = threading.Event()
        self.room = threading.Event()
        """Cleared while enough messages wait in memory: then nothing more is fetched."""
        self.room.set()
        self._thread = threading.Thread(target=self._run, name="kafka-poll", daemon=True)

    def start(self, topics: list[str]) -> None:
        """Join the group. Called once, before anyone else uses the consumer."""
        self._consumer.subscribe(topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)
        self._thread.start()

    def stop(self) -> None:
        """Leave the group, running the revoke callbacks. Blocks; the event loop must go on meanwhile.

        Without a broker librdkafka tries to leave for 30 s: then the thread is left to itself, nothing depends on it.
        """
        self._quit.set()
        self.room.set()
        self._thread.join(_LEAVE)

    def cast(self, command: Callable[[Any], Any]) -> None:
        """Have the thread call `command(consumer)` soon; its failure is ignored (the partition is gone)."""
        self._commands.append(command)

    async def commit(self, offsets: Offsets) -> bool:
        """Commit; False: refused (a zombie's), or no answer in time, and the next commit will tell. One at a time.

        The request is asynchronous: a synchronous one would hold up rebalances, and a stop, while no broker answers.
        """
        if not self._thread.is_alive():
            return False
        future: asyncio.Future[bool] = self._loop.create_future()
        self.cast(lambda consumer: self._send_commit(consumer, offsets, future))
        try:
            return await asyncio.wait_for(future, _COMMIT)
        except TimeoutError:
            return False
        finally:
            self._committing = None

    def _send_commit(self, consumer: Any, offsets: Offsets, future: asyncio.Future[bool]) -> None:
        """In the thread. A partition may have gone since the commit was asked for, with a later commit of its own.

        The broker refuses strangers, not members without the partition: it would put the group's offset back, and
        whoever has the partition now would begin with records that are done.
        """
        ours = {tp: offset for tp, offset in offsets.items() if tp in self._ours}
        if ours:
            self._committing = (ours, future)
            consumer.commit(offsets=as_partitions(ours), asynchronous=True)
        else:
            self._tell(_resolve, future, True)

    def _on_commit(self, error: KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        # in the thread; a late answer to an earlier commit has other offsets
        waiting = self._committing
        if waiting is not None and waiting[0] == {(tp.topic, tp.partition): tp.offset for tp in partitions}:
            done = error is None and not any(tp.error for tp in partitions)
            self._tell(_resolve, waiting[1], done)

    def _tell(self, callback: Callable[..., object], *args: Any) -> None:
        """Call it in the event loop; without one (we were left to ourselves at the end) nobody wants to know."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *args)

    # ---- in the thread

    def _run(self) -> None:
        try:
            try:
                while not self._quit.is_set():
                    self._carry_out()
                    self._poll_once()
            finally:
                self._carry_out()
                self._consumer.close()  # runs _on_revoke: commits, then leaves the group
        except BaseException as exc:  # the thread must never die silently
            if self._quit.is_set():
                log.debug("The consumer did not end well: %s", exc)
            else:
                self._tell(self._port.failed, exc)

    def _poll_once(self) -> None:
        room = self.room.is_set()
        if not room:
            # poll(t) is no pause while messages are there: wait for room, then poll(0) for the rebalances' sake
            room = self.room.wait(_POLL)
        # Not consume(n, t): it waits the whole time unless n messages came.
        first = self._consumer.poll(_POLL if room else 0)
        if first is None:
            if self._connectivity.refusal is not None:
                raise fault(self._connectivity.refusal, "let the consumer in", self._servers)
            return
        # A rebalance may run inside of consume(): what was fetched before it must have reached the loop by then.
        tp = (first.topic() or "", first.partition() or 0)
        self._hand_over([first], hold=tp)
        if room:
            self._hand_over(self._consumer.consume(_FETCH, 0), hold=None)
        self._tell(self._port.kick, tp)

    def _hand_over(self, messages: list[Any], hold: TopicPartition | None) -> None:
        found: Messages = {}
        ends: Offsets = {}
        last, current = None, None
        for message in messages:
            error = message.error()
            tp = (message.topic(), message.partition())
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    ends[tp] = message.offset()
                else:
                    self._complain(error, tp)
                continue
            if tp != last:
                current, last = found.setdefault(tp, []), tp
            assert current is not None
            current.append(message)
        if found or ends:
            self._tell(self._port.fetched, found, ends, hold)

    def _complain(self, error: KafkaError, tp: tuple[str | None, int | None]) -> None:
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            self._on_missing(tp[0] or "")
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise RangeGone(
                f"Topic {tp[0]} [{tp[1]}] no longer holds the offset from which this group must go on: retention "
                "deleted records that were not processed, or the topic was created anew.",
                "Set retention.ms=-1 on the topic, then delete the consumer group: it starts at the first record.",
            )
        else:
            exc = fault(error, f"read {tp[0]} [{tp[1]}]", self._servers)
            if isinstance(exc, KafkaFault):
                raise exc

    def _carry_out(self) -> None:
        while self._commands:
            with contextlib.suppress(KafkaException):  # its partition is not ours any more
                self._commands.popleft()(self._consumer)

    # ---- rebalances: librdkafka calls these inside of poll(), consume() and close()

    def _in_loop(self, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _on_assign(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        # Explicit offsets and auto.offset.reset=error: with "earliest", records that retention deleted before they
        # were processed would be skipped silently.
        offsets = self._committed(consumer, partitions)
        if offsets is None:
            return
        self._in_loop(self._port.assigned(offsets))
        targets = [
            ck.TopicPartition(topic, number, OFFSET_BEGINNING if offset is None else offset)
            for (topic, number), offset in offsets.items()
        ]
        (consumer.incremental_assign if self._incremental else consumer.assign)(targets)
        self._ours.update(offsets)
        self._unpause(consumer, targets)

    def _committed(self, consumer: Any, partitions: list[ck.TopicPartition]) -> dict[TopicPartition, int | None] | None:
        """The group's offsets; None: we are stopping."""
        while partitions and not self._quit.is_set():
            try:
                answer = consumer.committed(partitions, timeout=5)
            except KafkaException as exc:
                if not passing(exc):
                    raise
                continue
            if not any(tp.error for tp in answer):
                return {(tp.topic, tp.partition): tp.offset if tp.offset >= 0 else None for tp in answer}
        return None if partitions else {}

    def _on_revoke(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        tps = _tuples(partitions)
        offsets = self._in_loop(self._port.revoked(tps))
        if offsets and not self._quit.is_set():  # the stop has committed, or no broker answers
            try:
                consumer.commit(offsets=as_partitions(offsets), asynchronous=False)
            except KafkaException as exc:
                # a zombie is fenced here; whoever has the partitions now starts at the last commit
                log.warning("The last commit before partitions go was refused; their records come again: %s", exc)
        self._leave(consumer, partitions, tps)

    def _on_lost(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        self._leave(consumer, partitions, _tuples(partitions))

    def _leave(self, consumer: Any, partitions: list[ck.TopicPartition], tps: list[TopicPartition]) -> None:
        self._ours.difference_update(tps)
        self._unpause(consumer, partitions)
        self._in_loop(self._port.gone(tps))
        if self._incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _unpause(self, consumer: Any, partitions: list[ck.TopicPartition]) -> None:
        """Librdkafka keeps our pause flag over a rebalance: given away paused and assigned again, it would stay dry."""
        if partitions:
            try:
                consumer.resume([ck.TopicPartition(tp.topic, tp.partition) for tp in partitions])
            except KafkaException:
                pass  # not ours any more: nothing to resume


def as_partitions(offsets: Mapping[TopicPartition, int]) -> list[ck.TopicPartition]:
    """Offsets as confluent-kafka wants them."""
    return [ck.TopicPartition(topic, number, offset) for (topic, number), offset in offsets.items()]


def _tuples(partitions: list[ck.TopicPartition]) -> list[TopicPartition]:
    return [(tp.topic, tp.partition) for tp in partitions]


def _resolve(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)
