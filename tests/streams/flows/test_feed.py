"""Which of a journal's entries may be applied, where it is followed beside another one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.change import Position
from instep.journal import JournalEntry
from instep_connectors.kafka import Record
from instep_streams.flows import feed
from instep_streams.flows.feed import Tail

Read = tuple[Record, JournalEntry]


def read(number: int, *, more: bool, snapshot: bool = False) -> Read:
    at = Position(1, number, 0)
    entry = JournalEntry("crm", number, 1, "1", 1, at, at, 0, 0, {}, {}, more=more, snapshot=snapshot)
    return Record("journal", 0, number, None, b"", (), 0), entry


def offsets(records: list[Record]) -> list[int]:
    return [each.offset for each in records]


@given(st.lists(st.booleans(), max_size=12), st.lists(st.integers(0, 4), min_size=12, max_size=12))
def test_whole_transactions_each_entry_once_and_in_order(more: list[bool], sizes: list[int]) -> None:
    entries = [read(number, more=each) for number, each in enumerate(more)]
    tail, given, at = Tail(), [], 0
    for size in sizes:
        found = tail.whole(entries[at : at + size], within=False)
        at += size
        assert not found or not more[found[-1].offset], "ends within a transaction"
        given += offsets(found)
    seen = more[:at]
    ends = [number for number, each in enumerate(seen) if not each]
    assert given == list(range(ends[-1] + 1 if ends else 0))


def test_a_transaction_that_is_applied_in_part_goes_on_at_once() -> None:
    tail = Tail()
    assert offsets(tail.whole([read(1, more=False), read(2, more=True)], within=False)) == [1]
    assert offsets(tail.whole([read(3, more=True)], within=True)) == [2, 3]
    assert offsets(tail.whole([read(4, more=False), read(5, more=True)], within=True)) == [4]
    assert offsets(tail.whole([], within=False)) == []


def test_a_first_snapshot_is_applied_as_it_comes() -> None:
    assert offsets(Tail().whole([read(1, more=True, snapshot=True)], within=False)) == [1]


def test_what_is_too_much_to_keep_is_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "MOST_KEPT", 3)
    tail = Tail()
    assert [offsets(tail.whole([read(number, more=True)], within=False)) for number in range(4)] == [
        [], [], [0, 1, 2], []
    ]  # fmt: skip
