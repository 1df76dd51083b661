"""A change of one row in a store, and the position that orders it.

Values travel as PostgreSQL's own output text, so that no Python type stands between the store and the replica.
*Absent*, *null* and *value* are three different things: an unchanged TOAST column is `ABSENT`, never `None`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final, NamedTuple


class Absent(Enum):
    """The type of `ABSENT`, a value that the change does not carry."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT

Value = str | None | Absent
"""One column: PostgreSQL output text, SQL NULL, or not carried by this change."""

Row = Mapping[str, Value]

POSITION_HEADER: Final = "instep.position"
"""Kafka header of every data record that capture writes in its own profile: `Position.pack()`."""

JOINED_HEADER: Final = "instep.position."
"""With a joined source's name behind it, in the documents of a flow that may read it, too: its `Position.pack()`."""

_PACKED = struct.Struct(">IQI")
pack: Final = _PACKED.pack
"""`Position.pack` of epoch, lsn and seq, without a Position."""


class Op(StrEnum):
    """What happened to a row; the letters are Debezium's `op`."""

    READ = "r"
    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    TRUNCATE = "t"


class Position(NamedTuple):
    """Where a change stands in its source: ordered by epoch, then commit LSN, then index in the transaction.

    Attributes:
        epoch: counts system identifier and timeline changes of the source, from 1.
        lsn: the transaction's commit LSN (pgoutput BEGIN `final_lsn`); for snapshot rows the consistent point.
        seq: 0-based number of the change within its transaction.
    """

    epoch: int
    lsn: int
    seq: int = 0

    def pack(self) -> bytes:
        """Give 16 bytes, big-endian: epoch uint32, lsn uint64, seq uint32."""
        return _PACKED.pack(*self)

    @classmethod
    def unpack(cls, packed: bytes) -> Position:
        """Read what `pack` wrote.

        Raises:
            struct.error: not 16 bytes.
        """
        return cls(*_PACKED.unpack(packed))

    def __str__(self) -> str:
        return f"{self.epoch}:{format_lsn(self.lsn)}:{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `EPOCH:X/Y:SEQ`, `X/Y:SEQ` or `X/Y` (epoch 1, seq 0).

        Raises:
            ValueError: not of that form.
        """
        parts = text.split(":")
        if "/" in parts[0]:
            parts.insert(0, "1")
        if len(parts) == 2:
            parts.append("0")
        epoch, lsn, seq = parts
        return cls(int(epoch), parse_lsn(lsn), int(seq))


def format_lsn(lsn: int) -> str:
    """PostgreSQL's text of a pg_lsn: two hexadecimal halves, `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read `format_lsn`'s form.

    Raises:
        ValueError: not of that form.
    """
    high, low = text.split("/")
    return (int(high, 16) << 32) + int(low, 16)


@dataclass(frozen=True, slots=True)
class Change:
    """One row change as capture saw it and as the worker reads it back.

    Attributes:
        table: `schema.table` in the source.
        op: what happened.
        before: the old row as far as the replica identity gives it, or None.
        after: the new row, or None for a delete.
        position: orders changes of one source.
        committed_us: source commit time, microseconds since the Unix epoch (0: not known).
    """

    table: str
    op: Op
    before: Row | None
    after: Row | None
    position: Position
    committed_us: int = 0
