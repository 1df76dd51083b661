"""One budget of API calls per account, shared by flows and processes; a share of it stays for live documents."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol


class Lane(StrEnum):
    """Who calls."""

    LIVE = "live"
    REPLAY = "replay"


RESERVED = {Lane.LIVE: 0.0, Lane.REPLAY: 0.5}
"""The part of a full budget that a lane must leave untouched."""


def spend(
    level: float, elapsed: float, cost: float, rate: float, burst: float, floor: float = 0.0
) -> tuple[float, float]:
    """Take calls out of a token bucket.

    Args:
        level: calls that were left `elapsed` seconds ago.
        elapsed: seconds since then.
        cost: calls to take; a cost above the burst is taken when the bucket is full, and leaves a debt.
        rate: calls that flow in per second.
        burst: the most the bucket holds.
        floor: calls to leave in it.

    Returns:
        The new level, and 0 when the calls were taken, else the seconds until there are enough.
    """
    level = min(burst, level + max(0.0, elapsed) * rate)
    needed = min(burst, floor + cost)
    if level >= needed:
        return level - cost, 0.0
    return level, (needed - level) / rate


class Account(Protocol):
    """Where the level of an account is kept: the ledger."""

    async def spend(self, cost: float, rate: float, burst: float, floor: float) -> float:
        """Take calls; 0, or the seconds to wait."""
        ...


class Budget:
    """Paces the calls of one process to one account.

    Args:
        account: keeps the level for all processes.
        calls_per_second: 0: no limit of ours; a pause that the target asks for still holds.
        lane: who calls.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        account: Account,
        calls_per_second: float,
        lane: Lane = Lane.LIVE,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._account, self._rate, self._lane = account, calls_per_second, lane
        self._clock = clock
        self._paused: dict[str, float] = {}

    def pause(self, scope: str, seconds: float) -> None:
        """The target asks everyone of the scope to hold back; a longer pause that runs already stays."""
        self._paused[scope] = max(self._paused.get(scope, 0.0), self._clock() + seconds)

    @property
    def paused(self) -> float:
        """Seconds that the longest pause still lasts."""
        return max(self._paused.values(), default=0.0) - self._clock()

    async def take(self, cost: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Wait until `cost` calls may be made, and take them.

        Args:
            cost: calls.
            sleep: waits for some seconds; may raise to stop.
        """
        while (wait := self.paused) > 0:
            await sleep(wait)
        self._paused.clear()
        if self._rate <= 0:
            return
        burst = max(self._rate, cost)
        while (wait := await self._account.spend(cost, self._rate, burst, burst * RESERVED[self._lane])) > 0:
            await sleep(wait)
