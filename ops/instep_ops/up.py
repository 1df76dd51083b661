"""`instep up`: everything of a project on this machine, under one supervisor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from instep.settings import Settings
from instep_ops.assemble import RUN_FILE, programs
from instep_ops.embedded import DataFolder, Progress
from instep_ops.follow import Follower
from instep_ops.parts import Parts
from instep_ops.supervisor import OnEvent, Supervisor


async def up(
    settings: Settings, project: Path, stop: asyncio.Event, progress: Progress, on_event: OnEvent,
    on_ready: Callable[[], None],
) -> None:  # fmt: skip
    """Run a project until `stop` is set.

    Args:
        settings: as loaded.
        project: the folder of instep.toml.
        stop: ends it: the processes first, then the parts, each in reverse order.
        progress: told about downloads and set-up.
        on_event: told about starts, crashes and restarts, and what the processes warn of.
        on_ready: told once, when the parts answer and the processes start.

    Raises:
        InstepError: something a person must mend.
    """
    parts = Parts(settings)
    folder = DataFolder(settings.data_dir)
    folder.acquire()
    try:
        if settings.data is None:
            folder.claim(settings.root)
        await asyncio.to_thread(_start, parts, settings.data_dir, progress)
        on_ready()
        watching = asyncio.create_task(parts.keep_alive(stop, on_event))
        supervisor = Supervisor(programs(settings, project), settings.data_dir, on_event)
        following = asyncio.create_task(Follower(supervisor.logs(), on_event).run())
        try:
            await supervisor.run(stop)
        finally:
            stop.set()
            following.cancel()
            await watching
    finally:
        await asyncio.to_thread(parts.stop)
        (settings.data_dir / RUN_FILE).unlink(missing_ok=True)
        folder.release()


def _start(parts: Parts, data: Path, progress: Progress) -> None:
    parts.start(progress).write(data)
