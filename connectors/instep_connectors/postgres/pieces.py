"""Tables of an exported snapshot, read by several connections at once, in pieces that fit into memory.

Every connection is pinned to the same snapshot. Parts of a table (ranges of its key) are read in the order of the key,
so that a piece's last key says how far the part is; parts of a table without one are ranges of its blocks, in no order.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from queue import Empty, Full, Queue
from typing import Any, Final, Generic, NamedTuple, TypeVar

import psycopg
from psycopg import sql

from instep.relation import Relation
from instep_connectors.postgres.chunks import Part, part_query
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.snapshot import Snapshot, TextRow, parse_copy_line

Owner = TypeVar("Owner")

_PIECE_BYTES: Final = 4 << 20
_LOOK_S: Final = 0.25
_SAMPLED: Final = 200
"""Sampled keys per part: parts differ by a tenth or so."""


@dataclass(frozen=True, slots=True)
class Work(Generic[Owner]):
    """A part to read.

    Attributes:
        owner: whatever the caller knows it by.
        table: to read.
        relation: its columns, as of the snapshot.
        order: the key's columns; empty: no order.
        part: bounds of the key, or of the rows' places.
    """

    owner: Owner
    table: Published
    relation: Relation
    order: Sequence[str]
    part: Part = field(default_factory=Part)


class Piece(NamedTuple):
    """Some rows of a part, in order; `over`: they are its last ones (perhaps none)."""

    work: Work[Any]
    rows: list[TextRow]
    over: bool


class Readers:
    """Reads parts in threads. Iterate over it once, then `close`.

    Args:
        dsn: the user's connection string.
        application: our name in the store.
        exported: the snapshot's identifier; its connection stays open meanwhile.
        works: the parts, in the order in which they are begun.
        threads: connections at once; with one, pieces come in the order of the parts.
        piece_rows: most rows of a piece.
    """

    def __init__(
        self, dsn: str, application: str, exported: str, works: Sequence[Work[Any]], threads: int, piece_rows: int
    ) -> None:
        self._store = (dsn, application, exported)
        self._works = deque(works)
        self._left = len(works)
        self._piece_rows = piece_rows
        self._queue: Queue[Piece | BaseException] = Queue(2 * threads)
        self._stopped = threading.Event()
        count = min(threads, len(works))
        self._threads = [threading.Thread(target=self._run, name=f"snapshot-{n}", daemon=True) for n in range(count)]

    def __iter__(self) -> Iterator[Piece | None]:
        """The pieces as they come; None now and then while there is none.

        Raises:
            ConnectionError: the store or the snapshot is gone.
            psycopg.Error: a table may not be read.
        """
        for thread in self._threads:
            thread.start()
        while self._left:
            try:
                piece = self._queue.get(timeout=_LOOK_S)
            except Empty:
                yield None
                continue
            if isinstance(piece, BaseException):
                raise piece
            self._left -= piece.over
            yield piece

    def close(self) -> None:
        """Stop reading. Safe to call twice."""
        self._stopped.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self) -> None:
        try:
            snapshot = Snapshot(*self._store, ())
            try:
                while not self._stopped.is_set():
                    try:
                        work = self._works.popleft()
                    except IndexError:
                        return
                    with snapshot.own_path() if work.table.select else nullcontext():
                        self._read(snapshot, work)
            finally:
                snapshot.close()
        except BaseException as exc:  # handed to the thread that iterates: it decides
            self._put(exc)

    def _read(self, snapshot: Snapshot, work: Work[Any]) -> None:
        query = part_query(work.table, work.relation, work.order, work.part)
        rows: list[TextRow] = []
        size = 0
        for line in snapshot.lines(query):
            rows.append(parse_copy_line(line) if work.relation.columns else ())
            size += len(line)
            if len(rows) >= self._piece_rows or size >= _PIECE_BYTES:
                if not self._put(Piece(work, rows, False)):
                    return
                rows, size = [], 0
        self._put(Piece(work, rows, True))

    def _put(self, piece: Piece | BaseException) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(piece, timeout=_LOOK_S)
            except Full:
                continue
            return True
        return False


def split(snapshot: Snapshot, table: Published, order: Sequence[str], rows: int, parts: int) -> list[Part]:
    """Divide a table into parts of about the same size, by a sample of its keys.

    Args:
        snapshot: to sample in.
        table: to divide.
        order: the key's columns.
        rows: how many there are, roughly.
        parts: how many are wanted; there may be fewer.

    Raises:
        ConnectionError: lost meanwhile.
    """
    percent = min(100.0, 100.0 * parts * _SAMPLED / max(rows, 1))
    names = sql.SQL(", ").join(map(sql.Identifier, order))
    query = sql.SQL("SELECT {0} FROM {1} TABLESAMPLE SYSTEM ({2}) ORDER BY {0}").format(
        names, sql.Identifier(table.schema, table.name), sql.Literal(percent)
    )
    try:
        found = [parse_copy_line(line) for line in snapshot.lines(query)]
    except psycopg.Error as exc:
        raise passing(exc) from exc
    step = max(1, len(found) // parts)
    keys = dict.fromkeys(found[n] for n in range(step, len(found) - step // 2, step))
    bounds = [None, *([(cell or b"").decode() for cell in key] for key in keys), None]
    return [Part(after, upto) for after, upto in pairwise(bounds)]


def split_blocks(snapshot: Snapshot, table: Published, parts: int) -> list[Part]:
    """Divide a table without a key into ranges of its blocks: the server reads such a range alone (TID range scan).

    The last part is open, so that it holds whatever the file has grown by. A partitioned table is one part: its leaves
    each count from 0.

    Args:
        snapshot: to ask.
        table: to divide.
        parts: how many are wanted; there may be fewer.

    Raises:
        ConnectionError: lost meanwhile.
    """
    blocks = snapshot.blocks(table)
    step = -(-blocks // parts) or 1
    bounds = [None, *([f"({block},0)"] for block in range(step, blocks, step)), None]
    return [Part(after, upto) for after, upto in pairwise(bounds)]
