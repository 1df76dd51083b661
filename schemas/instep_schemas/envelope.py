"""Parts of an envelope that many changes share, encoded once and spliced: source block, transaction, time stamps."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from instep_schemas import built, varint
from instep_schemas.varint import LENGTH, above, counted, with_above
from instep_schemas.wire import WireOptions

_compiled = built.module()
long: Final[Callable[[int], bytes]] = varint.long if _compiled is None else _compiled.long
"""Of large numbers, a dozen per transaction."""

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

    __slots__ = (
        "_arguments", "_digits", "_front", "_head", "_high", "_options", "_sequence", "_upper",
        "behind", "middle", "tail",
    )  # fmt: skip

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
        self._front, self._digits, self._upper, self._high = b"", 0, b"", -1
        self.middle = b'"]' + _SOME + long(committed_us) + _SOME + long(committed_us * 1000)
        self.behind = _optional_long(transaction)
        if origin is None and origin_lsn is None:
            self.tail = _NULL * 3
        else:
            shown_origin = _NULL if origin is None else _SOME + counted(origin.encode())
            self.tail = _NULL + shown_origin + _optional_long(origin_lsn)

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

    def spot(self, lsn: int) -> tuple[bytes, bytes, bytes]:
        """What differs from one change to the next; the block of the change at `lsn` is made of seven parts.

        Returns:
            The first, second and sixth: up to its sequence, the sequence's number, the LSN. The others are `middle`,
            `table_block`, `behind`, and behind them all `tail`.
        """
        number = b"%d" % lsn
        if len(number) != self._digits:
            self._digits = len(number)
            self._front = self._head + LENGTH[len(self._sequence) + len(number) + 3] + self._sequence + b'"'
        twice = lsn << 1
        if twice >> 14 != self._high:
            self._high, self._upper = twice >> 14, above(twice)
        return self._front, number, with_above(twice, self._upper)

    def at(self, lsn: int | None, table: bytes) -> bytes:
        """The whole block of the change at `lsn` (None: an incremental snapshot's row); `table` from `table_block`."""
        if lsn is None:
            last_commit = self._arguments[2]
            sequence = self._sequence + (b"null" if last_commit is None else b'"%d"' % last_commit)
            front = self._head + LENGTH[len(sequence) + 1] + sequence + b"]" + self.middle[2:]
            return front + table + self.behind + _NULL + self.tail
        front, number, position = self.spot(lsn)
        return b"".join((front, number, self.middle, table, self.behind, _SOME, position, self.tail))


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
