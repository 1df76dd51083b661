"""What every embedded part can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Progress = Callable[[str, float], None]
"""Told what is being done and how much of it is done, 0.0 to 1.0; 1.0 ends the step of that description."""


def silent(description: str, fraction: float) -> None:
    """Show nothing."""


class Part(Protocol):
    """One server on this machine.

    Every method raises `EnvironmentFault` with cause and remedy when this machine lacks something.
    """

    name: str

    def ensure(self, progress: Progress) -> None:
        """Download and set up what is missing; without a network when all of it is here already."""
        ...

    def start(self) -> None:
        """Bring it up and return when it answers. Does nothing when it runs."""
        ...

    def alive(self) -> bool:
        """Whether its process runs."""
        ...

    def stop(self) -> None:
        """End it in order, keeping its data. Does nothing when it does not run."""
        ...

    def kill(self) -> None:
        """End it like a power cut (SIGKILL)."""
        ...
