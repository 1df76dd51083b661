"""Kills processes of the running demo at random: what `--chaos` does."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable, Mapping

EVERY_S = 5.0


async def chaos(
    pids: Callable[[], Mapping[str, int]], stop: asyncio.Event, seed: int, on_kill: Callable[[str], None],
    every_s: float = EVERY_S,
) -> None:  # fmt: skip
    """SIGKILL one of the running processes every few seconds, until `stop`.

    Args:
        pids: the running processes' ids by name.
        stop: ends it.
        seed: decides which one.
        on_kill: told the name.
        every_s: seconds between two kills.
    """
    chance = random.Random(seed)
    while True:
        try:
            await asyncio.wait_for(stop.wait(), every_s)
            return
        except TimeoutError:
            running = pids()
        if running:
            name = chance.choice(sorted(running))
            try:
                os.kill(running[name], signal.SIGKILL)
            except ProcessLookupError:  # it ended by itself just now
                continue
            on_kill(name)
