"""Entries are read one ahead, in order, and an error comes when it is the entry's turn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from instep.change import Position
from instep.journal import JournalEntry
from instep_connectors.kafka import Record
from instep_streams.flows.ahead import Ahead
from instep_streams.flows.inbox import Inbox, Read


class Entries:
    """An inbox whose entries are numbered as their records' offsets; entry 4 cannot be read."""

    def __init__(self) -> None:
        self.begun = {number: threading.Event() for number in range(9)}

    def entry(self, record: Record) -> JournalEntry:
        at = Position(1, record.offset, 0)
        return JournalEntry("shop", record.offset, 1, "1", 1, at, at, 0, 0, {}, {})

    def read(self, entry: JournalEntry) -> Read:
        self.begun[entry.batch].set()
        if entry.batch == 4:
            raise TimeoutError("its transaction is still open")
        return Read(entry, [], [])


def records(*numbers: int) -> Iterator[Record]:
    return (Record("shop.__journal", 0, number, b"batch", b"", (), 0) for number in numbers)


@pytest.fixture
def entries() -> Entries:
    return Entries()


@pytest.fixture
def ahead(entries: Entries) -> Iterator[Ahead]:
    made = Ahead(cast(Inbox, cast(Any, entries)), "test")
    yield made
    made.close()


def test_what_was_applied_is_passed_over_and_the_rest_comes_in_order(ahead: Ahead) -> None:
    found = list(ahead.reads(records(1, 2, 2, 3, 1), 1))
    assert [(record.offset, read.entry.batch) for record, read in found] == [(2, 2), (3, 3)]


def test_the_next_entry_is_read_while_the_first_is_worked_on(ahead: Ahead, entries: Entries) -> None:
    reads = ahead.reads(records(1, 2, 3), 0)
    assert next(reads)[0].offset == 1
    assert entries.begun[2].wait(30)
    assert not entries.begun[3].is_set()


def test_an_error_comes_behind_the_entries_before_it(ahead: Ahead) -> None:
    reads = ahead.reads(records(3, 4, 5), 0)
    assert next(reads)[0].offset == 3
    with pytest.raises(TimeoutError):
        next(reads)
