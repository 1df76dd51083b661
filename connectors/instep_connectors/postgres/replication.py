"""A replication connection, driven through libpq's own calls: psycopg has no replication API.

Never blocks while it streams: `receive` gives what has arrived, `fileno` is for the caller's select.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple, Protocol

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from instep.change import format_lsn, parse_lsn
from instep.errors import SourceError
from instep_connectors.postgres.pgoutput import PG_EPOCH_US
from instep_connectors.postgres.session import PINNED, connection_failure, conninfo, passing
from instep_connectors.postgres.streamed import Frame, Streamed

log = logging.getLogger(__name__)

_XLOG_HEADER: Final = 25
"""Bytes in front of a frame's message: `w`, start, end, server clock."""

_START = Struct(">xQ").unpack_from
_KEEPALIVE = Struct(">cQqB")
_STATUS = Struct(">cQQQqB")
_FAILOVER: Final = 170000
_SILENCE_S: Final = 60.0
"""With no byte for so long although we asked for one, the connection is dead (a NAT forgot it, a cable was pulled)."""


class Keepalive(NamedTuple):
    """The server has sent everything up to `end`; `reply` asks for an answer at once."""

    end: int
    reply: bool


BUSY: Final = Keepalive(0, False)
"""Given now and then while parts of large transactions are put aside or read back: others should have their turn."""

_TURN: Final = 1_000
"""So many such frames are one turn: a few milliseconds."""


class PartsFailed(ConnectionError):
    """The store fails at a transaction that is still running; behind its commit it may well be able to decode it."""


class Frames(Protocol):
    """What gives the frames of a stream; see `ReplicationConnection`."""

    frame_lsn: int

    def receive(self) -> bytes | Keepalive | None:
        """The next frame."""
        ...


class Identity(NamedTuple):
    """IDENTIFY_SYSTEM: system identifier, timeline, WAL position."""

    system: str
    timeline: int
    lsn: int


class NewSlot(NamedTuple):
    """A slot just made: every transaction committed below `lsn` is in the exported snapshot, all others will follow."""

    lsn: int
    snapshot: str


class ReplicationConnection:
    """One `replication=database` connection.

    Args:
        dsn: the user's connection string.
        application: our name in the store's pg_stat_replication.

    Raises:
        SourceError: the store refuses this user, password or database.
        ConnectionError: the store is not there (yet).
    """

    def __init__(self, dsn: str, application: str) -> None:
        text = conninfo(dsn, application, replication="database")
        self._conn = pq.PGconn.connect(text.encode())
        if self._conn.status != pq.ConnStatus.OK:
            message = self._conn.get_error_message()
            self._conn.finish()
            raise connection_failure(dsn, message)
        for statement in PINNED:
            self._run(statement)
        self._skipped = ""
        self._conn.notice_handler = self._notice
        self._heard = time.monotonic()
        self._streamed: Streamed | None = None
        self._given = 0
        self.frame_lsn = 0
        """WAL position of the message that `receive` gave last."""

    def identify(self) -> Identity:
        """Ask who the server is and where its WAL stands."""
        row = self._run("IDENTIFY_SYSTEM")
        return Identity(_cell(row, 0), int(_cell(row, 1)), parse_lsn(_cell(row, 2)))

    def history(self, timeline: int) -> str:
        """A timeline's history file: a line per ancestor with the LSN at which it was left; empty for the first.

        Raises:
            psycopg.Error: the server has none.
        """
        return "" if timeline == 1 else _cell(self._run(f"TIMELINE_HISTORY {timeline}"), 1)

    def create_slot(
        self, name: str, idle: Callable[[float], bool], *, temporary: bool = False, failover: bool = False
    ) -> NewSlot | None:
        """Create a logical slot and export its snapshot, which lives until this connection's next command.

        The server first waits for every transaction that is running; that wait is logged.

        Args:
            name: of the slot.
            idle: tells, given 0 seconds, whether the process should stop.
            temporary: gone with the connection.
            failover: standbys keep it, too; PostgreSQL 17 and later.

        Returns:
            None when the process should stop.

        Raises:
            SourceError: the name is not allowed, no slot is free, or the server knows no failover slots.
            ConnectionError: lost meanwhile.
        """
        kind = "TEMPORARY LOGICAL" if temporary else "LOGICAL"
        if failover and self._conn.server_version < _FAILOVER:
            raise SourceError(
                f"The store is PostgreSQL {self._conn.server_version // 10000}, which keeps no slot on standbys.",
                "Set slot_failover = false, or upgrade the store to 17 or later.",
            )
        how = "(SNAPSHOT 'export', FAILOVER)" if failover else "EXPORT_SNAPSHOT"
        self._send(f"CREATE_REPLICATION_SLOT {_quote(name)} {kind} pgoutput {how}")
        told = time.monotonic()
        while not self._ready(0.5):
            if idle(0.0):
                self._conn.get_cancel().cancel()
                return None
            if time.monotonic() - told > 10:
                told = time.monotonic()
                log.warning("slot %s: the store waits for transactions that were running before; end the oldest?", name)
        try:
            row = self._result()
        except psycopg.Error as exc:
            if exc.sqlstate in ("42602", "42710", "53400"):
                raise SourceError(
                    f"The slot {name} cannot be made: {exc}.", "Name another `slot` in the source's settings."
                ) from None
            raise passing(exc) from exc
        return NewSlot(parse_lsn(_cell(row, 1)), _cell(row, 2))

    def start(self, slot: str, lsn: int, publication: str, streamed: Streamed | None = None) -> None:
        """Begin to stream what was committed at or behind `lsn`.

        Args:
            slot: of the store.
            lsn: see above.
            publication: of the store.
            streamed: makes whole transactions of what the store sends while they run; None: it sends each one behind
                its commit, and keeps large ones on its own disk until then.

        Raises:
            ConnectionError: the slot is in use or the server goes away.
            psycopg.Error: the server refuses.
        """
        names = _quote(publication).replace("'", "''")
        protocol = "proto_version '1'" if streamed is None else "proto_version '2', streaming 'on'"
        self._streamed = streamed
        self._send(
            f"START_REPLICATION SLOT {_quote(slot)} LOGICAL {format_lsn(lsn)} "
            f"({protocol}, publication_names '{names}', messages 'true')"
        )
        while not self._ready(1.0):
            pass
        try:
            self._result(pq.ExecStatus.COPY_BOTH)
        except psycopg.Error as exc:
            raise passing(exc) from exc
        self._conn.nonblocking = 1
        self._heard = time.monotonic()

    def fileno(self) -> int:
        """The socket, for select."""
        return self._conn.socket

    def receive(self) -> bytes | Keepalive | None:
        """The next message of pgoutput's protocol 1, a keepalive, `BUSY`, or None when nothing is there.

        Raises:
            ConnectionError: the server ended the stream.
            PartsFailed: it reports an error while it streams transactions that still run.
            SourceError: the server leaves out changes, because the publication was missing when they were made.
            DecodeError: parts of a transaction that do not fit together.
            EnvironmentFault: there is no room to put them aside.
            psycopg.Error: the server reports an error that does not pass by itself.
        """
        streamed = self._streamed
        if streamed is None:
            return self._arrived()
        if streamed.whole is not None:
            return self._give(streamed, streamed.whole)
        frame = self._arrived()
        if type(frame) is bytes and frame[:1] not in streamed.passing:
            return self._put_aside(streamed, frame)
        return frame

    def _put_aside(self, streamed: Streamed, frame: bytes | Keepalive | None) -> bytes | Keepalive | None:
        """Put frames aside until there is something to give, or others should have their turn."""
        taken = 0
        while type(frame) is bytes and frame[:1] not in streamed.passing:
            streamed.take(frame, self.frame_lsn)
            if streamed.whole is not None:
                return self._give(streamed, streamed.whole)
            taken += 1
            if taken == _TURN:
                return BUSY
            frame = self._arrived()
        return frame

    def _give(self, streamed: Streamed, whole: Iterator[Frame]) -> bytes | Keepalive | None:
        """The next frame of a whole transaction; nothing is read from the server meanwhile."""
        self._given += 1
        if self._given % _TURN == 0:
            return BUSY
        for self.frame_lsn, frame in whole:
            return frame
        streamed.whole = None
        self.heard()
        return self.receive()

    def _arrived(self) -> bytes | Keepalive | None:
        """The next frame as the server sent it."""
        try:
            size, data = self._conn.get_copy_data(1)
            if size == 0:
                self._conn.consume_input()
                size, data = self._conn.get_copy_data(1)
        except psycopg.Error as exc:
            raise passing(exc) from exc
        if self._skipped:
            raise SourceError(
                f"The store leaves out changes: {self._skipped}. The publication was dropped for a while, and what was "
                "written meanwhile is not in the stream.",
                "Create the publication again, drop the slot and capture under a new source name.",
            )
        if size == 0:
            return None
        self._heard = time.monotonic()
        if size < 0:
            self._ended()
        frame = data.tobytes()  # slices of it cost half of what those of `data` do
        if frame[0] == 119:  # w
            self.frame_lsn = _START(frame)[0]
            return frame[_XLOG_HEADER:]
        _, end, _, reply = _KEEPALIVE.unpack(frame)
        return Keepalive(end, reply == 1)

    def send_status(self, flushed: int, *, ask: bool = False) -> None:
        """Report what is durable downstream.

        Args:
            flushed: everything below this LSN may be forgotten by the store.
            ask: ask for a keepalive. Never in answer to a keepalive: the two sides would play ping-pong.

        Raises:
            ConnectionError: the connection is lost.
        """
        clock = time.time_ns() // 1000 - PG_EPOCH_US
        try:
            self._conn.put_copy_data(_STATUS.pack(b"r", flushed, flushed, flushed, clock, ask))
            self._conn.flush()
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def check_silence(self) -> None:
        """Find out that the other side is gone although TCP has not noticed. Call only while reading.

        Raises:
            ConnectionError: nothing was heard for a minute, though each status asks for an answer.
        """
        if time.monotonic() - self._heard > _SILENCE_S:
            raise ConnectionError(f"The store's replication connection is silent for {_SILENCE_S:.0f} s.")

    def heard(self) -> None:
        """Start the clock of `check_silence` again: nobody was listening until now."""
        self._heard = time.monotonic()

    def close(self) -> None:
        """Close. Safe to call twice."""
        if self._streamed is not None:
            self._streamed.close()
        self._conn.finish()

    def _notice(self, result: pq.abc.PGresult) -> None:
        """Since PostgreSQL 18 a missing publication is a mere warning in the stream: taken seriously here."""
        severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        if severity == b"WARNING" and sqlstate == b"55000":
            self._skipped = message
        else:
            log.warning("the store says: %s", message)

    def _ended(self) -> None:
        try:
            self._result()
        except psycopg.Error as exc:
            failure = passing(exc)
            if self._streamed is not None and failure is exc:
                words = " ".join(str(exc).split())
                raise PartsFailed(f"The store cannot decode what is still running: {words}") from exc
            raise failure from exc
        raise ConnectionError("The store ended the replication stream.")

    def _run(self, command: str) -> pq.abc.PGresult:
        self._send(command)
        while not self._ready(1.0):
            pass
        try:
            return self._result()
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def _send(self, command: str) -> None:
        try:
            self._conn.send_query(command.encode())
        except psycopg.Error as exc:
            raise passing(exc) from exc

    def _ready(self, wait_s: float) -> bool:
        if self._conn.is_busy():
            select.select([self._conn.socket], [], [], wait_s)
            try:
                self._conn.consume_input()
            except psycopg.Error as exc:
                raise passing(exc) from exc
        return not self._conn.is_busy()

    def _result(self, expected: pq.ExecStatus | None = None) -> pq.abc.PGresult:
        """The command's result; reads on to the end of the command unless it opens a stream."""
        result = self._conn.get_result()
        if result is None:
            raise psycopg.OperationalError("no result")
        if result.status == pq.ExecStatus.FATAL_ERROR:
            while self._conn.get_result() is not None:
                pass
            raise error_from_result(result)
        if result.status != expected:
            while self._conn.get_result() is not None:
                pass
        return result


def _cell(result: pq.abc.PGresult, column: int) -> str:
    value = result.get_value(0, column)
    assert value is not None
    return value.decode()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
