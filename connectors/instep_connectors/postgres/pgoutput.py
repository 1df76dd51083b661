"""Decode the messages of PostgreSQL's `pgoutput` plug-in, protocol versions 1 and 2 (streamed transactions). No I/O.

Values stay the bytes PostgreSQL sent: `bytes`, `None` for SQL NULL, `ABSENT` for an unchanged TOAST value.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from instep.change import ABSENT, Absent

PG_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, where PostgreSQL's timestamps start, in microseconds since the Unix epoch."""

RawValue = bytes | None | Absent
RawRow = tuple[RawValue, ...]

KEY_COLUMN: Final = 1
"""Flag of a RELATION's column: part of the replica identity."""

_U32 = Struct(">I")
_I16 = Struct(">h")
_BEGIN = Struct(">QqI")
_COMMIT = Struct(">BQQq")
_STREAM_COMMIT = Struct(">IBQQq")
_TRUNCATE = Struct(">IB")
_MESSAGE = Struct(">BQ")
_COLUMN_TYPE = Struct(">Ii")


class DecodeError(ValueError):
    """The bytes are no message of the protocol: never guessed at, because a skipped message is a lost change."""


class Begin(NamedTuple):
    """A transaction starts; `lsn` is that of its commit record."""

    lsn: int
    committed_us: int
    xid: int


class Commit(NamedTuple):
    """The transaction's end; `end_lsn` lies behind its commit record."""

    lsn: int
    end_lsn: int
    committed_us: int


class Origin(NamedTuple):
    """The transaction was replicated from elsewhere."""

    lsn: int
    name: str


class RelationColumn(NamedTuple):
    """One column of a RELATION message."""

    name: str
    type_oid: int
    modifier: int
    flags: int


class RelationMessage(NamedTuple):
    """The table as it was when the rows that follow were written."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[RelationColumn, ...]


class TypeMessage(NamedTuple):
    """The name of a type that is not built in."""

    oid: int
    schema: str
    name: str


class Insert(NamedTuple):
    """A new row."""

    oid: int
    new: RawRow


class Update(NamedTuple):
    """A changed row. `old` is the key only (`full` false), the whole old row, or None: the key did not change."""

    oid: int
    old: RawRow | None
    full: bool
    new: RawRow


class Delete(NamedTuple):
    """A row that is gone; `old` holds the replica identity's columns, or all of them (`full`)."""

    oid: int
    old: RawRow
    full: bool


class Truncate(NamedTuple):
    """Tables emptied by one statement."""

    oids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    """What `pg_logical_emit_message` wrote."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


class StreamStart(NamedTuple):
    """A part of a transaction that is still running follows."""

    xid: int
    first: bool


class StreamStop(NamedTuple):
    """The part is over."""


class StreamCommit(NamedTuple):
    """The streamed transaction is committed."""

    xid: int
    lsn: int
    end_lsn: int
    committed_us: int


class StreamAbort(NamedTuple):
    """The streamed transaction, or its subtransaction `subxid`, is rolled back."""

    xid: int
    subxid: int


Message = (
    Begin
    | Commit
    | Origin
    | RelationMessage
    | TypeMessage
    | Insert
    | Update
    | Delete
    | Truncate
    | LogicalMessage
    | StreamStart
    | StreamStop
    | StreamCommit
    | StreamAbort
)


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(0, at)
    return data[at:end].decode(), end + 1


def _tuple(data: bytes, at: int) -> tuple[RawRow, int]:
    """Read a TupleData; hot: the walk is one loop without calls but for the lengths."""
    (count,) = _I16.unpack_from(data, at)
    at += 2
    row: list[RawValue] = []
    append = row.append
    length_at = _U32.unpack_from
    for _ in range(count):
        kind = data[at]
        if kind == 116:  # t: text
            (length,) = length_at(data, at + 1)
            at += 5 + length
            append(data[at - length : at])
        elif kind == 110:  # n: null
            at += 1
            append(None)
        elif kind == 117:  # u: unchanged TOAST
            at += 1
            append(ABSENT)
        else:
            raise DecodeError(f"tuple value of kind {kind:#x}")
    if at > len(data):
        raise DecodeError("tuple longer than its message")
    return tuple(row), at


def _begin(data: bytes, at: int) -> Begin:
    lsn, committed, xid = _BEGIN.unpack_from(data, at)
    return Begin(lsn, committed + PG_EPOCH_US, xid)


def _commit(data: bytes, at: int) -> Commit:
    _, lsn, end_lsn, committed = _COMMIT.unpack_from(data, at)
    return Commit(lsn, end_lsn, committed + PG_EPOCH_US)


def _origin(data: bytes, at: int) -> Origin:
    (lsn,) = Struct(">Q").unpack_from(data, at)
    return Origin(lsn, _text(data, at + 8)[0])


def _relation(data: bytes, at: int) -> RelationMessage:
    (oid,) = _U32.unpack_from(data, at)
    schema, at = _text(data, at + 4)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _I16.unpack_from(data, at + 1)
    at += 3
    columns = []
    for _ in range(count):
        flags = data[at]
        column, at = _text(data, at + 1)
        type_oid, modifier = _COLUMN_TYPE.unpack_from(data, at)
        at += 8
        columns.append(RelationColumn(column, type_oid, modifier, flags))
    # pgoutput leaves pg_catalog empty
    return RelationMessage(oid, schema or "pg_catalog", name, identity, tuple(columns))


def _type(data: bytes, at: int) -> TypeMessage:
    (oid,) = _U32.unpack_from(data, at)
    schema, at = _text(data, at + 4)
    return TypeMessage(oid, schema or "pg_catalog", _text(data, at)[0])


def _insert(data: bytes, at: int) -> Insert:
    (oid,) = _U32.unpack_from(data, at)
    if data[at + 4] != 78:  # N
        raise DecodeError("INSERT without a new row")
    return Insert(oid, _tuple(data, at + 5)[0])


def _update(data: bytes, at: int) -> Update:
    (oid,) = _U32.unpack_from(data, at)
    at += 4
    old, kind = None, data[at]
    if kind == 75 or kind == 79:  # K, O
        old, at = _tuple(data, at + 1)
    if data[at] != 78:  # N
        raise DecodeError("UPDATE without a new row")
    return Update(oid, old, kind == 79, _tuple(data, at + 1)[0])


def _delete(data: bytes, at: int) -> Delete:
    (oid,) = _U32.unpack_from(data, at)
    kind = data[at + 4]
    if kind != 75 and kind != 79:  # K, O
        raise DecodeError("DELETE without an old row")
    return Delete(oid, _tuple(data, at + 5)[0], kind == 79)


def _truncate(data: bytes, at: int) -> Truncate:
    count, options = _TRUNCATE.unpack_from(data, at)
    oids = Struct(f">{count}I").unpack_from(data, at + 5)
    return Truncate(oids, bool(options & 1), bool(options & 2))


def _message(data: bytes, at: int) -> LogicalMessage:
    flags, lsn = _MESSAGE.unpack_from(data, at)
    prefix, at = _text(data, at + 9)
    (length,) = _U32.unpack_from(data, at)
    content = data[at + 4 : at + 4 + length]
    if len(content) != length:
        raise DecodeError("logical message longer than its frame")
    return LogicalMessage(bool(flags & 1), lsn, prefix, content)


def _stream_commit(data: bytes, at: int) -> StreamCommit:
    xid, _, lsn, end_lsn, committed = _STREAM_COMMIT.unpack_from(data, at)
    return StreamCommit(xid, lsn, end_lsn, committed + PG_EPOCH_US)


def _stream_abort(data: bytes, at: int) -> StreamAbort:
    xid, subxid = Struct(">II").unpack_from(data, at)
    return StreamAbort(xid, subxid)


def _stream_start(data: bytes, at: int) -> StreamStart:
    return StreamStart(_U32.unpack_from(data, at)[0], data[at + 4] == 1)


_BODIES: Final[dict[int, Callable[[bytes, int], Message]]] = {
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("B"): _begin,
    ord("C"): _commit,
    ord("R"): _relation,
    ord("Y"): _type,
    ord("O"): _origin,
    ord("T"): _truncate,
    ord("M"): _message,
    ord("S"): _stream_start,
    ord("E"): lambda data, at: StreamStop(),
    ord("c"): _stream_commit,
    ord("A"): _stream_abort,
}


def decode(data: bytes) -> Message:
    """Decode one message, as it is outside of streamed parts: within them some have a transaction's id in front.

    Raises:
        DecodeError: not a message of the protocol, or cut short.
    """
    try:
        return _BODIES[data[0]](data, 1)
    except DecodeError:
        raise
    except KeyError:
        raise DecodeError(f"unknown message {data[:1]!r}") from None
    except (IndexError, ValueError, ArithmeticError) as exc:
        raise DecodeError(f"message {data[:1]!r} cannot be read: {exc}") from exc
    except Exception as exc:  # struct.error derives from Exception only
        raise DecodeError(f"message {data[:1]!r} is cut short: {exc}") from exc
