"""The supervisor with real small processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from instep.errors import ConfigError, EnvironmentFault, InstepError
from instep_ops.supervisor import BackOff, Program, Supervisor, final_codes

QUICK = BackOff(first=0.01, most=0.05)
# What every process of ours does: end with its supervisor, and on SIGTERM.
PROLOGUE = """
import os, signal, sys, time
from instep_ops.supervised import end_with_supervisor
end_with_supervisor(grace_s=5)
"""


def program(name: str, code: str, stop_s: float = 10, prologue: str = PROLOGUE) -> Program:
    return Program(name, (sys.executable, "-c", prologue + code), stop_s=stop_s)


async def until(condition: Callable[[], object], within: float = 60) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


class Run:
    """A supervisor that runs in the background of a test."""

    def __init__(self, folder: Path, *programs: Program) -> None:
        self.events: list[tuple[str, str]] = []
        self.stop = asyncio.Event()
        self.supervisor = Supervisor(programs, folder, lambda *event: self.events.append(event), back_off=QUICK)
        self.task = asyncio.create_task(self.supervisor.run(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.task

    def starts(self, name: str) -> int:
        return sum(event[0] == name and event[1].startswith("started") for event in self.events)


async def test_starts_in_order_and_stops_in_reverse(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    code = f"""
def leave(*_):
    open({str(trace)!r}, "a").write(NAME + " ")
    sys.exit()
signal.signal(signal.SIGTERM, leave)
print("up", flush=True)
time.sleep(60)
"""
    run = Run(tmp_path, *(program(name, f"NAME = {name!r}\n{code}") for name in ("a", "b", "c")))
    logs = run.supervisor.logs()
    await until(lambda: all(log.exists() and "up" in log.read_text() for log in logs.values()))
    pids = run.supervisor.pids()
    assert sorted(pids) == ["a", "b", "c"]
    assert (tmp_path / "run" / "b.pid").read_text() == str(pids["b"])
    await run.end()
    assert trace.read_text().split() == ["c", "b", "a"]
    assert not any(map(psutil.pid_exists, pids.values()))
    assert list((tmp_path / "run").iterdir()) == []


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    run = Run(tmp_path, program("a", "time.sleep(60)"), program("b", "time.sleep(60)"))
    await until(lambda: len(run.supervisor.pids()) == 2)
    first = run.supervisor.pids()
    os.kill(first["a"], signal.SIGKILL)
    await until(lambda: run.supervisor.pids().get("a", first["a"]) != first["a"])
    assert run.supervisor.pids()["b"] == first["b"]
    assert ("a", "was ended by SIGKILL") in [(name, text.split(";")[0]) for name, text in run.events]
    assert run.supervisor.restarts() == {"a": 1, "b": 0}
    await run.end()


@pytest.mark.parametrize("code", [0, 1, 70])
async def test_an_end_that_is_no_fault_of_a_person_is_a_crash(code: int, tmp_path: Path) -> None:
    run = Run(tmp_path, program("a", f"sys.exit({code})"))
    await until(lambda: run.starts("a") >= 3)
    assert not run.task.done()
    await run.end()


async def test_a_fault_for_a_person_stops_everything_and_shows_its_sentence(tmp_path: Path) -> None:
    code = """
print("Error: an old sentence", file=sys.stderr)
print("Error: The slot is in use. Stop the other one.", file=sys.stderr)
print("a log line behind it", file=sys.stderr)
sys.exit(4)
"""
    run = Run(tmp_path, program("steady", "time.sleep(60)"), program("capture:shop", code))
    with pytest.raises(InstepError, match=r"^capture:shop: The slot is in use\. Stop the other one\.$") as caught:
        await run.task
    assert caught.value.exit_code == 4
    assert run.starts("capture:shop") == 1
    assert run.supervisor.pids() == {}


async def test_the_sentence_of_an_earlier_run_is_not_shown_again(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "a.log").write_text("Error: yesterday's\n")
    run = Run(tmp_path, program("a", "sys.exit(3)"))
    with pytest.raises(InstepError, match=r"exit code 3; see .*a\.log"):
        await run.task


async def test_a_program_that_does_not_exist_is_told(tmp_path: Path) -> None:
    run = Run(tmp_path, Program("a", (str(tmp_path / "missing"),)))
    with pytest.raises(EnvironmentFault, match="a cannot be started: No such file"):
        await run.task


async def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(60)"
    run = Run(tmp_path, program("a", stubborn, stop_s=0.2))
    log = run.supervisor.logs()["a"]
    await until(lambda: log.exists() and "up" in log.read_text())
    await run.end()
    assert any("was killed" in text for _, text in run.events)
    assert run.supervisor.pids() == {}


async def test_stop_during_the_wait_for_a_restart_is_at_once(tmp_path: Path) -> None:
    supervisor = Supervisor([program("a", "sys.exit(1)")], tmp_path, back_off=BackOff(first=600, most=600))
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop))
    await until(lambda: supervisor.restarts()["a"] == 1)
    stop.set()
    await asyncio.wait_for(task, 60)


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from instep_ops.supervisor import Program, Supervisor
async def main():
    program = Program("a", (sys.executable, "-c", sys.argv[2]))
    await Supervisor([program], Path(sys.argv[1])).run(asyncio.Event())
asyncio.run(main())
"""


@pytest.mark.parametrize("stubborn", [False, True], ids=["ends on SIGTERM", "ignores SIGTERM"])
def test_children_do_not_outlive_a_killed_supervisor(stubborn: bool, tmp_path: Path) -> None:
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else ""
    code = PROLOGUE.replace("grace_s=5", "grace_s=0.2") + ignore + "print('up', flush=True)\ntime.sleep(600)"
    log, note = tmp_path / "logs" / "a.log", tmp_path / "run" / "a.pid"
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path), code]) as supervisor:
        deadline = time.monotonic() + 60
        while not (log.exists() and "up" in log.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child = psutil.Process(int(note.read_text()))
        supervisor.kill()
    child.wait(60)  # raises TimeoutExpired when it lives on


def test_the_log_is_kept_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instep_ops.supervisor._LOG_BYTES", 100)
    monkeypatch.setattr("instep_ops.supervisor._LOG_CHECK_S", 0.01)
    code = "import time\nwhile True:\n    print('x' * 60, flush=True)\n    time.sleep(0.01)"

    async def scenario() -> None:
        run = Run(tmp_path, program("a", code))
        log = tmp_path / "logs" / "a.log"
        await until(lambda: log.with_name("a.log.1").exists())
        await until(lambda: 0 < log.stat().st_size < 100)
        assert b"\0" not in log.read_bytes()  # the child goes on at the new end, not at its old offset
        await run.end()

    asyncio.run(scenario())


def test_back_off_doubles_up_to_its_limit() -> None:
    back_off = BackOff(first=0.1, most=30)
    assert [back_off.delay(n) for n in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert back_off.delay(10_000) == 30


def test_final_codes_are_those_of_the_error_tree() -> None:
    assert final_codes() == frozenset(range(2, 9))
    assert ConfigError.exit_code in final_codes()
