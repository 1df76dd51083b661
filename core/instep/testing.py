"""The conformance check of a sink, for its author's own tests: `await check_sink(case)` against the real target.

    async def test_it_is_a_sink() -> None:
        await check_sink(SinkCase(open=lambda: MySink.open(target, flow), key=…, fields=…, delivered=("name", "price")))

Each rule of `instep.protocols.Sink` is tried; a broken one raises `AssertionError` that says which.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from instep.change import Position
from instep.protocols import Document, Fields, Key, Outcome, Rejected, Sink, Unchanged, Written


@dataclass(frozen=True)
class SinkCase:
    """What the check needs to know of a sink.

    Attributes:
        open: gives a fresh sink on the same object type.
        key: gives the n-th key, n from 0; none of them is in the target before.
        fields: gives valid fields for a key; different numbers differ in at least one delivered column.
        delivered: the columns that `read` gives back.
        refused: gives fields that the target refuses for good; None: it refuses none.
        flow: the flow's name.
    """

    open: Callable[[], Sink]
    key: Callable[[int], Key]
    fields: Callable[[Key, int], Fields]
    delivered: Sequence[str]
    refused: Callable[[Key], Fields] | None = None
    flow: str = "check"


class _Check:
    def __init__(self, case: SinkCase, sink: Sink) -> None:
        self._case, self._sink = case, sink
        self._numbers, self._versions = count(), count(1)

    def document(self, key: Key, fields: Fields | None) -> Document:
        version = next(self._versions)
        return Document(self._case.flow, key, fields, version, Position(1, version), 0, f"{version:016x}")

    def valid(self, key: Key, number: int = 0) -> Document:
        return self.document(key, self._case.fields(key, number))

    def key(self) -> Key:
        return self._case.key(next(self._numbers))

    async def write(self, *documents: Document) -> list[Outcome]:
        outcomes = list(await self._sink.write(documents))
        _expect(len(outcomes) == len(documents), f"{len(documents)} documents got {len(outcomes)} outcomes")
        return outcomes

    async def holds(self, *documents: Document) -> None:
        held = await self._sink.read([document.key for document in documents])
        for document in documents:
            if document.fields is None:
                _expect(document.key not in held, f"read gives {document.key}, which was removed")
                continue
            found: Any = held.get(document.key)
            _expect(found is not None, f"read does not give {document.key}, which was written")
            for name in self._case.delivered:
                _expect(name in found, f"read leaves out the delivered column {name}")
                same = found[name] == document.fields[name]
                _expect(same, f"read gives {name} = {found[name]!r}; written was {document.fields[name]!r}")

    async def creates_and_repeats(self) -> None:
        size = max(1, self._sink.capabilities.batch_size)
        documents = [self.valid(self.key()) for _ in range(size)]
        for outcome in await self.write(*documents):
            _expect(isinstance(outcome, Written) and outcome.created, f"a new record must be created: {outcome}")
        await self.holds(*documents)
        for outcome in await self.write(*documents):
            again = isinstance(outcome, Unchanged) or (isinstance(outcome, Written) and not outcome.created)
            _expect(again, f"a repeated write must not create a second record: {outcome}")
        await self.holds(*documents)

    async def updates_in_order(self) -> None:
        first, second, new = self.key(), self.key(), self.key()
        await self.write(self.valid(first), self.valid(second))
        batch = [self.valid(new, 1), self.valid(second, 2), self.valid(first, 3)]
        created = [isinstance(o, Written) and o.created for o in await self.write(*batch)]
        _expect(created == [True, False, False], f"outcomes must be in the order of the documents: created {created}")
        await self.holds(*batch)

    async def removes_and_brings_back(self) -> None:
        kept, gone = self.valid(self.key()), self.key()
        await self.write(kept, self.valid(gone))
        tombstone = self.document(gone, None)
        (outcome,) = await self.write(tombstone)
        _expect(isinstance(outcome, Written), f"a tombstone must remove the record: {outcome}")
        await self.holds(tombstone, kept)
        (outcome,) = await self.write(tombstone)
        _expect(isinstance(outcome, Unchanged), f"what is gone already is unchanged: {outcome}")
        never = self.document(self.key(), None)
        (outcome,) = await self.write(never)
        _expect(isinstance(outcome, Unchanged), f"a tombstone of a record that never was is unchanged: {outcome}")
        back = self.valid(gone, 4)
        (outcome,) = await self.write(back)
        _expect(isinstance(outcome, Written), f"a record must come back after its tombstone: {outcome}")
        await self.holds(back)

    async def refuses_one_only(self) -> None:
        if self._case.refused is None:
            return
        good, bad, other = self.valid(self.key()), self.key(), self.valid(self.key())
        batch = [good, self.document(bad, self._case.refused(bad)), other]
        if self._sink.capabilities.batch_size >= len(batch):
            outcomes = await self.write(*batch)
            if all(isinstance(each, Rejected) for each in outcomes):  # refused as a whole: the engine tries each alone
                outcomes = [(await self.write(each))[0] for each in batch]
        else:
            outcomes = [(await self.write(each))[0] for each in batch]
        _expect(isinstance(outcomes[1], Rejected), f"a refused document must be Rejected: {outcomes[1]}")
        assert isinstance(outcomes[1], Rejected)
        _expect(bool(outcomes[1].code and outcomes[1].message), "Rejected must say why, with a code and a message")
        for outcome in (outcomes[0], outcomes[2]):
            _expect(isinstance(outcome, Written), f"a refused document must not hurt the others: {outcome}")
        await self.holds(good, other)
        _expect(bad not in await self._sink.read([bad]), "a refused document must leave nothing behind")

    async def keeps_no_state(self) -> None:
        document = self.valid(self.key())
        await self.write(document)
        other = self._case.open()
        try:
            held = await other.read([document.key])
            _expect(document.key in held, "another sink must read what this one wrote")
            (outcome,) = await other.write([document])
            created = isinstance(outcome, Written) and outcome.created
            _expect(not created, "another sink must find what this one wrote, not create it again")
        finally:
            await other.aclose()

    async def reads_nothing_of_nobody(self) -> None:
        key = self.key()
        _expect(dict(await self._sink.read([key])) == {}, "keys without a record are left out of read")
        _expect(dict(await self._sink.read([])) == {}, "reading no keys gives nothing")


async def check_sink(case: SinkCase) -> None:
    """Try every rule of the `Sink` protocol on a real target.

    Raises:
        AssertionError: a rule is broken; says which.
    """
    sink = case.open()
    _expect(isinstance(sink, Sink), "the object lacks a method of instep.protocols.Sink")
    _expect(sink.capabilities.batch_size >= 1 and sink.capabilities.concurrency >= 1, "capabilities begin at 1")
    check = _Check(case, sink)
    try:
        await check.reads_nothing_of_nobody()
        await check.creates_and_repeats()
        await check.updates_in_order()
        await check.removes_and_brings_back()
        await check.refuses_one_only()
        await check.keeps_no_state()
    finally:
        await sink.aclose()
        await sink.aclose()  # safe to call twice


def _expect(condition: bool, rule: str) -> None:
    if not condition:
        raise AssertionError(rule)
