"""Flows some of whose keys cannot be evaluated: told to people, tried again after a while."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from instep_streams.flows.dirty import ALL
from instep_streams.flows.evaluate import Evaluation

_RETRY_S: Final = 30.0

log = logging.getLogger(__name__)


class Faults:
    """When the keys that failed are tried again, per flow; those of a timed flow are with its next release."""

    def __init__(self) -> None:
        self._retry_at: dict[str, float] = {}

    def remember(self, flow: str, evaluation: Evaluation) -> None:
        """A fault of an earlier session: it may have healed."""
        self._retry_at[flow] = math.inf if _timed(evaluation) else 0.0

    def due(self, flow: str) -> bool:
        """Whether a flow's failed keys are to be tried again now."""
        return self._retry_at.get(flow, math.inf) <= time.monotonic()

    def note(self, flow: str, evaluation: Evaluation) -> None:
        """Take the outcome of a step on what was put off, or of what a crash left unsent."""
        fault = evaluation.fault
        if fault is not None:
            text = (str(fault).splitlines() or [type(fault).__name__])[0]
            log.error("flow %s: some keys cannot be evaluated: %s", flow, text)
            evaluation.tell(text)
            self._retry_at[flow] = math.inf if _timed(evaluation) else time.monotonic() + _RETRY_S
        elif flow in self._retry_at and not evaluation.failing and not (_timed(evaluation) and evaluation.waiting):
            del self._retry_at[flow]
            evaluation.tell("")


def _timed(evaluation: Evaluation) -> bool:
    return evaluation.dirty.bound < ALL
