"""Transactions that the store sends while they run, made whole: protocol 2's parts in, protocol 1's frames out.

A transaction larger than the store's `logical_decoding_work_mem` comes in parts, before anybody knows whether it
commits. Its parts wait in a spool; at its commit, what was not rolled back comes out as if the store had sent it then.

Two things are not told in parts. Which savepoint a logical message belongs to: one that was rolled back comes out all
the same. And the origin: its LSN is 0, and it is missing where the transaction begins with a change of the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from instep_connectors.postgres.pgoutput import DecodeError, StreamAbort, StreamCommit, StreamStart, StreamStop, decode
from instep_connectors.postgres.spool import Spool, check_folder

Frame = tuple[int, bytes]
"""WAL position and message."""

_RELATION: Final = b"R"
_ORIGIN: Final = b"O"
_WITH_XID: Final = frozenset((b"I", b"U", b"D", b"R", b"Y", b"T", b"M"))
"""Within a part these have the (sub)transaction's id behind their first byte."""

_OUTSIDE: Final = frozenset((b"B", b"C", b"I", b"U", b"D", b"Y", b"O", b"T", b"M"))
_INSIDE: Final = frozenset[bytes]()


class Streamed:
    """Makes whole transactions of parts; other transactions, which may come between two parts, pass.

    Args:
        folder: of the spools; None: the system's temporary folder.

    Raises:
        EnvironmentFault: the folder takes no files.
    """

    def __init__(self, folder: Path | None = None) -> None:
        check_folder(folder)
        self._folder = folder
        self._running: dict[int, _Running] = {}
        self._part: _Running | None = None
        self._told = _Told()
        self.passing = _OUTSIDE
        """First bytes of the messages that pass, of which `take` wants to know nothing."""
        self.whole: Iterator[Frame] | None = None
        """What comes before anything that arrives now: the caller takes it to its end, then sets None."""

    def take(self, frame: bytes, lsn: int) -> None:
        """Take a message that does not pass; `whole` is set when it sets something free.

        Args:
            frame: the message.
            lsn: its WAL position.

        Raises:
            DecodeError: nothing that may come here.
            EnvironmentFault: the spool's disk is full.
        """
        if self._part is not None:
            self._inside(self._part, frame, lsn)
            return
        if frame[:1] == _RELATION:
            self._told.put(frame, self._told.next())
            self.whole = iter(((lsn, frame),))
            return
        match decode(frame):
            case StreamStart(xid, first):
                self._start(xid, first, lsn)
            case StreamAbort(xid, subxid):
                self._abort(xid, subxid)
            case StreamCommit(xid):
                self.whole = self._commit(self._known(xid), frame, lsn)
                del self._running[xid]
            case message:
                raise DecodeError(f"{type(message).__name__} outside of a part")

    def close(self) -> None:
        """Forget every transaction: on another connection the store sends them from their beginning again."""
        for running in self._running.values():
            running.spool.close()
        self._running, self._part, self.whole, self.passing = {}, None, None, _OUTSIDE

    def _start(self, xid: int, first: bool, lsn: int) -> None:
        if first and xid in self._running:
            raise DecodeError(f"transaction {xid} begins twice")
        if first:
            self._running[xid] = _Running(Spool(self._folder), lsn)
        self._part, self.passing = self._known(xid), _INSIDE

    def _inside(self, part: _Running, frame: bytes, lsn: int) -> None:
        kind = frame[:1]
        if kind in _WITH_XID:
            if kind == _RELATION:
                part.told.append(self._told.next())
            part.spool.add(int.from_bytes(frame[1:5]), lsn, kind + frame[5:])
        elif kind == _ORIGIN:
            part.origin = lsn, frame
        elif isinstance(decode(frame), StreamStop):
            self._part, self.passing = None, _OUTSIDE
        else:
            raise DecodeError(f"message {kind!r} within a part")

    def _abort(self, xid: int, subxid: int) -> None:
        running = self._running.get(xid)
        if running is None:
            return  # nothing of it has come
        if subxid != xid:
            running.dropped.add(subxid)
            return
        running.spool.close()
        del self._running[xid]

    def _known(self, xid: int) -> _Running:
        try:
            return self._running[xid]
        except KeyError:
            raise DecodeError(f"the beginning of transaction {xid} is missing") from None

    def _commit(self, running: _Running, commit: bytes, lsn: int) -> Iterator[Frame]:
        """BEGIN, ORIGIN, what was not rolled back, COMMIT; nothing at all when nothing is left."""
        begun, outdated = False, dict[bytes, bytes]()
        for kept in running.kept(self._told, outdated):
            if not begun:
                yield running.lsn, b"B" + commit[6:14] + commit[22:30] + commit[1:5]
                if running.origin is not None:
                    yield running.origin
                begun = True
            yield kept
        for frame in outdated.values():
            yield lsn, frame
        if begun:
            yield lsn, b"C" + commit[5:]


class _Running:
    """A transaction that is still running."""

    def __init__(self, spool: Spool, lsn: int) -> None:
        self.spool, self.lsn = spool, lsn
        self.origin: Frame | None = None
        self.dropped: set[int] = set()
        """Subtransactions that were rolled back."""
        self.told: list[int] = []
        """Numbers of the RELATIONs in the spool, also of those rolled back."""

    def kept(self, told: _Told, outdated: dict[bytes, bytes]) -> Iterator[Frame]:
        """What was not rolled back. `outdated` gets what must be told again behind it, by table; see `_Told`."""
        numbers, dropped = iter(self.told), self.dropped
        try:
            for xid, lsn, frame in self.spool.read():
                if frame[:1] != _RELATION:
                    if xid not in dropped:
                        yield lsn, frame
                    continue
                number = next(numbers)
                if xid not in dropped:
                    yield lsn, told.within(frame, number, outdated)
        finally:
            self.spool.close()


class _Told:
    """Which description of a table is in force, where whole transactions do not come in the order of the wire.

    The store describes a table in a part when it sends the part, and once more outside of it when the description has
    changed since. The later one is in force for all that follows, but the part's comes out behind it: at its commit.
    """

    def __init__(self) -> None:
        self._count = 0
        self._latest: dict[bytes, tuple[int, bytes]] = {}

    def next(self) -> int:
        """The number of the RELATION that has just arrived."""
        self._count += 1
        return self._count

    def put(self, frame: bytes, number: int) -> None:
        """A RELATION is in force from here on."""
        self._latest[_table(frame)] = number, frame

    def within(self, frame: bytes, number: int, outdated: dict[bytes, bytes]) -> bytes:
        """The RELATION for the rows that follow one in a part.

        A later one with the same columns stands in for it, as a schema may be renamed meanwhile. A later one with
        other columns (a publication's list was altered) cannot: it is noted in `outdated`.
        """
        table = _table(frame)
        latest = self._latest.get(table)
        if latest is None or latest[0] < number:
            self.put(frame, number)
            outdated.pop(table, None)
        elif _columns(latest[1]) == _columns(frame):
            outdated.pop(table, None)
            return latest[1]
        else:
            outdated[table] = latest[1]
        return frame


def _table(relation: bytes) -> bytes:
    """The table's OID."""
    return relation[1:5]


def _columns(relation: bytes) -> bytes:
    """Replica identity and columns: what stands behind schema and name."""
    return relation[5:].split(b"\0", 2)[2]
