"""Faust's stream, agent and table manager, with what would lose or delay changes taken out."""

from __future__ import annotations

import weakref
from collections.abc import AsyncIterator
from typing import Any

from faust.agents import Agent
from faust.streams import Stream, _current_event
from faust.tables.manager import TableManager
from faust.types.tuples import ConsumerMessage

from instep_streams.runtime.batch import Batch
from instep_streams.runtime.chunks import Chunk, NotDone


class ChunkMessage(ConsumerMessage):
    """A chunk as Faust's machinery carries it around."""

    __slots__ = ("chunk",)

    chunk: Chunk

    def ack(self, consumer: Any, n: int = 1) -> bool:
        """Do nothing.

        Stock paths (a decode error in the conductor, a skipped event) ack what no agent has processed; no ack may
        move a commit here.
        """
        return False


class FlowStream(Stream[Any]):
    """Yields batches. A chunk is done only when the loop body comes back normally after the yield."""

    app: Any
    channel: Any

    async def __aiter__(self) -> AsyncIterator[Batch]:
        """Batches, one at a time."""
        self._finalized = True
        started = await self.maybe_start()
        consumer = self.app.consumer
        try:
            while not self.should_stop:
                try:
                    event = await self.channel.queue.get()
                except StopAsyncIteration:  # mode's way to end a channel
                    return
                chunk = event.message.chunk
                if chunk.partition.running is not chunk:
                    continue  # its partition left while it was queued
                chunk.started = True
                self.current_event = event
                _current_event.set(weakref.ref(event))
                error: BaseException | None = NotDone("the agent left its loop body")
                try:
                    yield chunk.batch
                    error = None
                finally:
                    self.current_event = None
                    consumer.chunks.finish(chunk, error)
        finally:
            self._channel_stop_iteration(self.channel)
            if started:
                await self.stop()
                self.service_reset()


class FlowAgent(Agent):
    """An exception that leaves the agent fails the chunk at once.

    Without this it would stay in flight until the generator is collected, and the traceback keeps that alive.
    """

    app: Any

    async def _execute_actor(self, coro: Any, aref: Any) -> None:
        async def guarded() -> None:
            try:
                await coro
            except Exception as exc:
                event = aref.stream.get_active_stream().current_event
                if event is not None:
                    self.app.consumer.chunks.finish(event.message.chunk, exc)
                raise

        await super()._execute_actor(guarded(), aref)


class NoTables(TableManager):
    """No tables: none of Faust's fixed 1 s sleep at the start, and none of its recovery, which loses records."""

    async def on_start(self) -> None:
        """Say at once that all (no) tables are ready."""
        if len(self):
            raise RuntimeError("Faust tables are not supported; keep state in PostgreSQL")
        self._tables_finalized.set()
        self._tables_registered.set()

    async def on_stop(self) -> None:
        """Nothing to stop."""
