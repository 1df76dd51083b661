"""A worker that makes no mistake is never accused, whatever the batches; a damaged document is found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.change import Position
from instep.journal import Counts, JournalEntry
from instep.protocols import Document, Fields, Key
from instep_ops.verification.fold import Fold, Verdict, is_at_rest

KEYS: list[Key] = [("a",), ("b",), ("c",)]
FIRST_LSN, STEP = 1000, 8


@dataclass(frozen=True)
class History:
    """What a store committed and what the worker made of it."""

    commits: list[tuple[int, Mapping[Key, int | None]]]
    documents: list[Document]
    entries: list[JournalEntry]

    def at(self, lsn: int) -> dict[Key, Fields]:
        """The SELECT on a snapshot at this LSN: commits with a smaller one."""
        rows: dict[Key, int | None] = {}
        for commit, changes in self.commits:
            if commit < lsn:
                rows.update(changes)
        return {key: {"n": value} for key, value in rows.items() if value is not None}


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Commits, cut into batches anywhere; each emits the keys it changed, or puts some off to a later one."""
    changes = st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers(0, 2), min_size=1)
    commits: list[tuple[int, Mapping[Key, int | None]]] = [
        (FIRST_LSN + STEP * n, each) for n, each in enumerate(draw(st.lists(changes, max_size=12)))
    ]
    documents: list[Document] = []
    entries: list[JournalEntry] = []
    state: dict[Key, int | None] = {}
    emitted: dict[Key, int | None] = {}
    dirty: set[Key] = set()
    number, left = 0, list(commits)
    position = Position(1, 0)
    while left or dirty:
        size = draw(st.integers(0 if dirty else 1, len(left))) if left else 0
        batch, left = left[:size], left[size:]
        for _, each in batch:
            state.update(each)
            dirty |= each.keys()
        if batch:
            position = Position(1, batch[-1][0], draw(st.integers(0, 5)))
            entries.append(entry(len(entries) + 1, batch[0][0], position.lsn))
        elif draw(st.booleans()):
            position = Position(1, position.lsn + 1)  # a heartbeat
        number += draw(st.integers(1, 3))
        for key in sorted(dirty):
            if draw(st.booleans()) or not batch:
                dirty.discard(key)
                if emitted.get(key) != state[key]:
                    emitted[key] = state[key]
                    fields = None if state[key] is None else {"n": state[key]}
                    documents.append(Document("f", key, fields, number, position))
    return History(commits, documents, entries)


def entry(number: int, first: int, last: int, changes: int = 1) -> JournalEntry:
    return JournalEntry(
        source="shop", batch=number, epoch=1, system="1", timeline=1, first=Position(1, first), last=Position(1, last),
        first_commit_us=0, last_commit_us=0, ends={}, starts={}, counts={"public.t": Counts(update=changes)},
    )  # fmt: skip


def folded(documents: list[Document], lsn: int) -> Fold:
    fold = Fold(Position(1, lsn, 0))
    for document in documents:
        fold.add(document)
    return fold


def verdicts(fold: Fold, expected: Mapping[Key, Fields], at_rest: bool = True) -> dict[Key, Verdict]:
    return {key: fold.judge(key, expected.get(key), at_rest) for key in KEYS}


lsns = st.integers(FIRST_LSN - STEP, FIRST_LSN + 13 * STEP)


def compacted(documents: list[Document], clean: int) -> list[Document]:
    """Up to some offset, compaction has taken every version that has a newer one."""
    newest = {each.key: n for n, each in enumerate(documents)}
    return [each for n, each in enumerate(documents) if n >= clean or newest[each.key] == n]


@settings(max_examples=300, deadline=None)
@given(histories(), lsns, st.data())
def test_a_right_worker_is_never_accused(history: History, lsn: int, data: st.DataObject) -> None:
    at_rest = is_at_rest(history.entries, Position(1, lsn))
    reached = next((n for n, each in enumerate(history.documents) if each.position.lsn >= lsn), len(history.documents))
    # the reader sees everything before the position and any part of what follows; at rest, all there is
    some = data.draw(st.integers(reached, len(history.documents)))
    seen = history.documents if at_rest else history.documents[:some]
    seen = compacted(seen, data.draw(st.integers(0, len(seen))))
    found = set(verdicts(folded(seen, lsn), history.at(lsn), at_rest).values())
    assert Verdict.DIFFERENT not in found
    assert not at_rest or found == {Verdict.EQUAL}


@settings(deadline=None)
@given(histories())
def test_at_rest_everything_is_decided(history: History) -> None:
    lsn = FIRST_LSN + 100 * STEP
    assert set(verdicts(folded(history.documents, lsn), history.at(lsn)).values()) == {Verdict.EQUAL}


@settings(deadline=None)
@given(histories().filter(lambda history: bool(history.documents)), st.data())
def test_a_damaged_newest_version_is_found(history: History, data: st.DataObject) -> None:
    lsn = FIRST_LSN + 100 * STEP
    newest = {each.key: n for n, each in enumerate(history.documents)}
    key = data.draw(st.sampled_from(sorted(newest)))
    damaged = list(history.documents)
    damaged[newest[key]] = replace(damaged[newest[key]], fields={"n": 99})
    found = verdicts(folded(damaged, lsn), history.at(lsn))
    assert [each for each, verdict in found.items() if verdict is not Verdict.EQUAL] == [key]
    assert found[key] is Verdict.DIFFERENT


@settings(deadline=None)
@given(histories().filter(lambda history: bool(history.documents)), st.data())
def test_a_lost_document_is_found(history: History, data: st.DataObject) -> None:
    lsn = FIRST_LSN + 100 * STEP
    key = data.draw(st.sampled_from(sorted({each.key for each in history.documents})))
    left = [each for each in history.documents if each.key != key]
    expected = history.at(lsn)
    found = verdicts(folded(left, lsn), expected)
    assert (found[key] is Verdict.DIFFERENT) == (key in expected)


@settings(deadline=None)
@given(histories(), lsns, lsns)
def test_going_on_is_the_same_as_starting_there(history: History, one: int, other: int) -> None:
    early, late = sorted((one, other))
    gone_on = folded(history.documents, early)
    gone_on.advance(Position(1, late, 0))
    fresh = folded(history.documents, late)
    expected = history.at(late)
    assert verdicts(gone_on, expected, False) == verdicts(fresh, expected, False)
    assert [gone_on.held(key) for key in KEYS] == [fresh.held(key) for key in KEYS]


def document(version: int, lsn: int, n: int | None) -> Document:
    return Document("f", ("a",), None if n is None else {"n": n}, version, Position(1, lsn, 0))


@pytest.mark.parametrize(
    ("entries", "at_rest"),
    [
        ([entry(1, 100, 199)], True),
        ([entry(1, 100, 200)], False),  # the commit at the position itself is behind it
        ([entry(1, 100, 100), entry(2, 300, 300)], False),
        ([entry(1, 100, 100), entry(2, 300, 300, changes=0)], True),  # a heartbeat
        ([], True),
    ],
)
def test_at_rest_means_no_change_behind_the_position(entries: list[JournalEntry], at_rest: bool) -> None:
    assert is_at_rest(entries, Position(1, 200)) is at_rest


def test_the_commit_at_the_position_itself_is_not_in_the_snapshot() -> None:
    fold = folded([document(1, 100, 1), document(2, 200, 2)], 200)
    assert fold.judge(("a",), {"n": 1}, False) is Verdict.EQUAL


@pytest.mark.parametrize(
    ("documents", "at_rest", "verdict"),
    [
        ([document(1, 100, 1)], True, Verdict.DIFFERENT),
        ([document(1, 100, 1)], False, Verdict.SUSPECT),
        ([document(1, 100, 1), document(2, 300, 2)], False, Verdict.UNDECIDED),
        ([document(1, 100, 1), document(2, 300, 7)], True, Verdict.EQUAL),  # put off until after a heartbeat
        ([document(1, 100, 7), document(2, 300, 2)], True, Verdict.DIFFERENT),
        ([document(2, 300, 2)], False, Verdict.UNDECIDED),
        ([], True, Verdict.DIFFERENT),
    ],
)
def test_verdicts(documents: list[Document], at_rest: bool, verdict: Verdict) -> None:
    assert folded(documents, 200).judge(("a",), {"n": 7}, at_rest) is verdict


def test_an_earlier_epoch_is_before_any_position_of_a_later_one() -> None:
    fold = Fold(Position(2, 50, 0))
    fold.add(document(1, 100, 1))
    assert fold.judge(("a",), {"n": 1}, False) is Verdict.EQUAL


def test_documents_are_counted_up_to_the_position() -> None:
    fold = folded([document(1, 100, 1), document(2, 150, 2), document(5, 300, 3)], 200)
    assert fold.emitted() == (2, 2)
    assert folded([], 200).emitted() == (0, 0)


def test_of_joined_sources_the_past_is_what_is_past_in_each() -> None:
    def version(number: int, own: int, other: int) -> Document:
        joined = (("crm", Position(1, other)),)
        return Document("f", ("a",), {"n": number}, number, Position(1, own), joined=joined)

    fold = Fold(Position(1, 10), {"crm": Position(1, 100)})
    for each in (version(1, 5, 50), version(2, 9, 99), version(3, 9, 100), version(4, 10, 100)):
        fold.add(each)
    assert fold.held(("a",)) == version(2, 9, 99) and fold.emitted() == (2, 2)
    assert fold.judge(("a",), {"n": 2}, at_rest=False) is Verdict.EQUAL
    assert fold.judge(("a",), {"n": 3}, at_rest=False) is Verdict.UNDECIDED
    fold.advance(Position(1, 20), {"crm": Position(1, 100)})  # the other store has not moved on
    assert fold.held(("a",)) == version(2, 9, 99)
    fold.advance(Position(1, 20), {"crm": Position(1, 101)})
    assert fold.held(("a",)) == version(4, 10, 100) and fold.newest(("a",)) == version(4, 10, 100)
