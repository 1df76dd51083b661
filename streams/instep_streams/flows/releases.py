"""When the changes of a timed flow come out: by its schedule, or not more often than its interval.

Keys that changes make dirty are written down, and a *bound* says up to which of them are released: `Dirty.take` takes
no others. The bound and the time of the last release stand with the flow and move in the transaction of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final

from psycopg import Connection

from instep.timing import Interval, Timing
from instep_streams.flows.evaluate import Evaluation
from instep_streams.flows.images import Anchor

Clock = Callable[[], float]
"""Seconds since the Unix epoch."""

CLOCK: Final[Clock] = time.time
_MANY: Final = 100_000


class Release:
    """The releases of one timed flow.

    Args:
        conn: the pinned session; the caller begins and ends transactions.
        evaluation: the flow.
        timing: when it is due.
        clock: what time it is.
    """

    def __init__(self, conn: Connection[Any], evaluation: Evaluation, timing: Timing, clock: Clock) -> None:
        self._conn, self._evaluation, self._timing, self._clock = conn, evaluation, timing, clock
        self._deferred = self._stale = False
        self._load()
        if not self._released_us:  # it was not timed before: what waits is due
            self._released(self._now())
            self.open()

    def look_again(self) -> None:
        """A step was rolled back: what is known of the flow may be wrong."""
        self._stale = True

    def _load(self) -> None:
        row = self._conn.execute(
            "SELECT released_us, bound, deferred FROM instep.flows WHERE id = %s", (self._evaluation.number,)
        ).fetchone()
        released_us, self._evaluation.dirty.bound, self._deferred = row or (0, 0, False)
        self._held = self._evaluation.dirty.above()
        self._released(released_us)
        self._stale = False

    @property
    def due(self) -> bool:
        """Whether what waits is to be released now."""
        if self._stale:
            self._load()
        now = self._now()
        if isinstance(self._timing, Interval):
            waits = self._held > 0 or self._deferred
            return waits and not self._released_us <= now < self._next_us  # also when the clock was put back
        if now < self._released_us:  # the clock was put back: the next time may not wait until it is there again
            self._released(now)
            self._keep()
        return now >= self._next_us

    def hold(self, anchors: Collection[Anchor]) -> None:
        """Keep dirty keys until their time; when that is more than there are keys, all are compared then instead."""
        if self._stale:
            self._load()
        if self._deferred:
            return
        self._held += len(anchors)
        if self._held > _MANY and self._held > self._evaluation.emitted_estimate():
            self._evaluation.dirty.forget_above()
            self._deferred = True
            self._keep()
        else:
            self._evaluation.dirty.add(anchors)

    def begin(self) -> bool:
        """Release what waits, those that failed among it; gives whether the flow is to be compared as a whole."""
        whole = self._deferred
        if not isinstance(self._timing, Interval):
            self._released(self._now())
        self.open()
        self._evaluation.dirty.retry()
        self._evaluation.waiting = True
        return whole

    def open(self) -> None:
        """Put the bound behind everything that is written down."""
        self._evaluation.dirty.bound = self._evaluation.dirty.last()
        self._held, self._deferred = 0, False
        self._keep()

    def emitted(self) -> None:
        """Documents came out: an interval is counted from the last ones."""
        if isinstance(self._timing, Interval):
            self._released(self._now())
            self._keep()

    def _now(self) -> int:
        return int(self._clock() * 1e6)

    def _released(self, at_us: int) -> None:
        self._released_us, self._next_us = at_us, self._timing.next_us(at_us)

    def _keep(self) -> None:
        self._conn.execute(
            "UPDATE instep.flows SET released_us = %s, bound = %s, deferred = %s WHERE id = %s",
            (self._released_us, self._evaluation.dirty.bound, self._deferred, self._evaluation.number),
        )


def look_at_all(conn: Connection[Any], source: str) -> None:
    """Compare every flow as a whole: when it is deployed next, a timed one when it is due."""
    conn.execute(
        "UPDATE instep.flows SET whole = whole OR released_us = 0, deferred = deferred OR released_us > 0, parts = ''"
        " WHERE source = %s",
        (source,),
    )


def release_of(conn: Connection[Any], evaluation: Evaluation, clock: Clock) -> Release | None:
    """The releases of a flow that is deployed; None for one whose documents come at once, be it from now on."""
    timing = evaluation.plan.flow.timing
    if timing is not None:
        return Release(conn, evaluation, timing, clock)
    conn.execute(
        "UPDATE instep.flows SET whole = whole OR deferred, deferred = false, released_us = 0, bound = 0"
        " WHERE id = %s AND released_us > 0",
        (evaluation.number,),
    )
    return None
