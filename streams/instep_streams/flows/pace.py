"""How many keys a step on what was put off takes: as many as others can wait for."""

from __future__ import annotations

from typing import Final

SLICE: Final = 1_000
"""Most keys that a change may concern and still be evaluated with it, in one step."""
_FEWEST, _FIRST, _MOST = 50, 500, 1_000
_STEP_S: Final = 0.05


class Pace:
    """Learns from each step of a flow how many keys the next may have, so that a step takes some 50 milliseconds."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, flow: str) -> int:
        """Keys of the next step."""
        return self._counts.get(flow, _FIRST)

    def took(self, flow: str, count: int, seconds: float) -> None:
        """A step of so many keys took so long; it grows slowly and shrinks at once."""
        self._counts[flow] = min(_MOST, max(_FEWEST, int(count / max(seconds / _STEP_S, 0.5))))
