"""Parts of an envelope that many changes share, encoded once and spliced: source block, transaction, time stamps."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from instep_schemas.varint import LENGTH, counted, long, unsigned
from instep_schemas.wire import WireOptions

_NULL: Final = b"\x00"
_SOME: Final = b"\x02"


def _optional_long(number: int | None) -> bytes:
    return _NULL if number is None else _SOME + long(number)


@lru_cache(256)
def _constant(version: str, connector: str, source: str, snapshot: str, database: str) -> tuple[bytes, bytes]:
    """What all blocks of a source share, before and behind the commit time: there is a block per transaction."""
    front = b"".join(counted(text.encode()) for text in (version, connector, source))
    return front, _NULL + counted(snapshot.encode()) + counted(database.encode()) + _SOME


class SourceBlock:
    """The `source` field of all changes of one source transaction (or of one snapshot), but for each change's LSN.

    Args:
        options: of the source.
        committed_us: commit time (or the snapshot's), microseconds since the Unix epoch.
        transaction: the transaction's id (32 bits, as pgoutput tells it), or None.
        last_commit: end LSN of the last commit before this one, or None when it is not known yet.
        snapshot: `false` for streamed changes, else the snapshot marker.
        origin: replication origin of the transaction.
        origin_lsn: commit LSN at the origin.
    """

    __slots__ = ("_arguments", "_head", "_middle", "_options", "_sequence", "_tables", "_tail", "_transaction")

    def __init__(
        self,
        options: WireOptions,
        *,
        committed_us: int,
        transaction: int | None,
        last_commit: int | None = None,
        snapshot: str = "false",
        origin: str | None = None,
        origin_lsn: int | None = None,
    ) -> None:
        self._options = options
        self._arguments = (committed_us, transaction, last_commit, origin, origin_lsn)
        front, back = _constant(options.version, options.connector, options.source, snapshot, options.database)
        self._head = front + long(committed_us // 1000) + back
        self._sequence = b"[null," if last_commit is None else b'["%d",' % last_commit
        self._middle = _SOME + long(committed_us) + _SOME + long(committed_us * 1000)
        self._transaction = _optional_long(transaction)
        shown_origin = _NULL if origin is None else _SOME + counted(origin.encode())
        self._tables: dict[bytes, bytes] = {}
        self._tail = _NULL + shown_origin + _optional_long(origin_lsn)

    @property
    def arguments(self) -> tuple[int, int | None, int | None, str | None, int | None]:
        """What it was made of: committed_us, transaction, last_commit, origin, origin_lsn."""
        return self._arguments

    def marked(self, snapshot: str) -> SourceBlock:
        """The same block with another snapshot marker (`first`, `last`, …)."""
        committed_us, transaction, last_commit, origin, origin_lsn = self._arguments
        return SourceBlock(
            self._options,
            committed_us=committed_us,
            transaction=transaction,
            last_commit=last_commit,
            snapshot=snapshot,
            origin=origin,
            origin_lsn=origin_lsn,
        )

    def at(self, lsn: int | None, table: bytes) -> bytes:
        """The whole block of the change at `lsn` (None: an incremental snapshot's row); `table` from `table_block`."""
        middle = self._tables.get(table)
        if middle is None:
            middle = self._tables[table] = self._middle + table + self._transaction
        if lsn is None:
            last_commit = self._arguments[2]
            sequence = self._sequence + (b"null]" if last_commit is None else b'"%d"]' % last_commit)
            return self._head + LENGTH[len(sequence)] + sequence + middle + _NULL + self._tail
        sequence = b'%b"%d"]' % (self._sequence, lsn)
        position = unsigned(lsn << 1)
        return b"".join((self._head, LENGTH[len(sequence)], sequence, middle, _SOME, position, self._tail))


def table_block(schema: str, table: str) -> bytes:
    """The table's part of a source block."""
    return counted(schema.encode()) + counted(table.encode())


def time_stamp(now_ns: int) -> bytes:
    """The envelope's last three fields: when capture saw the change. One per batch will do."""
    return _SOME + long(now_ns // 1_000_000) + _SOME + long(now_ns // 1000) + _SOME + long(now_ns)


def transaction_block(transaction: str, total_order: int, table_order: int) -> bytes:
    """The envelope's `transaction` field; `transaction` is `txId:LSN`, both orders count from 1."""
    return _SOME + counted(transaction.encode()) + long(total_order) + long(table_order)


_CONTENT: Final[dict[str, Callable[[bytes], bytes]]] = {
    "bytes": lambda content: content,
    "base64": base64.b64encode,
    "base64-url-safe": base64.urlsafe_b64encode,
    "hex": lambda content: content.hex().encode(),
}


def message_value(
    options: WireOptions,
    prefix: str,
    content: bytes,
    source: SourceBlock,
    lsn: int,
    ts_ms: int,
    transaction: bytes = _NULL,
) -> bytes:
    """Avro body of a logical message (`instep_schemas.control.message_schemas`)."""
    return b"".join(
        (
            counted(b"m"),
            _SOME + long(ts_ms),
            source.at(lsn, table_block("", "")),
            transaction,
            _SOME + counted(prefix.encode()),
            _SOME + counted(_CONTENT[options.binary](content)),
        )
    )
