"""Settings of Python itself for the processes that carry changes."""

from __future__ import annotations

import gc
import sys
from typing import Final

_SWITCH_S: Final = 0.0005
"""A process's reader and publisher share one interpreter: the default of 5 ms would be most of a batch's latency."""

_GARBAGE: Final = (100_000, 20, 50)
"""Thresholds of the garbage collector: changes come and go by the thousand, and looking at each for cycles costs up to
half of what is done with it; of what remains there are few."""


def carry_changes() -> None:
    """Tune this process for changes that come and go by the thousand."""
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(*_GARBAGE)
