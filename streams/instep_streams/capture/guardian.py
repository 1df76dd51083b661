"""The slot's guardian: looks at it while the capture process lives, also when Kafka is away and nothing is captured.

A thread with a connection of its own, so that neither waits for the other. It changes nothing: it warns, with the
remedy, once per change of state.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Final

import psycopg

from instep.errors import InstepError
from instep.settings import Settings
from instep_connectors.postgres.guard import Growth, Health, Level, judge
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.slot import Connection, read_slot
from instep_streams.capture.meters import show_slot

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0


class Guardian:
    """Looks at the slot of a source every few seconds. Use as a context manager.

    Args:
        settings: of the project.
        source: the source's name.
        every_s: seconds between two looks.
    """

    def __init__(self, settings: Settings, source: str, every_s: float = LOOK_S) -> None:
        self._settings = settings
        self._source = source
        self._every_s = every_s
        self._growth = Growth()
        self._level = Level.FINE
        self._conn: Connection | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"guard {source}", daemon=True)

    def __enter__(self) -> Guardian:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(0.5)  # it may be waiting for a store that is away, and a stop must be quick

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
            except (psycopg.Error, InstepError, ConnectionError) as exc:
                # what is wrong with the store is told by the capture itself
                log.debug("the slot of %s cannot be looked at: %s", self._source, exc)
                self._close()
            self._stop.wait(self._every_s)
        self._close()

    def _look(self) -> None:
        own = self._settings.sources[self._source]
        if self._conn is None:
            self._conn = connect(own.dsn.reveal(), f"instep guard {self._source}")
        slot = read_slot(self._conn, own.slot)
        if slot is None:
            return
        growth = self._growth.add(time.monotonic(), slot.retained_bytes)
        health = judge(slot, own.wal_budget, growth, self._source)
        show_slot(self._source, slot, health)
        self._tell(health)

    def _tell(self, health: Health) -> None:
        before, self._level = self._level, health.level
        if health.level > before:
            urgent = logging.WARNING if health.level is Level.SOON else logging.ERROR
            log.log(urgent, "%s %s", health.cause, health.remedy)
        elif health.level is Level.FINE and before is not Level.FINE:
            log.info("the slot of %s is fine again", self._source)

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
