import asyncio
import subprocess
import sys

from instep_ops.demo.chaos import chaos


def program(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code])


async def test_every_process_is_killed_sooner_or_later_and_nothing_after_stop() -> None:
    running = {name: program("import time; time.sleep(60)") for name in ("capture", "worker")}
    stop, killed = asyncio.Event(), list[str]()

    def pids() -> dict[str, int]:
        return {name: process.pid for name, process in running.items() if process.poll() is None}

    def on_kill(name: str) -> None:
        killed.append(name)
        running[name].wait(60)
        if len(killed) == 2:
            stop.set()

    await asyncio.wait_for(chaos(pids, stop, 1, on_kill, every_s=0.01), 30)
    assert sorted(killed) == ["capture", "worker"]
    assert all(process.returncode == -9 for process in running.values())


async def test_a_process_that_is_gone_already_is_no_error() -> None:
    gone = program("")
    gone.wait(60)
    stop, asked = asyncio.Event(), 0

    def pids() -> dict[str, int]:
        nonlocal asked
        asked += 1
        if asked == 3:
            stop.set()
        return {"gone": gone.pid}

    await asyncio.wait_for(chaos(pids, stop, 1, lambda name: None, every_s=0.01), 30)
    assert asked >= 3
