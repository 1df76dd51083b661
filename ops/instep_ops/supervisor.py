"""Runs a project's processes: starts them in order, restarts what crashes, stops what a person must mend.

A process that ends with the exit code of an `InstepError` ends the whole run, with its sentence: trying again cannot
help. Any other end is a crash: it is started again, with back-off. Each child holds the reading end of a pipe as its
standard input; when the supervisor dies, however it dies, the pipe closes and the child ends itself
(`instep_ops.supervised`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from instep.errors import EnvironmentFault, InstepError

log = logging.getLogger(__name__)

SUPERVISED = "INSTEP_SUPERVISED"
"""Set in the environment of every child: its standard input is the supervisor's pipe, its output a log file."""

OnEvent = Callable[[str, str], None]
"""Told the process's name and what happened to it."""

_LOG_BYTES = 10_000_000
_LOG_CHECK_S = 30.0


@dataclass(frozen=True)
class Program:
    """One process to run.

    Attributes:
        name: as people know it, `capture:shop`.
        command: program and arguments.
        env: added to our environment.
        stop_s: seconds it may take to end after SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_s: float = 20.0

    @property
    def file_name(self) -> str:
        """Its name as part of a file name."""
        return self.name.replace(":", "-").replace("/", "-")


@dataclass(frozen=True)
class BackOff:
    """How long to wait before a crashed process is started again.

    Attributes:
        first: seconds before the first restart; doubles with each crash in a row.
        most: the longest wait, seconds.
        calm: a process that ran this long, seconds, counts as healthy again.
    """

    first: float = 0.1
    most: float = 30.0
    calm: float = 20.0

    def delay(self, crashes: int) -> float:
        """Seconds to wait after that many crashes in a row (from 1)."""
        return min(self.most, self.first * 2.0 ** min(crashes - 1, 20))


def final_codes() -> frozenset[int]:
    """Exit codes after which a restart cannot help: those of the `InstepError` tree, and a wrong command line (2)."""

    def codes(kind: type[InstepError]) -> Iterator[int]:
        yield kind.exit_code
        for sub in kind.__subclasses__():
            yield from codes(sub)

    return frozenset(codes(InstepError)) - {1}


class _Ended(Exception):
    """A process ended for good; carries its own sentence."""

    def __init__(self, fault: InstepError) -> None:
        super().__init__(str(fault))
        self.fault = fault


class _Child:
    """One program, kept running."""

    def __init__(self, program: Program, folder: Path, back_off: BackOff, on_event: OnEvent) -> None:
        self.program = program
        self.log = folder / "logs" / f"{program.file_name}.log"
        self._note = folder / "run" / f"{program.file_name}.pid"
        self._back_off = back_off
        self._tell = on_event
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def keep_running(self) -> None:
        """Run it until `stop`, again after each crash.

        Raises:
            _Ended: it ended with a code that a restart cannot help.
        """
        crashes = 0
        while not self._stopping.is_set():
            started, begin = time.monotonic(), self.log.stat().st_size if self.log.exists() else 0
            code = await self._run_once()
            if self._stopping.is_set():
                return
            if code in final_codes():
                raise _Ended(self._fault(code, begin))
            crashes = 1 if time.monotonic() - started > self._back_off.calm else crashes + 1
            delay = self._back_off.delay(crashes)
            self._tell(self.program.name, f"{_how(code)}; starts again in {delay:.1f} s; see {self.log}")
            self.restarts += 1
            try:
                await asyncio.wait_for(self._stopping.wait(), delay)
            except TimeoutError:
                continue

    async def _run_once(self) -> int:
        reading, writing = os.pipe()
        try:
            self._process = await self._start(reading)
            self._note.write_text(str(self._process.pid), encoding="ascii")
            self._tell(self.program.name, f"started, process {self._process.pid}")
            return await self._ended(self._process)
        finally:
            os.close(writing)
            self._note.unlink(missing_ok=True)

    async def _start(self, reading: int) -> asyncio.subprocess.Process:
        try:
            with self.log.open("ab") as out:
                return await asyncio.create_subprocess_exec(
                    *self.program.command, stdin=reading, stdout=out, stderr=out, start_new_session=True,
                    env={**os.environ, **self.program.env, SUPERVISED: "1"},
                )  # fmt: skip
        except OSError as exc:
            sentence = f"{self.program.name} cannot be started: {exc.strerror}: {self.program.command[0]}."
            raise _Ended(EnvironmentFault(sentence)) from exc
        finally:
            os.close(reading)

    async def _ended(self, process: asyncio.subprocess.Process) -> int:
        """Wait for its end; when we are stopping, bring it about."""
        stopping, ended = asyncio.create_task(self._stopping.wait()), asyncio.create_task(process.wait())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not ended.done():
            process.send_signal(signal.SIGTERM)
            await asyncio.wait([ended], timeout=self.program.stop_s)
        if not ended.done():
            self._tell(self.program.name, f"did not end within {self.program.stop_s:.0f} s and was killed")
            process.kill()
        return await ended

    def _fault(self, code: int, begin: int) -> InstepError:
        sentence = _last_error(self.log, begin) or f"{_how(code)}; see {self.log}."
        fault = InstepError(f"{self.program.name}: {sentence}")
        fault.exit_code = code
        return fault

    def stop(self) -> None:
        """Let `keep_running` end the process and return."""
        self._stopping.set()

    def rotate(self) -> None:
        """Keep the log small: its content moves to `….log.1`, its file stays (the child holds it open)."""
        # ponytail: lines written between copy and truncate are lost; a rotating writer in each child if that matters
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.with_name(self.log.name + ".1").write_bytes(self.log.read_bytes())
            os.truncate(self.log, 0)


class Supervisor:
    """Runs programs until it is told to stop.

    Args:
        programs: in the order in which they start; they stop in the reverse order.
        folder: gets `logs/` and `run/` (process ids).
        on_event: told about starts, crashes and restarts.
        back_off: waits between restarts.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        folder: Path,
        on_event: OnEvent | None = None,
        *,
        back_off: BackOff = BackOff(),  # frozen
    ) -> None:
        self._children = [_Child(program, folder, back_off, on_event or _log_event) for program in programs]
        self._folder = folder

    def pids(self) -> dict[str, int]:
        """Process ids of what runs now."""
        return {child.program.name: child.pid for child in self._children if child.pid is not None}

    def restarts(self) -> dict[str, int]:
        """How often each program crashed."""
        return {child.program.name: child.restarts for child in self._children}

    def logs(self) -> dict[str, Path]:
        """The log file of each program."""
        return {child.program.name: child.log for child in self._children}

    async def run(self, stop: asyncio.Event) -> None:
        """Run everything until `stop` is set, or a program ends for good.

        Raises:
            InstepError: that program's own sentence and exit code.
        """
        for name in ("logs", "run"):
            (self._folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        tasks = [asyncio.create_task(child.keep_running()) for child in self._children]
        rotation = asyncio.create_task(self._rotate())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            rotation.cancel()
            for child, task in zip(reversed(self._children), reversed(tasks), strict=True):
                child.stop()
                await asyncio.wait([task])
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ended:
            if isinstance(end, _Ended):
                raise end.fault
            if isinstance(end, BaseException):
                raise end

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(_LOG_CHECK_S)
            for child in self._children:
                child.rotate()


def _log_event(name: str, text: str) -> None:
    log.info("%s: %s", name, text)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended unexpectedly with exit code {code}"


def _last_error(path: Path, begin: int) -> str:
    """The sentence that a process of ours prints before it ends with an error."""
    with path.open("rb") as file:
        file.seek(begin if begin <= path.stat().st_size else 0)
        lines = file.read().decode(errors="replace").splitlines()
    found = [line.removeprefix("Error: ") for line in lines if line.startswith("Error: ")]
    return found[-1] if found else ""
