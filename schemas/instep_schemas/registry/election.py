"""Which instance writes (docs/adr/0005-registry-leader.md).

The newest announcement in the log names the leader. An instance that finds no leader there, or one that does not
answer, takes over; the fenced writer makes that safe however often and by however many it is done. So a single
instance leads at once, also after a crash.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import aiohttp

from instep_schemas.registry.instance import Announcement, Instance

log = logging.getLogger("instep.registry")

HEALTH: Final = "/health"
_PROBE_S: Final = 1.0
_PROBE_TIMEOUT_S: Final = 2.0
_SILENCES: Final = 3
_BACK_OFF_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)


class Election:
    """Keeps one instance in its part.

    Attributes:
        suspect: set by whoever could not reach the leader: look now.
        settled: set once this instance has led, or has seen the leader answer.
    """

    def __init__(self, instance: Instance, session: aiohttp.ClientSession) -> None:
        self._instance, self._session = instance, session
        self.suspect = asyncio.Event()
        self.settled = asyncio.Event()
        self._silences = 0
        self._failures = 0

    async def run(self) -> None:
        """Lead whenever nobody else does; until cancelled."""
        await self._instance.loaded.wait()
        while True:
            if not self._instance.leading and await self._vacant():
                await self._take_over()
            else:
                await self._pause(_PROBE_S)

    async def _vacant(self) -> bool:
        """Whether nobody leads, as far as can be seen from here."""
        leader = self._instance.announced
        if leader is None:
            return True
        if leader.instance == self._instance.name:
            # our writer is lost: whoever fenced it announces itself within this time
            await self._pause(_PROBE_S)
            return self._instance.announced == leader
        answers = await self._answers(leader)
        self._silences = 0 if answers else self._silences + 1
        if answers:
            self.settled.set()
        return answers is False or self._silences >= _SILENCES

    async def _answers(self, leader: Announcement) -> bool | None:
        """Whether the process that announced itself is there; None: no telling."""
        timeout = aiohttp.ClientTimeout(total=_PROBE_TIMEOUT_S)
        try:
            async with self._session.get(leader.url + HEALTH, timeout=timeout) as response:
                body = await response.json(content_type=None)
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL):
            return False
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return None
        return isinstance(body, dict) and body.get("instance") == leader.instance

    async def _take_over(self) -> None:
        try:
            await self._instance.lead()
        except (ConnectionError, TimeoutError) as exc:
            if not self._failures:
                log.warning("this instance cannot take the lead yet: %s", exc)
            pause = _BACK_OFF_S[min(self._failures, len(_BACK_OFF_S) - 1)]
            self._failures += 1
            await self._pause(pause)
            return
        self._failures = self._silences = 0
        self.settled.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, but not when something changed or the leader is suspected."""
        waits = [asyncio.ensure_future(event.wait()) for event in (self._instance.changed, self.suspect)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._instance.changed.clear()
        self.suspect.clear()
