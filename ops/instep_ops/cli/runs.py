"""Run one process of Instep until a signal asks it to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from instep_ops.cli.faults import INTERRUPTED

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""What asks a process to stop; SIGHUP: the terminal was closed."""

_SWITCH_S: Final = 0.0005
"""A process's reader and publisher share one interpreter: the default of 5 ms would be most of a batch's latency."""

_GARBAGE: Final = (500_000, 20, 50)
"""Thresholds of the garbage collector. A batch is 30,000 objects that are no garbage: looking at them all for cycles at
every 700th, as Python does otherwise, costs a tenth of the CPU and more; of what remains there are few."""

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
    """Run a process with logging, metrics, the bond to its supervisor, and an interpreter tuned for many changes.

    Args:
        name: as it stands in the log, `capture:shop`.
        work: gets the event that asks it to stop.
        metrics: `HOST:PORT` of its metrics; empty: none.
    """
    from instep.telemetry import configure, serve_metrics
    from instep_ops.supervised import end_with_supervisor

    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_GARBAGE)
    configure(name)
    end_with_supervisor()
    if metrics:
        serve_metrics(metrics)
    asyncio.run(until_stopped(work))
