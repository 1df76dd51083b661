"""Waiting for a condition of another thread, process or broker, with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], seconds: float = 60.0, what: str = "") -> None:
    """Return when the condition is true; fail after so many seconds."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited {seconds:g} s in vain {what}"
        await asyncio.sleep(0.01)
