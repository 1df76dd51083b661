"""Shows a person what the processes warn of, out of their log files."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from instep_ops.supervisor import OnEvent

_SERIOUS = frozenset(("WARNING", "ERROR", "CRITICAL"))
_LOOK_S = 0.5


class Follower:
    """Reads what is appended to log files.

    Args:
        logs: process name → its log, which may not exist yet.
        tell: told each warning and error: process name, sentence.
    """

    def __init__(self, logs: Mapping[str, Path], tell: OnEvent) -> None:
        self._logs, self._tell = logs, tell
        self._read = {name: path.stat().st_size if path.exists() else 0 for name, path in logs.items()}

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_S)

    def look(self) -> None:
        """Tell what has come since the last look; a line without its end waits for it."""
        for name, path in self._logs.items():
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                if path.stat().st_size < self._read[name]:
                    self._read[name] = 0  # cut when it grew too long
                file.seek(self._read[name])
                text = file.read()
                end = text.rfind(b"\n") + 1
                self._read[name] += end
                for line in text[:end].decode(errors="replace").splitlines():
                    if sentence := warning(line):
                        self._tell(name, sentence)


def warning(line: str) -> str:
    """The sentence of a log line (as `instep.telemetry` writes it, text or JSON); empty when it is no warning."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            return str(said["message"]) if said.get("level") in _SERIOUS else ""
    words = line.split(" ", 4)
    return words[4] if len(words) == 5 and words[1] in _SERIOUS else ""
