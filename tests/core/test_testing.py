"""`check_sink` accepts a sink that keeps the rules and names the rule that a broken one breaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import pytest

from instep.protocols import Capabilities, Document, Fields, Key, Outcome, Rejected, Sink, Unchanged, Written
from instep.testing import SinkCase, check_sink


class Memory:
    """A target that keeps records by key."""

    def __init__(self, store: dict[Key, Fields]) -> None:
        self.store = store

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(batch_size=3)

    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        return [self.one(document) for document in batch]

    def one(self, document: Document) -> Outcome:
        found = self.store.get(document.key)
        if document.fields is not None and document.fields["v"] == "refused":
            return Rejected("REFUSED", "no")
        if found == document.fields:
            return Unchanged()
        if document.fields is None:
            del self.store[document.key]
        else:
            self.store[document.key] = document.fields
        return Written("1", found is None)

    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        return {key: self.store[key] for key in keys if key in self.store}

    async def aclose(self) -> None:
        pass


class LeavesOut(Memory):
    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        return (await super().write(batch))[:1]


class Shuffles(Memory):
    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        return (await super().write(batch))[::-1]


class CreatesAgain(Memory):
    def one(self, document: Document) -> Outcome:
        outcome = super().one(document)
        return Written("2", True) if isinstance(outcome, Unchanged) else outcome


class Keeps(Memory):
    def one(self, document: Document) -> Outcome:
        return Written("1") if document.fields is None and document.key in self.store else super().one(document)


class Alters(Memory):
    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        return {key: {"v": str(fields["v"]) + " "} for key, fields in (await super().read(keys)).items()}


class Invents(Memory):
    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        return {key: self.store.get(key, {}) for key in keys}


class LosesColumns(Memory):
    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        return {key: {} for key in await super().read(keys)}


class TakesAll(Memory):
    def one(self, document: Document) -> Outcome:
        self.store[document.key] = document.fields or {}
        return Written("1", True)


class Spoils(Memory):
    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        if any(document.fields and document.fields["v"] == "refused" for document in batch):
            return [Rejected("REFUSED", "no") if i == 1 else Unchanged() for i in range(len(batch))]
        return await super().write(batch)


class SaysNothing(Memory):
    def one(self, document: Document) -> Outcome:
        outcome = super().one(document)
        return Rejected("", "") if isinstance(outcome, Rejected) else outcome


class Remembers(Memory):
    def __init__(self, store: dict[Key, Fields]) -> None:
        super().__init__({})


def case(kind: type[Memory]) -> SinkCase:
    store: dict[Key, Fields] = {}
    return SinkCase(
        lambda: kind(store),
        lambda n: (f"k{n}",),
        lambda key, n: {"v": f"{key[0]}/{n}"},
        ["v"],
        lambda key: {"v": "refused"},
    )


async def test_a_sink_that_keeps_the_rules_passes() -> None:
    await check_sink(case(Memory))


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (LeavesOut, "got 1 outcomes"),
        (Shuffles, "in the order of the documents"),
        (CreatesAgain, "must not create a second record"),
        (Keeps, "which was removed"),
        (Alters, "written was"),
        (Invents, "without a record are left out"),
        (LosesColumns, "leaves out the delivered column v"),
        (TakesAll, "must not create a second record"),
        (Spoils, "must not hurt the others"),
        (SaysNothing, "must say why"),
        (Remembers, "another sink must read"),
    ],
)
async def test_a_broken_rule_is_named(kind: type[Memory], rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        await check_sink(case(kind))


async def test_what_is_no_sink_is_named() -> None:
    numbers = count()
    no_sink: Sink = object()  # type: ignore[assignment]  # that is the point
    with pytest.raises(AssertionError, match="lacks a method"):
        await check_sink(SinkCase(lambda: no_sink, lambda n: (str(next(numbers)),), lambda key, n: {}, []))
