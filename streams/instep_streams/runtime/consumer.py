"""Faust's consumer on librdkafka: it joins the poll thread, the chunks and Faust's agents.

Nothing of Faust's own fetching, acking, seeking and stop-the-world rebalancing runs: that is where it loses changes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Target
from faust.transport.consumer import Consumer as FaustConsumer
from faust.types import TP

from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka.client import Connectivity, consumer_config
from instep_connectors.kafka.faults import fault
from instep_streams.runtime.chunks import Chunk, Chunks, Partition
from instep_streams.runtime.polling import Messages, Offsets, PollThread
from instep_streams.runtime.stream import ChunkMessage

log = logging.getLogger("instep.runtime")
BUFFERED: Final = 32_000
"""Records in memory before fetching stops."""


def group_config(kafka: KafkaSettings, group: str, connectivity: Connectivity) -> dict[str, Any]:
    """Settings of the group consumer: the new group protocol (KIP-848) unless [kafka] options ask for classic.

    The assignor is `range`: `uniform`, the broker's default, and cooperative-sticky give the same partition of two
    topics to different processes.
    """
    classic = kafka.client().get("group.protocol") == "classic"
    protocol: dict[str, Any] = {"group_protocol": "consumer", "group_remote_assignor": "range"}
    if classic:
        # session and heartbeat are the broker's in the new protocol
        protocol = {
            "partition_assignment_strategy": "range",
            "session_timeout_ms": 9_000,
            "heartbeat_interval_ms": 2_000,
        }
    return consumer_config(
        kafka,
        group,
        **protocol,
        auto_offset_reset="error",
        enable_partition_eof=True,
        queued_min_messages=20_000,
        queued_max_messages_kbytes=32_768,
        max_poll_interval_ms=300_000,
        topic_metadata_refresh_interval_ms=10_000,
        error_cb=connectivity.error,
    )


class Consumer(FaustConsumer):
    """One member of the group."""

    app: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        kafka: KafkaSettings = self.app.kafka
        self._connectivity = Connectivity(kafka, self.app.conf.id)
        self.chunks = Chunks(self, size=self.app.batch_size, drain_s=self.app.drain_s)
        self._thread: PollThread | None = None
        self._missing: set[str] = set()
        self._joined = self._empty = False
        self._commit_lock = asyncio.Lock()

    # ---- life cycle

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Join the group. Faust calls it when the agents have started; topics do not change afterwards."""
        if self._thread is not None:
            return
        kafka: KafkaSettings = self.app.kafka
        self._thread = PollThread(
            group_config(kafka, self.app.conf.id, self._connectivity),
            incremental=kafka.client().get("group.protocol") != "classic",
            port=self,
            loop=asyncio.get_running_loop(),
            servers=kafka.bootstrap,
            connectivity=self._connectivity,
            on_missing=self._topic_missing,
        )
        self._thread.start(list(topics))

    async def wait_empty(self) -> None:
        """Finish what was started and commit it. Faust calls it when the app stops."""
        await self.chunks.stop()
        await self.force_commit()
        self._empty = True

    async def on_stop(self) -> None:
        """Commit and leave the group."""
        if not self._empty:
            await self.wait_empty()
        if self._thread is not None:
            # the loop goes on meanwhile: leaving the group runs the revoke callbacks in it
            await asyncio.get_running_loop().run_in_executor(None, self._thread.stop)

    def failed(self, exc: BaseException) -> None:
        """The poll thread has ended: the whole app must."""
        if isinstance(exc, KafkaException):
            exc = fault(exc, f"run consumer group {self.app.conf.id}", self.app.kafka.bootstrap)
        self.app.fail(exc)

    def _topic_missing(self, topic: str) -> None:
        if topic not in self._missing:
            self._missing.add(topic)
            log.warning("Topic %s does not exist yet; waiting for it.", topic)

    # ---- records, from the poll thread, in the event loop

    def fetched(self, messages: Messages, ends: Offsets, hold: TopicPartition | None) -> None:
        """Feed the chunks."""
        self._connectivity.works()
        try:
            for tp, found in messages.items():
                self.chunks.feed(tp, found, deliver=tp != hold)
            for tp, offset in ends.items():
                self.chunks.reached_end(tp, offset)
        except RuntimeError as exc:
            self.app.fail(exc)
        self.backlog_changed()

    def kick(self, tp: TopicPartition) -> None:
        """Deliver what was held back for more to come."""
        if tp in self.chunks.partitions:
            self.chunks.deliver(self.chunks.partitions[tp])

    # ---- what the chunks ask for

    def dispatch(self, chunk: Chunk) -> int:
        """Put the chunk into the queues of the agents that read its topic."""
        tp = TP(*chunk.partition.tp)
        channels = self.app.topics._tp_index.get(tp) or ()
        message = ChunkMessage(tp.topic, tp.partition, chunk.batch.last, 0.0, 0, None, None, None, None, 0, 0, tp)
        message.chunk = chunk
        for channel in channels:
            channel.queue.put_nowait(self.app.create_event(None, chunk.batch, None, message))
        return len(channels)

    def hold(self, partition: Partition) -> None:
        """Stop fetching a partition that waits for a retry, so that its backlog does not fill the memory."""
        tp = partition.tp
        self._cast(lambda consumer: _still(self, partition) and consumer.pause([Target(*tp)]))

    def release(self, partition: Partition) -> None:
        """Fetch it again."""
        self._cast(lambda consumer: consumer.resume([Target(*partition.tp)]))

    def backlog_changed(self) -> None:
        """Open or close the tap."""
        if self._thread is None:
            return
        queued = self.chunks.queued
        if queued >= BUFFERED:
            self._thread.room.clear()
        elif queued < BUFFERED // 2:
            self._thread.room.set()

    def _cast(self, command: Any) -> None:
        if self._thread is not None:
            self._thread.cast(command)

    # ---- rebalances

    async def assigned(self, committed: Mapping[TopicPartition, int | None]) -> None:
        """Partitions came."""
        for tp, offset in committed.items():
            self.chunks.add(tp, offset)
        await self._tell_faust()
        await self.app.on_partitions_assigned.send({TP(*tp) for tp in committed})
        if not self._joined:
            self._joined = True
            self.app.flow_control.resume()  # clears the agents' queues, so only before the first chunk
            self.resume_flow()
        self.app.in_group.set()

    async def revoked(self, tps: list[TopicPartition]) -> Offsets:
        """Partitions will go."""
        return await self.chunks.leave(tps)

    async def gone(self, tps: list[TopicPartition]) -> None:
        """Partitions went, after the last commit for them."""
        self.chunks.remove(tps)
        await self._tell_faust()
        await self.app.on_partitions_revoked.send({TP(*tp) for tp in tps})

    async def _tell_faust(self) -> None:
        now = self.assignment()
        self._set_active_tps(now)
        revoked, new = self.app._update_assignment(now)
        self.app.unassigned = not now
        await self.app.agents.on_rebalance(revoked, new)
        await self.app.topics.on_partitions_assigned(now)

    # ---- commits

    async def force_commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is finished; called each second, and at the end."""
        async with self._commit_lock:
            offsets = self.chunks.uncommitted()
            if not offsets or not await self._commit(offsets):
                return False
            self.chunks.committed(offsets)
            return True

    async def _commit(self, offsets: Mapping[Any, int]) -> bool:
        if self._thread is None:
            return False
        return await self._thread.commit(dict(offsets))

    # ---- the rest of Faust's interface

    def assignment(self) -> set[TP]:
        """The partitions of this process."""
        return {TP(*tp) for tp in self.chunks.partitions}

    async def position(self, tp: TP) -> int | None:
        """The offset behind the last finished record."""
        partition = self.chunks.partitions.get(tp)
        return partition.done if partition else None

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Nothing to do: positions are set when partitions are assigned."""
        return {}

    async def _seek(self, partition: TP, offset: int) -> None:
        raise RuntimeError("A group's positions are its commits; use RangeReader to read elsewhere")

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        """Refused, see `_seek`."""
        for tp, offset in partitions.items():
            await self._seek(tp, offset)

    async def _getmany(self, *args: Any) -> Any:
        return {}  # Faust's fetcher does not run

    def _to_message(self, tp: TP, record: Any) -> Any:
        raise RuntimeError("Faust's fetcher does not run")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def highwater(self, tp: TP) -> Any:
        """Unknown; ask `instep_connectors.kafka.end_offsets`."""
        return None

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        """Unknown, see `highwater`."""
        return {}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        """Unknown; ask `instep_connectors.kafka.start_offsets`."""
        return {}

    def topic_partitions(self, topic: str) -> int | None:
        """Unknown; ask `instep_connectors.kafka.partitions`."""
        return None

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        """The given one; librdkafka chooses."""
        return partition

    async def create_topic(self, *args: Any, **kwargs: Any) -> None:
        """Refused: `instep_connectors.kafka.ensure_topics` creates topics."""
        raise RuntimeError("Topics are created with ensure_topics")

    def close(self) -> None:
        """Done by `on_stop`."""


def _still(consumer: Consumer, partition: Partition) -> bool:
    """Whether the partition is still ours and waits for its retry, when the poll thread comes to pause it."""
    return (
        consumer.chunks.partitions.get(partition.tp) is partition and partition.held and not partition.leaving.is_set()
    )
