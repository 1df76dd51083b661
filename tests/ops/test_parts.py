"""The embedded parts of a project as a whole."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from instep.errors import ConfigError
from instep.settings import Settings, parse
from instep_ops.assemble import resolve
from instep_ops.embedded import DataFolder, silent
from instep_ops.parts import Parts

OWN_KAFKA = {"kafka": {"bootstrap": "k:1"}, "data": "data"}


def settings(root: Path, **more: object) -> Settings:
    return parse({"sources": {"shop": {"dsn": "embedded"}}, **OWN_KAFKA, **more}, root)


def until(condition: Callable[[], object], within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_only_the_demo_has_a_store_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sources\.shop\.dsn.*demo only"):
        Parts(settings(tmp_path))
    assert Parts(settings(tmp_path), stores=True).store is not None


def test_only_tryton_can_be_embedded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"targets\.crm\.url"):
        Parts(settings(tmp_path, targets={"crm": {"type": "salesforce", "url": "embedded"}}), stores=True)


async def test_parts_start_are_kept_alive_and_stop(tmp_path: Path) -> None:
    project = settings(tmp_path)
    parts = Parts(project, stores=True)
    run = await asyncio.to_thread(parts.start, silent)
    events: list[str] = []
    stop = asyncio.Event()
    watching = asyncio.create_task(parts.keep_alive(stop, lambda name, text: events.append(f"{name} {text}")))
    try:
        resolved = resolve(project, run)
        assert resolved.registry.url.startswith("http://127.0.0.1:")
        store = resolved.sources["shop"].dsn.reveal()
        for dsn in (store, resolved.state.dsn.reveal()):
            with psycopg.connect(dsn) as conn:
                conn.execute("SELECT 1")
        assert parts.store is not None
        assert parts.store.pid is not None
        os.kill(parts.store.pid, signal.SIGKILL)
        await asyncio.to_thread(until, lambda: events)
        await asyncio.to_thread(until, lambda: parts.store is not None and parts.store.alive())
        assert events == ["store ended unexpectedly; starts again"]
    finally:
        stop.set()
        await watching
        await asyncio.to_thread(parts.stop)
    assert not any(part.alive() for part in parts.all)
    again = Parts(project, stores=True)
    try:
        assert again.start(silent).sources == run.sources  # same port, same data
    finally:
        again.stop()


STARTER = """
import sys, time
from pathlib import Path
from instep.settings import parse
from instep_ops.embedded import DataFolder, silent
from instep_ops.parts import Parts
settings = parse({"sources": {"s": {"dsn": "x"}}, "kafka": {"bootstrap": "k:1"}, "data": "data"}, Path(sys.argv[1]))
DataFolder(settings.data_dir).acquire()
parts = Parts(settings)
parts.start(silent)
print(parts.state.pid, flush=True)
time.sleep(600)
"""


def test_servers_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = psutil.Process(int(starter.stdout.readline()))
        guards = [each for each in psutil.Process(starter.pid).children() if "instep_ops.guard" in each.cmdline()]
        assert len(guards) == 1
        starter.kill()
    server.wait(60)
    guards[0].wait(60)
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    folder.release()
    assert list((tmp_path / "data").glob("*/pid")) == []
