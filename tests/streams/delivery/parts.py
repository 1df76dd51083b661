"""Documents and collaborators that the delivery tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from instep.change import Position
from instep.flowfile import Flow
from instep.protocols import Delete, Document, Fields
from instep_streams.delivery.conflate import Origin, Waiting
from instep_streams.delivery.decide import Entry

FLOW = Flow(name="card", sql="SELECT 1", key=("k",), object="thing", delete=Delete.DELETE)


def document(key: str, version: int, fields: Fields | None = None, *, digest: str | None = None) -> Document:
    """A version of a key; its digest follows from the fields unless given."""
    shown = "" if fields is None else f"{hash(tuple(sorted(fields.items()))) & (2**64 - 1):016x}"
    return Document("card", (key,), fields, version, Position(1, version), 0, shown if digest is None else digest)


def waiting(each: Document, offset: int = 0) -> Waiting:
    return Waiting(each, Origin("flow.card", 0, offset), b"raw")


def value(key: str, version: int) -> Waiting:
    """A version whose only column says which it is."""
    return waiting(document(key, version, {"v": version}), version)


def gone(key: str, version: int) -> Waiting:
    return waiting(document(key, version), version)


class Letterbox:
    """Keeps dead letters in memory."""

    def __init__(self) -> None:
        self.found: list[tuple[Waiting, Entry]] = []

    async def put(self, rejected: Sequence[tuple[Waiting, Entry]]) -> None:
        self.found += rejected


async def until(true: Callable[[], Awaitable[bool]], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await true():
        assert time.monotonic() < deadline, f"it did not come true in {seconds} s"
        await asyncio.sleep(0.02)
