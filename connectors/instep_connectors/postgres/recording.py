"""The flight recorder: every replication frame and acknowledgement of a capture, in one file, in order.

A file holds row values. Whoever may read it may read the store: it is made readable by its owner only.

Format: `MAGIC`, then entries: kind (1 byte), length of the rest (uint32, big-endian), microseconds since the Unix epoch
(int64), the entry's bytes. A file that was cut off by a kill ends in a partial entry, which is read over.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from struct import Struct
from typing import Any, Final, NamedTuple

from instep.errors import EnvironmentFault
from instep.relation import Column, Relation, ReplicaIdentity, Type, TypeKind
from instep_connectors.postgres.replication import BUSY, Keepalive, ReplicationConnection
from instep_connectors.postgres.streamed import Streamed

MAGIC: Final = b"INSTEP-FRAMES-1\n"
_HEAD: Final = Struct(">cIq")
_LSN: Final = Struct(">Q")
_KEEPALIVE: Final = Struct(">QB")


class Kind(Enum):
    """What an entry is; its bytes."""

    START = b"S"
    """A stream begins: JSON with slot, publication, LSN."""
    FRAME = b"F"
    """A pgoutput message: its WAL position (uint64), then the message."""
    KEEPALIVE = b"K"
    """The server's end of WAL (uint64), and whether it wants an answer (1 byte)."""
    CONFIRMED = b"A"
    """An acknowledgement: everything below this LSN (uint64), and whether it asks for an answer."""
    RELATION = b"R"
    """JSON: the relation that the frame before it and the catalog made."""


class Entry(NamedTuple):
    """One entry.

    Attributes:
        kind: what it is.
        at_us: when, in microseconds since the Unix epoch.
        data: its bytes, see `Kind`.
    """

    kind: Kind
    at_us: int
    data: bytes

    @property
    def lsn(self) -> int:
        """The LSN that a frame, a keepalive or an acknowledgement begins with."""
        return int(_LSN.unpack_from(self.data)[0])

    @property
    def message(self) -> bytes:
        """A frame's pgoutput message."""
        return self.data[_LSN.size :]

    @property
    def relation(self) -> Relation:
        """A relation entry's relation."""
        return relation_of(json.loads(self.data))


class Recorder:
    """Writes a recording; goes on behind what the file holds.

    Args:
        path: of the file.

    Raises:
        EnvironmentFault: it cannot be written, or is something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            whole = _whole(path) if path.exists() and path.stat().st_size else 0
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise EnvironmentFault(f"{path} cannot be written: {exc.strerror}.", "Name another file.") from exc
        self._file = os.fdopen(descriptor, "r+b", buffering=1 << 16)
        self._file.truncate(whole)
        self._file.seek(whole)
        if not whole:
            self._file.write(MAGIC)

    def add(self, kind: Kind, data: bytes) -> None:
        """Write one entry."""
        self._file.write(_HEAD.pack(kind.value, len(data), time.time_ns() // 1000) + data)
        if kind is Kind.CONFIRMED:
            self._file.flush()

    def relation(self, relation: Relation) -> None:
        """Write what catalog and RELATION said of a table."""
        self.add(Kind.RELATION, json.dumps(asdict(relation)).encode())

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        self._file.close()


class RecordedConnection(ReplicationConnection):
    """A replication connection whose stream is recorded.

    Args:
        dsn: the user's connection string.
        application: our name in the store.
        recorder: gets all that comes and goes.

    Raises as `ReplicationConnection`.
    """

    def __init__(self, dsn: str, application: str, recorder: Recorder) -> None:
        super().__init__(dsn, application)
        self._recorder = recorder

    def start(self, slot: str, lsn: int, publication: str, streamed: Streamed | None = None) -> None:
        """Begin to stream; see `ReplicationConnection.start`."""
        super().start(slot, lsn, publication, streamed)
        document = {"slot": slot, "lsn": lsn, "publication": publication}
        self._recorder.add(Kind.START, json.dumps(document).encode())

    def receive(self) -> bytes | Keepalive | None:
        """The next message; see `ReplicationConnection.receive`. Streamed transactions are recorded as whole ones."""
        frame = super().receive()
        if frame is BUSY:
            return frame
        if isinstance(frame, Keepalive):
            self._recorder.add(Kind.KEEPALIVE, _KEEPALIVE.pack(*frame))
        elif frame is not None:
            self._recorder.add(Kind.FRAME, _LSN.pack(self.frame_lsn) + frame)
        return frame

    def send_status(self, flushed: int, *, ask: bool = False) -> None:
        """Report what is durable; see `ReplicationConnection.send_status`."""
        super().send_status(flushed, ask=ask)
        self._recorder.add(Kind.CONFIRMED, _KEEPALIVE.pack(flushed, ask))


def entries(path: Path) -> Iterator[Entry]:
    """Read a recording.

    Raises:
        EnvironmentFault: it cannot be read, or is something else.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise EnvironmentFault(f"{path} cannot be read: {exc.strerror}.") from exc
    if not data.startswith(MAGIC):
        raise EnvironmentFault(f"{path} is not a recording.", "Make one with `instep capture --record FILE`.")
    at = len(MAGIC)
    while at + _HEAD.size <= len(data):
        kind, size, at_us = _HEAD.unpack_from(data, at)
        begin, at = at + _HEAD.size, at + _HEAD.size + size
        if at > len(data):
            return
        yield Entry(Kind(kind), at_us, data[begin:at])


def _whole(path: Path) -> int:
    """Bytes of the file up to the end of its last whole entry."""
    return len(MAGIC) + sum(_HEAD.size + len(entry.data) for entry in entries(path))


def relation_of(document: dict[str, Any]) -> Relation:
    """A relation from what `dataclasses.asdict` made of it, through JSON."""
    columns = tuple(Column(**{**each, "type": _type(each["type"])}) for each in document["columns"])
    return Relation(
        **{
            **document,
            "columns": columns,
            "key": tuple(document["key"]),
            "replica_identity": ReplicaIdentity(document["replica_identity"]),
        }
    )


def _type(document: dict[str, Any]) -> Type:
    element = document["element"]
    return Type(
        **{
            **document,
            "kind": TypeKind(document["kind"]),
            "labels": tuple(document["labels"]),
            "element": None if element is None else _type(element),
        }
    )
