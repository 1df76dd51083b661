"""One server process: started, watched and ended by its own process id."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from instep.errors import EnvironmentFault
from instep_ops.embedded.folder import read_numbers, write_private

_POLL_S = 0.02


class Server:
    """A child process with a log file and a note of its process id beside it."""

    def __init__(self, name: str, log: Path, note: Path) -> None:
        self.name = name
        self.log = log
        self._note = note
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id, None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(
        self, command: Sequence[str], ready: Callable[[], bool], within_s: float, env: Mapping[str, str] | None = None,
        user: str | None = None, cwd: Path | None = None,
    ) -> None:  # fmt: skip
        """Start and wait until `ready` says yes.

        Args:
            command: program and arguments.
            ready: asked every 20 ms.
            within_s: seconds it may take.
            env: its environment; default ours.
            user: the user to run as (only when we are root).
            cwd: its working folder.

        Raises:
            EnvironmentFault: it ended or was not ready in time; quotes the end of its log.
        """
        # appending: children of a killed server may still write to it, at the place where they had been
        with self.log.open("ab") as log:
            log.truncate(0)
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=env, user=user, group=user, extra_groups=None if user is None else [], cwd=cwd,
            )  # fmt: skip
        self._write_note(self._process.pid)
        deadline = time.monotonic() + within_s
        while not ready():
            if self._process.poll() is not None:
                raise EnvironmentFault(f"{self.name} ended while starting: {self.last_words()}", f"See {self.log}.")
            if time.monotonic() > deadline:
                self.kill()
                raise EnvironmentFault(f"{self.name} was not ready within {within_s:.0f} s.", f"See {self.log}.")
            time.sleep(_POLL_S)

    def _write_note(self, pid: int) -> None:
        # the creation time tells this process from a later one with the same number
        created = round(psutil.Process(pid).create_time() * 1000)
        write_private(self._note, json.dumps({"pid": pid, "created_ms": created}))

    def alive(self) -> bool:
        """Whether it runs."""
        return self.pid is not None

    def last_words(self) -> str:
        """The line of its log that says most."""
        return telling_line(self.said())

    def said(self) -> str:
        """Its log since it was started last."""
        return self.log.read_text(errors="replace")

    def stop(self, with_signal: signal.Signals = signal.SIGTERM, within_s: float = 20) -> None:
        """Ask it to end; end it by force when it does not in time."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(with_signal)
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._gone()

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._gone()

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait()
        self._process = None
        self._note.unlink(missing_ok=True)

    def end_leftover(self, with_signal: signal.Signals = signal.SIGTERM, within_s: float = 20) -> None:
        """End the process a crashed run left behind. Only for whoever holds the data folder."""
        if self._process is not None:
            return
        note = read_numbers(self._note)
        try:
            left = psutil.Process(note["pid"])
            if round(left.create_time() * 1000) == note["created_ms"]:
                left.send_signal(with_signal)
                left.wait(within_s)
        except psutil.TimeoutExpired:
            left.kill()
        except (KeyError, psutil.NoSuchProcess):
            pass
        self._note.unlink(missing_ok=True)


class ServerPart(ABC):
    """A part that is one server on one port of loopback.

    Args:
        name: in messages.
        folder: its data, log, notes of process id and ports.
        port: 0: a free one, kept over restarts.
    """

    end_signal = signal.SIGTERM
    """Asks it to end in order."""

    def __init__(self, name: str, folder: Path, port: int) -> None:
        self._folder = folder.absolute()
        self._port = port
        self._server = Server(name, self._folder / "server.log", self._folder / "pid")

    @property
    def port(self) -> int:
        """Where it listens on loopback; 0 before the first start."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id of the server, None when it does not run."""
        return self._server.pid

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._server.alive()

    def start(self) -> None:
        """Bring it up and return when it answers. Does nothing when it runs."""
        if not self.alive():
            self._start()

    @abstractmethod
    def _start(self) -> None:
        """Bring it up; it does not run."""

    def stop(self) -> None:
        """End it in order; what it acknowledged is kept."""
        self._server.stop(self.end_signal)

    def kill(self) -> None:
        """SIGKILL; the next start recovers from its logs."""
        self._server.kill()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()


def telling_line(text: str) -> str:
    """The last line of a program's output that names an error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in ("FATAL", "ERROR", "error:", "Exception:"))]
    return (telling or lines or ["it said nothing"])[-1]
