"""Ends the embedded servers when `instep up` or the demo died without stopping them.

The servers run in sessions of their own, so that Ctrl-C never reaches them; a killed supervisor would leave them
behind. The guard is a small process that holds the other end of a pipe: one byte means that all is stopped, and an end
without it that the supervisor is gone.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from instep.errors import EnvironmentFault
from instep_ops.embedded.folder import DataFolder
from instep_ops.embedded.server import Server

_NOTE = "pid"


class Guard:
    """Watches over the servers of a data folder.

    Args:
        data: the folder; each server notes its process id in a folder below it.
    """

    def __init__(self, data: Path) -> None:
        command = [sys.executable, "-m", "instep_ops.guard", str(data)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def dismiss(self) -> None:
        """All servers are stopped: nothing to guard any more."""
        try:
            self._process.communicate(b".", timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def end_servers(data: Path) -> None:
    """End every server that a folder names, unless another Instep has taken the folder: that one ends them itself.

    A CRM ends before the database server that holds its database.
    """
    folder = DataFolder(data)
    try:
        folder.acquire()
    except EnvironmentFault:
        return
    try:
        notes = sorted(data.glob(f"*/{_NOTE}"), key=lambda note: (not note.parent.name.startswith("crm"), note))
        for note in notes:
            Server(note.parent.name, note.parent / "server.log", note).end_leftover(signal.SIGINT)
    finally:
        folder.release()


def main() -> None:
    """Wait for the end of the supervisor."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if sys.stdin.buffer.read(1):
        return
    end_servers(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
