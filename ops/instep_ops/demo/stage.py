"""The demo from curtain up to the proof: parts, processes, the shop's life, drain, verify."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from platformdirs import user_data_path

from instep.errors import EnvironmentFault
from instep.flowfile import load_all
from instep.settings import Settings
from instep_ops.assemble import RUN_FILE, programs, resolve
from instep_ops.demo.chaos import chaos
from instep_ops.demo.command import DEFAULT_RATE, DemoOptions
from instep_ops.demo.drain import Drain
from instep_ops.demo.gauge import Gauge
from instep_ops.demo.latency import Observer
from instep_ops.demo.pairs import Pairs
from instep_ops.demo.project import SOURCE, write_project
from instep_ops.demo.proof import prove, show_proof
from instep_ops.demo.report import DemoReport
from instep_ops.demo.shop import Shop
from instep_ops.demo.show import Show
from instep_ops.demo.store import Life, open_shop
from instep_ops.embedded import DataFolder, Progress
from instep_ops.parts import Parts
from instep_ops.supervisor import Supervisor

_T = TypeVar("_T")
INTERRUPTED = 130


class Demo:
    """One run of the demo.

    Args:
        options: how it runs.
        show: how it speaks.
    """

    def __init__(self, options: DemoOptions, show: Show) -> None:
        self._options = options
        self._show = show
        self._folder = DataFolder(options.data or user_data_path("instep") / "demo")
        self._closing = asyncio.Event()
        self._ending = asyncio.Event()
        self._is_open = False
        self._event = ""
        self._kills: Counter[str] = Counter()

    async def run(self) -> int:
        """Run to the end; gives the exit code.

        Raises:
            InstepError: something a person must mend.
        """
        loop, whole = asyncio.get_running_loop(), asyncio.current_task()
        assert whole is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted, whole)
        self._folder.acquire()
        try:
            if self._options.reset:
                self._folder.clear()
            report = await self._on_parts(write_project(self._folder.path, self._options.target))
        except asyncio.CancelledError:
            return INTERRUPTED
        finally:
            self._folder.release()
        if self._options.report is not None:
            report.write(self._options.report)
        return 0 if report.ok else 1

    def _interrupted(self, whole: asyncio.Task[Any]) -> None:
        """The first Ctrl-C closes the shop; before it opens and after it has closed, it ends the demo."""
        if self._is_open and not self._closing.is_set():
            self._closing.set()
        elif not self._ending.is_set():
            self._ending.set()
            self._show.say("Stopping…")
            whole.cancel()
        else:
            os._exit(INTERRUPTED)

    async def _on_parts(self, raw: Settings) -> DemoReport:
        parts = Parts(raw, stores=True)
        try:
            with self._show.progress() as progress:
                settings, shop = await _to_its_end(asyncio.to_thread(self._set_up, raw, parts, progress))
            supervisor = Supervisor(programs(raw, self._folder.path), self._folder.path, self._on_event)
            async with self._running(parts, supervisor) as processes:
                return await _while_running(processes, self._play(settings, shop, supervisor))
        finally:
            await asyncio.shield(asyncio.to_thread(parts.stop))
            (self._folder.path / RUN_FILE).unlink(missing_ok=True)

    def _set_up(self, raw: Settings, parts: Parts, show: Progress) -> tuple[Settings, Shop]:
        def progress(step: str, fraction: float) -> None:
            if self._ending.is_set():
                raise _Ending
            show(step, fraction)

        where = parts.start(progress)
        progress("Opening the shop", 0.0)
        shop = open_shop(where.sources[SOURCE], self._options.seed, self._options.scale)
        progress("Opening the shop", 1.0)
        where.write(self._folder.path)
        return resolve(raw, where), shop

    @asynccontextmanager
    async def _running(self, parts: Parts, supervisor: Supervisor) -> AsyncIterator[asyncio.Task[None]]:
        """Instep's own processes, as `instep up` runs them, while the context lasts."""
        end = asyncio.Event()
        watching = asyncio.create_task(parts.keep_alive(end, self._on_event))
        processes = asyncio.create_task(supervisor.run(end))
        try:
            yield processes
        finally:
            end.set()
            await asyncio.gather(watching, processes, return_exceptions=True)

    def _on_event(self, name: str, text: str) -> None:
        self._event = f"{name} {text}"

    async def _play(self, settings: Settings, shop: Shop, supervisor: Supervisor) -> DemoReport:
        with self._show.progress() as progress:
            await Drain(settings, progress).run("Bringing everything up to date")
        flows = load_all(settings.flows_dir)
        observer = Observer(settings, [f"flow.{name}" for name in flows])
        with _observing(observer) as ready:
            await asyncio.to_thread(ready.wait)
            opened_us = time.time_ns() // 1000
            life = Life(settings.sources[SOURCE].dsn.reveal(), shop, self._options.rate or DEFAULT_RATE)
            async with Pairs(settings, flows) as pairs:
                seen = pairs if self._show.pairs else None
                await self._open(life, Gauge(settings, life, observer, supervisor, seen), supervisor)
            with self._show.progress() as progress:
                await Drain(settings, progress).run("Draining")
        report, found = await prove(settings, life, observer, opened_us, self._kills)
        show_proof(report, found, self._show)
        return report

    async def _open(self, life: Life, gauge: Gauge, supervisor: Supervisor) -> None:
        """The shop's opening hours."""
        closed = threading.Event()
        living = asyncio.create_task(asyncio.to_thread(life.run, closed))
        havoc = asyncio.create_task(self._havoc(supervisor))
        self._is_open = True
        closes = time.monotonic() + (self._options.for_s or float("inf"))
        try:
            with self._show.live() as show:
                while not self._closing.is_set() and not living.done() and time.monotonic() < closes:
                    show(await gauge.measure("the shop is open", self._event))
                    await _pause(self._closing, min(self._show.every_s, max(0.0, closes - time.monotonic())))
        finally:
            self._closing.set()
            closed.set()
            await asyncio.gather(living, havoc)

    async def _havoc(self, supervisor: Supervisor) -> None:
        if self._options.chaos:
            await chaos(supervisor.pids, self._closing, self._options.seed, self._on_kill)

    def _on_kill(self, name: str) -> None:
        self._kills[name] += 1
        self._event = f"{name} was killed by --chaos"


class _Ending(Exception):
    """Ctrl-C while the parts are set up."""


class _observing:
    """The observer in a thread of its own, while the context lasts."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._stop, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(
            target=observer.run, args=(self._stop, self._ready), name="observer", daemon=True
        )

    def __enter__(self) -> threading.Event:
        self._thread.start()
        return self._ready

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()


async def _while_running(processes: asyncio.Task[None], work: Coroutine[Any, Any, _T]) -> _T:
    """Do the work, unless a process ends for good first.

    Raises:
        InstepError: that process's own sentence.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, processes}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    processes.result()
    raise EnvironmentFault("Instep's processes ended by themselves.", "See the logs in the demo's data folder.")


async def _to_its_end(work: Coroutine[Any, Any, _T]) -> _T:
    """Wait for work in a thread; when we are cancelled, still wait: what it starts must be known, to be stopped."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        task.exception()
        raise


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
