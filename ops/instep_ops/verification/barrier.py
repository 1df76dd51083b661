"""Wait until everything below a source position has come through capture and worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from instep.change import format_lsn
from instep.errors import VerifyFailed
from instep.journal import JournalEntry
from instep.settings import Settings
from instep.topics import flow_topic, value_subject
from instep_ops.verification.worker import progress
from instep_ops.verification.written import WrittenTopics
from instep_schemas.client import RegistryClient
from instep_streams.capture.kafka import last_entry

T = TypeVar("T")

PATIENCE_S = 120.0
"""How long a stage may make no progress."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5


class Barrier:
    """The journal and the worker of one source.

    Args:
        settings: resolved.
        source: its name.
        registry: knows the flows' schemas once the worker has registered them.
        patience: seconds a stage may make no progress.
    """

    def __init__(self, settings: Settings, source: str, registry: RegistryClient, patience: float = PATIENCE_S) -> None:
        self._settings, self._source, self._registry, self._patience = settings, source, registry, patience

    async def deployed(self, flows: Collection[str]) -> None:
        """Wait until the worker works on the flows.

        Raises:
            VerifyFailed: it makes no progress.
            InstepError: it cannot be asked.
        """

        async def known() -> tuple[object, bool | None]:
            found = await asyncio.to_thread(progress, self._settings, self._source)
            for joined in self._settings.joined(self._source):  # it may be filling the tables of these
                applied = (await asyncio.to_thread(progress, self._settings, joined)).applied
                found = found._replace(applied=found.applied + applied)
            if not found.flows.issuperset(flows):
                return found, None
            return found, True if await asyncio.to_thread(self._have_schemas, flows) else None

        await self._await(known, f"The worker of {self._source} does not work on {', '.join(sorted(flows))} yet")

    def _have_schemas(self, flows: Collection[str]) -> bool:
        return all(self._registry.latest(value_subject(flow_topic(name))) is not None for name in flows)

    async def passed(self, lsn: int) -> int:
        """Wait until every transaction that committed below the LSN is captured, evaluated and emitted.

        Returns:
            The source's epoch.

        Raises:
            VerifyFailed: a stage makes no progress.
            InstepError: a stage cannot be asked.
        """
        if not self._settings.sources[self._source].journal:
            await self._written(lsn)
            return 0

        async def captured() -> tuple[object, JournalEntry | None]:
            entry = await asyncio.to_thread(last_entry, self._settings.kafka, self._source)
            reached = entry is not None and entry.whole and entry.last.lsn + 1 >= lsn
            return entry and entry.batch, entry if reached else None

        entry = await self._await(captured, f"Capture of {self._source} has not reached {format_lsn(lsn)}")

        async def emitted() -> tuple[object, bool | None]:
            found = await asyncio.to_thread(progress, self._settings, self._source)
            return found, True if found.emitted >= entry.batch else None

        await self._await(emitted, f"The worker of {self._source} has not emitted journal entry {entry.batch}")
        return entry.epoch

    async def _written(self, lsn: int) -> None:
        """As `passed`, of a source whose topics Debezium itself writes."""
        written = WrittenTopics(self._settings, self._source)

        async def confirmed() -> tuple[object, bool | None]:
            found = await asyncio.to_thread(written.confirmed)
            return found, True if found >= lsn else None

        await self._await(confirmed, f"Debezium has not written {self._source} up to {format_lsn(lsn)}")
        ends = await asyncio.to_thread(written.mark)

        async def applied() -> tuple[object, bool | None]:
            done = await asyncio.to_thread(written.applied, ends)
            return await asyncio.to_thread(progress, self._settings, self._source), done or None

        await self._await(applied, f"The worker of {self._source} has not taken what Debezium has written")

    async def _await(self, look: Callable[[], Awaitable[tuple[object, T | None]]], complaint: str) -> T:
        """Look again and again: `look` gives what counts as progress, and the answer once it is there."""
        last, since, pause, why = object(), time.monotonic(), _FIRST_PAUSE_S, ""
        while True:
            try:
                now, answer = await look()
                why = str(getattr(now, "fault", ""))
            except (ConnectionError, TimeoutError) as exc:
                now, answer, why = last, None, str(exc)
            if answer is not None:
                return answer
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > self._patience:
                raise VerifyFailed(
                    f"{complaint}, and made no progress for {self._patience:.0f} s{why and f' ({why})'}.",
                    "See `instep status`; is `instep up` running?",
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
