"""The publishing thread: one batch is in Kafka's hands while the next one is being decoded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from instep.journal import JournalEntry
from instep_streams.capture.batch import Batch

Publish = Callable[[Batch], JournalEntry]
"""Publishes one batch and gives its journal entry, only when the transaction is committed."""


class PublishingThread:
    """Publishes the batches it is handed, one at a time and in order, in a thread of its own.

    Args:
        publish: called in the thread.
        name: of the thread.

    Its `fileno` becomes readable when a batch is done or failed: put it into the same select as the replication socket.
    """

    def __init__(self, publish: Publish, name: str) -> None:
        self._publish = publish
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._lock = threading.Condition()
        self._batch: Batch | None = None
        self._done: list[tuple[Batch, JournalEntry]] = []
        self._failure: BaseException | None = None
        self._closed = False
        self.busy = False
        """Only the thread that calls `hand` may trust it."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """Readable when there is something for `done`."""
        return self._wake_read

    def hand(self, batch: Batch) -> None:
        """Hand over a batch; only when not `busy`."""
        if self.busy:
            raise AssertionError("a batch is still being published")
        self.busy = True
        with self._lock:
            self._batch = batch
            self._lock.notify()

    def done(self) -> list[tuple[Batch, JournalEntry]]:
        """Batches committed since the last call, with their entries.

        Raises:
            BaseException: what publishing failed with; nothing more is published then.
        """
        try:
            while os.read(self._wake_read, 4096):
                pass
        except BlockingIOError:
            pass
        with self._lock:
            done, self._done = self._done, []
            if done:
                self.busy = False
            if self._failure is not None:
                raise self._failure
        return done

    def wait(self, timeout_s: float) -> bool:
        """Block until nothing is being published; false when that takes too long."""
        self._lock.acquire()
        try:
            return self._lock.wait_for(lambda: self._batch is None or self._failure is not None, timeout_s)
        finally:
            self._lock.release()

    def close(self, timeout_s: float = 10.0) -> bool:
        """End the thread after the batch in hand. True when it ended in time. Safe to call twice."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        if ended and self._wake_read >= 0:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_read = -1
        return ended

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._batch is not None or self._closed)
                batch = self._batch
            if batch is None:
                return
            try:
                entry = self._publish(batch)
            except BaseException as exc:  # handed to the thread that waits: it decides
                self._finish(None, exc)
                return
            self._finish((batch, entry), None)

    def _finish(self, done: tuple[Batch, JournalEntry] | None, failure: BaseException | None) -> None:
        with self._lock:
            self._batch = None
            self._failure = failure
            if done is not None:
                self._done.append(done)
            self._lock.notify_all()
            if self._wake_read >= 0:
                os.write(self._wake_write, b".")
