"""The stream: replication frames in, batches out, the slot confirmed behind them.

One thread, which never blocks on Kafka.
"""

from __future__ import annotations

import logging
import select
import time

import psycopg

from instep.change import Position, format_lsn
from instep.failpoints import hit
from instep.journal import JournalEntry
from instep.telemetry import CHANGES, LAG, POSITION
from instep_connectors.postgres.pgoutput import decode
from instep_connectors.postgres.replication import BUSY, Keepalive, ReplicationConnection
from instep_connectors.postgres.session import passing
from instep_streams.capture.batch import MAX_BATCH_BYTES, Batch, captured_lsn
from instep_streams.capture.beside import Beside
from instep_streams.capture.blocking import Blocking
from instep_streams.capture.copies import Standstill
from instep_streams.capture.meters import count_batch
from instep_streams.capture.publishing import PublishingThread
from instep_streams.capture.snapshotting import Stopped
from instep_streams.capture.task import Parts, Task
from instep_streams.capture.transactions import Transactions
from instep_streams.capture.watermarks import MESSAGE_PREFIX

log = logging.getLogger(__name__)

_LOOK_UP_S = 0.25
"""The loop looks at the stop flag this often when nothing happens."""


class Streaming:
    """Streams until it is told to stop or something fails.

    Args:
        task: what to capture.
        parts: of the session.
        replication: a connection; `start` is called on it before `run`.
        transactions: collects the changes.
        captured: the first LSN that the journal does not cover.
        status_s: how often the store wants to hear of us at least.
        reached: the journal's last position; None when it may be half a transaction.
        beside: what runs beside the stream, and what the stream may have to wait for.
    """

    def __init__(
        self,
        task: Task,
        parts: Parts,
        replication: ReplicationConnection,
        transactions: Transactions,
        captured: int,
        status_s: float,
        reached: Position | None = None,
        beside: Beside | None = None,
    ) -> None:
        self._task = task
        self._parts = parts
        self._beside = beside
        self._settings = task.own
        self._epoch = parts.epoch
        self._control = parts.control
        self._publishing = parts.publishing
        self._replication = replication
        self._transactions = transactions
        self._confirmed = captured
        self._status_s = status_s
        now = time.monotonic()
        self._status_at = now
        self._moved_at = now
        self._since: float | None = None
        self._passed = 0
        self._compatible = parts.compatible
        self._side = parts.side
        self._heartbeat_at = 0.0
        self._reached = reached
        self._asked = False
        self._deaf = False
        self._drained = False

    def run(self) -> None:
        """Stream.

        Raises:
            ConnectionError, TimeoutError: store, Kafka or registry are gone for now.
            InstepError: a person must look.
        """
        while not self._task.stopping():
            if self._beside is not None and self._beside.standstill is not None:
                self._stand(self._beside, self._beside.standstill)
                continue
            self._read()
            self._take_done()
            self._hand_over()
            self.keep_alive()
            self._wait()
        self._finish()

    def _read(self) -> None:
        """Feed what has arrived, until the batch is worth handing over."""
        replication, transactions, most = self._replication, self._transactions, self._settings.batch_changes
        feed = transactions.feed
        self._drained = False
        if self._full():
            self._deaf = True
            return
        if self._deaf:
            replication.heard()
            self._deaf = False
        while (frame := transactions.rows(replication, most, MAX_BATCH_BYTES)) is not None:
            if isinstance(frame, Keepalive):
                if frame is BUSY:
                    return
                self._keepalive(frame)
                continue
            feed(decode(frame), replication.frame_lsn)
            if self._beside is not None and self._beside.standstill is not None:
                return
            if self._full() if transactions.open else self._ready():
                return
        if self._full():
            return
        self._drained = True
        replication.check_silence()

    def _stand(self, beside: Beside, standstill: Standstill) -> None:
        """What came before goes to Kafka, then the rows of a blocking snapshot; only then the stream goes on."""
        batch = self._transactions.take()
        try:
            self._settle()
            if batch.last is not None:
                self._since = None
                self._publishing.hand(batch)
                self._settle()
            Blocking(self._task, self._parts, standstill, beside, self._settle).run()
        except Stopped:
            return

    def _settle(self, *, wait: bool = True) -> None:
        """Take what was published, and keep talking to the store; `wait`: until nothing is being published.

        Raises:
            Stopped: the process should stop.
        """
        while True:
            self._take_done()
            if time.monotonic() - self._status_at >= self._status_s:
                self._send_status()
            if self._task.stopping():
                raise Stopped
            if not wait or not self._publishing.busy:
                return
            select.select([self._publishing], [], [], _LOOK_UP_S)

    def _full(self) -> bool:
        batch = self._transactions.batch
        return batch.changes >= self._settings.batch_changes or batch.size >= MAX_BATCH_BYTES

    def _ready(self) -> bool:
        """Whether the batch should go now: a transaction is complete, and it has waited for company long enough."""
        batch = self._transactions.batch
        if batch.last is None:
            return False
        if self._since is None:
            self._since = time.monotonic()
        if self._publishing.busy:
            return self._full()
        waited = time.monotonic() - self._since
        return self._transactions.due or self._full() or waited * 1000 >= self._settings.batch_wait_ms

    def _hand_over(self) -> None:
        if self._publishing.busy or (self._transactions.open and not self._full()) or not self._ready():
            return
        self._since = None
        self._publishing.hand(self._transactions.take())

    def _take_done(self) -> None:
        for batch, entry in self._publishing.done():
            self._committed(batch, entry)

    def _committed(self, batch: Batch, entry: JournalEntry) -> None:
        hit("capture.committed")
        self._moved_at = time.monotonic()
        self._measure(entry)
        self._reached = entry.last
        captured = captured_lsn(entry)
        if captured > self._confirmed:
            self._confirmed = captured
            self._send_status()

    def _measure(self, entry: JournalEntry) -> None:
        source = self._task.source
        POSITION.labels("topic", source).set(entry.last.lsn)
        count_batch(source, entry)
        if entry.changes:
            CHANGES.labels(source).inc(entry.changes)
            LAG.labels("topic").observe(max(0.0, time.time() - entry.first_commit_us / 1e6))

    def _keepalive(self, keepalive: Keepalive) -> None:
        self._passed = max(self._passed, keepalive.end)
        if keepalive.reply:
            self._asked = True
            self._send_status()

    def _idle(self) -> bool:
        return not self._publishing.busy and not self._transactions.open and self._transactions.batch.last is None

    def keep_alive(self) -> None:
        """Status in time; an idle slot moved on through the journal; a heartbeat when the database is quiet."""
        now = time.monotonic()
        if now - self._status_at >= self._status_s:
            self._send_status(ask=True)
        self._tell(now)
        self._transactions.tick()
        if not self._idle():
            return
        quiet = now - self._moved_at >= self._settings.heartbeat_s
        if self._passed > self._confirmed and (quiet or self._asked):
            # The server has nothing for us up to there. The journal must say so before the slot does: what the slot
            # has confirmed is never ahead of the journal, so a slot that is ahead was not moved by us.
            self._transactions.batch.pass_by(Position(self._epoch, self._passed - 1, 0), time.time_ns() // 1000)
            self._publishing.hand(self._transactions.take())
        elif quiet:
            self._moved_at = now
            self._heartbeat()
        self._asked = False

    def _tell(self, now: float) -> None:
        """Debezium's heartbeat: a record of its own, and a statement that the settings name."""
        compatible, batch = self._compatible, self._transactions.batch
        if self._side is None or compatible is None or not compatible.heartbeat_s:
            return
        if now - self._heartbeat_at < compatible.heartbeat_s or self._transactions.open or self._publishing.busy:
            return
        if batch.last is None and self._reached is None:
            return  # the journal's last entry may be half a transaction: nothing may be said behind it yet
        self._heartbeat_at = now
        batch.records.append(self._side.heartbeat())
        if batch.last is None and self._reached is not None:
            batch.pass_by(self._reached, time.time_ns() // 1000)
        if compatible.heartbeat_query:
            try:
                self._control.execute("SET search_path TO DEFAULT")  # it may name its tables without their schema
                self._control.execute(compatible.heartbeat_query.encode())
            except psycopg.Error as exc:
                log.warning("heartbeat.action.query failed: %s", " ".join(str(exc).split()))
            self._control.execute("SET search_path = pg_catalog")

    def _heartbeat(self) -> None:
        """Write a few bytes of WAL: restart_lsn moves only while this database's own WAL is decoded.

        Transactional, because only a commit makes the server compute anew what all slots need.
        """
        try:
            self._control.execute(
                "SELECT pg_logical_emit_message(true, %s, 'heartbeat') WHERE NOT pg_is_in_recovery()", (MESSAGE_PREFIX,)
            )
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def _send_status(self, *, ask: bool = False) -> None:
        self._status_at = time.monotonic()
        self._replication.send_status(self._confirmed, ask=ask)

    def _wait(self) -> None:
        if not self._drained and not self._full():
            return  # libpq holds frames that the socket no longer tells of
        timeout = _LOOK_UP_S
        if self._since is not None and not self._publishing.busy and not self._transactions.open:
            timeout = max(0.0, self._since + self._settings.batch_wait_ms / 1000 - time.monotonic())
        readers: list[PublishingThread | ReplicationConnection] = [self._publishing]
        if not self._full():
            readers.append(self._replication)
        select.select(readers, [], [], min(timeout, _LOOK_UP_S))

    def _finish(self) -> None:
        """Publish nothing more; confirm what is in Kafka."""
        self._publishing.wait(10.0)
        self._take_done()
        self._send_status()
        log.info("stopped at %s", format_lsn(self._confirmed))
