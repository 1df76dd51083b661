"""Holds a chunk back until its snapshot sees every transaction that has been streamed.

A commit is in the WAL, and may be streamed, before other sessions see it (with synchronous replication, long before). A
chunk read in between would bring the old row behind the newer change. So capture remembers which transactions were
streamed since it began to copy; what was streamed before that is known by one transaction of its own, the marker: all
older ones that still run may have been streamed, unless they wait for their client.
"""

from __future__ import annotations

import logging
import time

from instep_connectors.postgres.chunks import Connection, View, committing

log = logging.getLogger(__name__)

_TELL_S = 10.0


class Fence:
    """Knows which streamed transactions a snapshot may not see.

    Args:
        control: to ask what a transaction does.
    """

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._streamed: set[int] = set()
        self._marker: int | None = None
        self._told = 0.0

    def start(self) -> None:
        """From here on `streamed` is told of every transaction."""
        self._streamed.clear()
        self._marker = None
        self._told = time.monotonic()

    def mark(self, xid: int) -> None:
        """A transaction of our own (64 bits) that is committed."""
        if self._marker is None:
            self._marker = xid

    def streamed(self, xid: int) -> None:
        """A transaction (32 bits) was streamed."""
        self._streamed.add(xid)

    def admits(self, view: View) -> bool:
        """Whether the snapshot sees whatever was streamed.

        Raises:
            psycopg.Error: of the store.
        """
        if self._marker is None or not view.sees(self._marker):
            return False
        streamed = {view.full(xid) for xid in self._streamed}
        unseen = {xid for xid in streamed if not view.sees(xid)}
        if not unseen:
            before = {xid for xid in view.running if xid < self._marker}
            unseen = committing(self._control, before) if before else set()
        if unseen:
            self._tell(unseen)
            return False
        self._marker = 0
        self._streamed = {xid & 0xFFFFFFFF for xid in streamed if xid >= view.oldest}
        return True

    def _tell(self, unseen: set[int]) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_S:
            self._told = now
            log.warning("copying waits for the store's transactions %s to end", sorted(unseen)[:5])
