"""Faults injected by name, for the kill tests: `INSTEP_FAILPOINTS="capture.committed=kill@3,worker.applied=raise"`.

A named place in the code calls `hit("capture.committed")`. Without the environment variable that is one dictionary
look-up. `kill` ends the process with SIGKILL, `raise` raises `FailpointHit`; `@n` lets it happen at the n-th hit only.
"""

from __future__ import annotations

import os
import signal
from typing import Final

VARIABLE: Final = "INSTEP_FAILPOINTS"


class FailpointHit(Exception):
    """A fault that a test asked for."""


class _Armed:
    def __init__(self, action: str, at: int) -> None:
        self.action, self.at, self.hits = action, at, 0


def _parse(text: str) -> dict[str, _Armed]:
    armed = {}
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition("=")
        action, _, at = rest.partition("@")
        if action not in ("kill", "raise"):
            raise ValueError(f"failpoint {name}: unknown action {action!r}")
        armed[name] = _Armed(action, int(at or 1))
    return armed


_armed = _parse(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Replace what is armed, for tests in one process; the empty text disarms all."""
    _armed.clear()
    _armed.update(_parse(text))


def hit(name: str) -> None:
    """Carry out the fault armed for this place, if any.

    Raises:
        FailpointHit: `raise` is armed and this is its hit.
    """
    point = _armed.get(name)
    if point is None:
        return
    point.hits += 1
    if point.hits != point.at:
        return
    if point.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointHit(name)
