"""Run one process of Instep until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable

from instep_ops.cli.faults import INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a process to stop; SIGHUP: the terminal was closed."""

Work = Callable[[asyncio.Event], Awaitable[None]]


async def until_stopped(work: Work) -> None:
    """Run `work(stop)`; the first signal of `SIGNALS` sets `stop`, a second one ends the process at once."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        await work(stop)
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def run_process(name: str, work: Work, metrics: str = "") -> None:
    """Run a process with logging, metrics and the bond to its supervisor.

    Args:
        name: as it stands in the log, `capture:shop`.
        work: gets the event that asks it to stop.
        metrics: `HOST:PORT` of its metrics; empty: none.
    """
    from instep.telemetry import configure, serve_metrics
    from instep_ops.supervised import end_with_supervisor

    configure(name)
    end_with_supervisor()
    if metrics:
        serve_metrics(metrics)
    asyncio.run(until_stopped(work))
