"""Reads the next chunk of a copy: what is there to read, how much of it, and when it cannot be read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import psycopg
from psycopg.errors import LockNotAvailable, QueryCanceled

from instep.change import ABSENT, Absent
from instep.relation import Relation
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.chunks import KeyOrder, Part, View, estimated_rows, read_part, read_row, viewing
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.session import passing
from instep_connectors.postgres.slot import Connection
from instep_connectors.postgres.snapshot import TextRow
from instep_schemas.wire import Unencodable
from instep_streams.capture.copies import Copy, Window, admits
from instep_streams.capture.fence import Fence
from instep_streams.capture.tables import CapturedTable, Incompatible, Tables

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.05
AFTER_FAULT_S: Final = 5.0


class Later(Exception):
    """A chunk cannot be read now; `seconds`: when to try again; `rotate`: another copy may go first."""

    def __init__(self, seconds: float, *, rotate: bool = False) -> None:
        super().__init__()
        self.seconds, self.rotate = seconds, rotate


class Chunk(NamedTuple):
    """What was read.

    Attributes:
        view: what it sees.
        relation: the table as of then.
        rows: in the order of the key.
        last: the last row's key when the range goes on, None when it is over.
        upto: the range's greatest key, if it was looked for.
    """

    view: View
    relation: Relation
    rows: list[TextRow]
    last: list[str] | None = None
    upto: list[str] | None = None


class ChunkReader:
    """Reads chunks.

    Args:
        control: a connection in autocommit mode.
        published: gives the tables that may be copied, as they are now.
        fence: what a chunk must see.
        chunk_rows: most rows of a chunk.
        exhaust: a range is over only when a chunk is empty, as Debezium has it.
        primary_first: see `Catalog`.
    """

    def __init__(
        self,
        control: Connection,
        published: Callable[[], Sequence[Published]],
        fence: Fence,
        *,
        chunk_rows: int,
        exhaust: bool,
        primary_first: bool,
    ) -> None:
        self._control = control
        self._published = published
        self._fence = fence
        self._limit = self._most = chunk_rows
        self._exhaust = exhaust
        self._slow: set[str] = set()
        self._catalog = Catalog(control, primary_first=primary_first)

    def names(self) -> list[str]:
        """The tables that may be copied."""
        return [table.table for table in self._published()]

    def read(self, copy: Copy) -> Chunk | None:
        """Read the copy's next chunk; None when it must be given up.

        Raises:
            Later: it cannot be read now.
            ConnectionError: the store is gone for now.
        """
        try:
            with viewing(self._control) as view:
                if not self._fence.admits(view):
                    raise Later(_AGAIN_S)
                found = self.described(copy)
                if found is None:
                    log.warning("%s is not captured, or has no key: it is not copied", copy.table)
                    return None
                return self._chunk(view, copy, *found)
        except (psycopg.Error, ConnectionError) as exc:
            self._failed(copy, exc)
            return None

    def described(self, copy: Copy) -> tuple[Published, Relation] | None:
        """The table as it is now; None: it is not captured, or cannot be read in parts. Raises `psycopg.Error`."""
        published = next((table for table in self._published() if table.table == copy.table), None)
        if published is None:
            return None
        relation = self._catalog.relations({published.oid: published.columns}).get(published.oid)
        if relation is None or not (copy.first or copy.order or relation.key):
            return None
        if copy.first and copy.order and copy.order != list(relation.key):
            log.info("the key of %s has changed: its copy starts over", copy.table)
            copy.order, copy.ranges = [], [[None, None]]
        copy.order = copy.order or list(relation.key)
        if copy.total is None and not copy.condition:
            copy.total = estimated_rows(self._control, published.oid)
        return published, relation

    def _chunk(self, view: View, copy: Copy, published: Published, relation: Relation) -> Chunk:
        if not copy.order:  # without a key: all at once
            return Chunk(view, relation, read_part(self._control, published, relation, (), Part()))
        after, upto = copy.ranges[0]
        found = None
        if upto is None:
            end = read_part(
                self._control, published, relation, copy.order, Part(after), condition=copy.condition, last=True
            )
            if not end:
                return Chunk(view, relation, [])
            upto = found = row_texts(relation, copy.order, end[0])
        rows = read_part(
            self._control, published, relation, copy.order, Part(after, upto),
            condition=copy.condition, limit=self._limit,
        )  # fmt: skip
        over = not rows if self._exhaust else len(rows) < self._limit
        self._limit = min(self._most, self._limit * 2)
        return Chunk(view, relation, rows, None if over else row_texts(relation, copy.order, rows[-1]), found)

    def _failed(self, copy: Copy, exc: Exception) -> None:
        """A chunk could not be read: later, or never.

        Raises:
            Later: later.
            ConnectionError: the store is gone.
        """
        cause = exc if isinstance(exc, psycopg.Error) else exc.__cause__
        if isinstance(cause, LockNotAvailable):
            raise Later(AFTER_FAULT_S / 5) from None
        if isinstance(cause, QueryCanceled):
            if copy.order and self._limit > 1:
                self._limit //= 2
                raise Later(_AGAIN_S) from None
            if copy.table not in self._slow:
                self._slow.add(copy.table)
                words = "one row" if copy.order else "all of it at one go, since it has no key,"
                log.warning(
                    "%s cannot be copied yet: %s takes the store too long; it is tried again", copy.table, words
                )
            raise Later(AFTER_FAULT_S, rotate=True) from None
        if not isinstance(exc, psycopg.Error):
            raise exc
        must_be_final(exc)
        words = " ".join(str(exc).split())
        if not copy.first:
            log.warning("the copy of %s is given up: the store says: %s", copy.table, words)
            return
        log.warning("%s cannot be copied yet: the store says: %s", copy.table, words)
        raise Later(AFTER_FAULT_S, rotate=True) from None


def registered(tables: Tables, copy: Copy, relation: Relation) -> CapturedTable | None:
    """The table as its rows are written; None: the registry refuses it, and the copy must be given up.

    Raises:
        Later: a first copy waits until the registry takes it.
    """
    try:
        return tables.captured(relation)
    except Incompatible as exc:
        if copy.first:
            log.warning("%s cannot be copied yet: %s", copy.table, exc)
            raise Later(AFTER_FAULT_S, rotate=True) from None
        log.warning("the copy of %s is given up: %s", copy.table, exc)
        return None


class Regions:
    """Tells whether changes of a first copy's table must be written.

    Args:
        control: a connection in autocommit mode.
    """

    def __init__(self, control: Connection) -> None:
        self._control = control
        self._orders: dict[str, KeyOrder] = {}

    def forget(self, copy: Copy) -> None:
        """The table's key may have changed, or the copy is over."""
        self._orders.pop(copy.table, None)

    def admits(self, copy: Copy, window: Window | None, table: CapturedTable, key: list[str], xid: int) -> bool:
        """See `copies.admits`."""
        order = self._orders.get(copy.table)
        if order is None:
            relation = table.encoder.relation
            try:
                order = KeyOrder(self._control, relation, copy.order or relation.key)
            except psycopg.Error as exc:
                raise passing(exc) from exc
            self._orders[copy.table] = order
        try:
            return admits(copy, window, order, key, xid)
        except psycopg.Error as exc:
            must_be_final(exc)
            return False  # the table has changed since: its copy starts over, and will have the row

    def completed(self, table: CapturedTable, new: RawRow) -> RawRow | None:
        """The row with unchanged TOAST values as they are now: under its old key nobody has read them yet.

        None: it is gone again, or has moved on: the stream will tell.
        """
        try:
            now = read_row(self._control, table.encoder.relation, texts_of(table, new) or [])
        except psycopg.Error as exc:
            must_be_final(exc)
            return None
        if now is None:
            return None
        return tuple(read if each is ABSENT else each for each, read in zip(new, now, strict=True))


def must_be_final(exc: psycopg.Error) -> None:
    """Raise what passes by itself as ConnectionError."""
    failure = passing(exc)
    if not isinstance(failure, psycopg.Error):
        raise failure from exc


def key_of(table: CapturedTable, row: Sequence[bytes | Absent | None]) -> bytes:
    """The row's Kafka key; for one that cannot be written, which goes to the dead letters in its turn, some bytes."""
    try:
        key = table.encoder.key(row)
    except Unencodable:
        key = None
    return repr(row).encode() if key is None else key


def texts_of(table: CapturedTable, row: RawRow | None) -> list[str] | None:
    """The texts of the key's columns; None when the row does not tell them."""
    relation = table.encoder.relation
    if row is None:
        return None
    names = [column.name for column in relation.columns]
    cells = [row[names.index(name)] for name in relation.key]
    return (
        [cell.decode() for cell in cells if isinstance(cell, bytes)]
        if None not in cells and ABSENT not in cells
        else None
    )


def with_key(table: CapturedTable, old: RawRow, new: RawRow) -> RawRow:
    """The new row with unchanged key columns filled in: a TOASTed key is sent with the old key only."""
    identity = {i for i, column in enumerate(table.encoder.relation.columns) if column.identity}
    return tuple(old[i] if value is ABSENT and i in identity else value for i, value in enumerate(new))


def row_texts(relation: Relation, order: Sequence[str], row: TextRow) -> list[str]:
    """The texts of some columns."""
    names = [column.name for column in relation.columns]
    cells = (row[names.index(name)] for name in order)
    return ["" if cell is None else cell.decode() for cell in cells]
