"""What an agent gets: consecutive records of one partition."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from instep.journal import TopicPartition
from instep_connectors.kafka.records import Record, from_message


class Batch:
    """Consecutive records of one partition, in its order.

    Attributes:
        tp: topic and partition.
        first: offset of the first record.
        last: offset of the last record.
        attempt: how often this batch has failed before.
    """

    def __init__(
        self, tp: TopicPartition, messages: Sequence[Any], attempt: int = 0, leaving: asyncio.Event | None = None
    ) -> None:
        self.tp, self.attempt = tp, attempt
        self.first: int = messages[0].offset()
        self.last: int = messages[-1].offset()
        self._messages = messages
        self._leaving = leaving or asyncio.Event()

    def __len__(self) -> int:
        return len(self._messages)

    def __repr__(self) -> str:
        return f"Batch({self.tp[0]} [{self.tp[1]}] {self.first}..{self.last}, attempt {self.attempt})"

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """The records: raw bytes, with headers."""
        return tuple(map(from_message, self._messages))

    @property
    def revoked(self) -> bool:
        """Another process takes the partition, or ours stops: finish soon, or raise to leave the batch to the next.

        What is not finished within the app's `drain_s` is delivered again elsewhere while it may still run here.
        """
        return self._leaving.is_set()

    async def wait_revoked(self) -> None:
        """Return when `revoked` becomes true; to wait for it beside something slow."""
        await self._leaving.wait()

    def singles(self) -> list[Batch]:
        """The same records, one batch each."""
        return [Batch(self.tp, [message], self.attempt, self._leaving) for message in self._messages]
