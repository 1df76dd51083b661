"""Waits until everything committed in the store has arrived at the end of the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from instep.errors import StateError
from instep.journal import JournalEntry
from instep.settings import Settings
from instep_ops.demo.project import SOURCE, TARGET
from instep_ops.embedded import Progress
from instep_streams.capture.kafka import last_entry
from instep_streams.delivery.status import status as delivery_status
from instep_streams.flows.status import status as flow_status

_POLL_S = 0.3
PATIENCE_S = 120.0
"""Seconds without any progress after which waiting is given up."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the store's log: everything committed before it lies below it."""

    lsn: int


def mark(dsn: str) -> Mark:
    """Note how far the store has got, with a message that capture passes on at once."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute("SELECT pg_logical_emit_message(true, 'instep', 'drain') - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return Mark(int(row[0]))


class Drain:
    """Follows one mark along the way.

    Args:
        settings: resolved.
        progress: told how far each stage is.
    """

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress

    async def run(self, what: str) -> None:
        """Return when everything committed so far has its outcome.

        Args:
            what: words for the progress, `Filling the CRM`.

        Raises:
            StateError: nothing moved for two minutes.
        """
        dsn = self._settings.sources[SOURCE].dsn.reveal()
        at = await asyncio.to_thread(mark, dsn)
        entry = await self._until(f"{what}: capture", lambda: self._captured(at))
        await self._until(f"{what}: flows", lambda: self._flowed(entry))
        if TARGET in self._settings.targets:
            await self._until(f"{what}: delivery", self._delivered)

    async def _until(self, step: str, ask: Callable[[], Awaitable[tuple[Any, float]]]) -> Any:
        """Ask until the first of the answer's two is not None; the second says how much is left."""
        self._progress(step, 0.0)
        most, least, moved = 1.0, float("inf"), time.monotonic()
        while True:
            try:
                done, left = await ask()
            except (ConnectionError, TimeoutError):
                done, left = None, least
            if done is not None:
                self._progress(step, 1.0)
                return done
            if left < least:
                least, moved = left, time.monotonic()
            most = max(most, left)
            if time.monotonic() - moved > PATIENCE_S:
                raise StateError(f"{step} has not moved for {PATIENCE_S:.0f} s.", "See the logs of its process.")
            self._progress(step, min(0.99, 1.0 - left / most) if left != float("inf") else 0.0)
            await asyncio.sleep(_POLL_S)

    async def _captured(self, at: Mark) -> tuple[JournalEntry | None, float]:
        entry = await asyncio.to_thread(last_entry, self._settings.kafka, SOURCE)
        if entry is None:
            return None, float("inf")
        behind = at.lsn - (entry.last.lsn + 1)
        return (entry, 0.0) if behind <= 0 and entry.whole else (None, float(max(behind, 1)))

    async def _flowed(self, entry: JournalEntry) -> tuple[bool | None, float]:
        found = await asyncio.to_thread(flow_status, self._settings, SOURCE)
        for name, flow in found["flows"].items():
            if flow["fault"]:
                raise StateError(f"Flow {name} stands still: {flow['fault']}", "See the log of the worker.")
        left = max(0, entry.batch - found["emitted_journal_batch"])
        left += sum(flow["waiting"] for flow in found["flows"].values())
        return (True, 0.0) if left == 0 else (None, float(left))

    async def _delivered(self) -> tuple[bool | None, float]:
        waiting = (await delivery_status(self._settings, TARGET))["waiting"]
        return (True, 0.0) if waiting == 0 else (None, float(waiting))
