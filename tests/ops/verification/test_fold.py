"""A worker that makes no mistake is never accused, whatever the batches; a damaged document is found."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instep.change import Position
from instep.journal import Counts, JournalEntry
from instep.protocols import Document, Fields, Key
from instep_ops.verification.fold import Fold, Verdict, is_clean

KEYS: list[Key] = [("a",), ("b",), ("c",)]
FIRST_LSN, STEP = 1000, 8


@dataclass(frozen=True)
class History:
    """What a store committed and what the worker made of it."""

    commits: list[tuple[int, Mapping[Key, int | None]]]
    documents: list[Document]
    batches: list[tuple[int, Position]]

    def straddled(self, lsn: int) -> bool:
        """Whether a batch has commits on both sides."""
        return any(first < lsn <= last.lsn for first, last in self.batches)

    def at(self, lsn: int) -> dict[Key, Fields]:
        """The SELECT on a snapshot at this LSN: commits with a smaller one."""
        rows: dict[Key, int | None] = {}
        for commit, changes in self.commits:
            if commit < lsn:
                rows.update(changes)
        return {key: {"n": value} for key, value in rows.items() if value is not None}


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Commits, cut into batches anywhere; each batch emits the keys that it changed in the end."""
    changes = st.dictionaries(st.sampled_from(KEYS), st.none() | st.integers(0, 2), min_size=1)
    commits: list[tuple[int, Mapping[Key, int | None]]] = [
        (FIRST_LSN + STEP * n, each) for n, each in enumerate(draw(st.lists(changes, max_size=12)))
    ]
    documents: list[Document] = []
    batches: list[tuple[int, Position]] = []
    emitted: dict[Key, int | None] = {}
    number, left = 0, list(commits)
    while left:
        size = draw(st.integers(1, len(left)))
        batch, left = left[:size], left[size:]
        number += draw(st.integers(1, 3))
        state: dict[Key, int | None] = {}
        for _, each in batch:
            state.update(each)
        position = Position(1, batch[-1][0], draw(st.integers(0, 5)))
        batches.append((batch[0][0], position))
        for key, value in state.items():
            if emitted.get(key) != value:
                emitted[key] = value
                fields = None if value is None else {"n": value}
                documents.append(Document("f", key, fields, number, position))
    return History(commits, documents, batches)


def folded(documents: list[Document], lsn: int) -> Fold:
    fold = Fold(Position(1, lsn, 0))
    for document in documents:
        fold.add(document)
    return fold


def verdicts(fold: Fold, expected: Mapping[Key, Fields], clean: bool = True) -> dict[Key, Verdict]:
    return {key: fold.judge(key, expected.get(key), clean) for key in KEYS}


lsns = st.integers(FIRST_LSN - STEP, FIRST_LSN + 13 * STEP)


@settings(max_examples=500)
@given(histories(), lsns, st.data())
def test_a_right_worker_is_never_accused(history: History, lsn: int, data: st.DataObject) -> None:
    reached = next((n for n, each in enumerate(history.documents) if each.position.lsn >= lsn), len(history.documents))
    # the reader sees everything before the position and any part of what follows
    seen = history.documents[: data.draw(st.integers(reached, len(history.documents)))]
    # and compaction may have taken, up to some offset, every version that has a newer one
    clean = data.draw(st.integers(0, len(seen)))
    newest = {each.key: n for n, each in enumerate(seen)}
    seen = [each for n, each in enumerate(seen) if n >= clean or newest[each.key] == n]
    found = verdicts(folded(seen, lsn), history.at(lsn), clean=not history.straddled(lsn))
    assert Verdict.DIFFERENT not in found.values()
    assert history.straddled(lsn) or Verdict.SUSPECT not in found.values()


@given(histories())
def test_at_rest_everything_is_decided(history: History) -> None:
    lsn = FIRST_LSN + 100 * STEP
    assert set(verdicts(folded(history.documents, lsn), history.at(lsn)).values()) == {Verdict.EQUAL}


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


@given(histories().filter(lambda history: bool(history.documents)), st.data())
def test_a_lost_document_is_found(history: History, data: st.DataObject) -> None:
    lsn = FIRST_LSN + 100 * STEP
    key = data.draw(st.sampled_from(sorted({each.key for each in history.documents})))
    left = [each for each in history.documents if each.key != key]
    expected = history.at(lsn)
    found = verdicts(folded(left, lsn), expected)
    assert (found[key] is Verdict.DIFFERENT) == (key in expected)


@given(histories(), lsns, lsns)
def test_going_on_is_the_same_as_starting_there(history: History, one: int, other: int) -> None:
    early, late = sorted((one, other))
    gone_on = folded(history.documents, early)
    gone_on.advance(Position(1, late, 0))
    fresh = folded(history.documents, late)
    expected = history.at(late)
    assert verdicts(gone_on, expected) == verdicts(fresh, expected)
    assert [gone_on.held(key) for key in KEYS] == [fresh.held(key) for key in KEYS]


def document(version: int, lsn: int, n: int | None) -> Document:
    return Document("f", ("a",), None if n is None else {"n": n}, version, Position(1, lsn, 0))


def entry(number: int, first: int, last: int, changes: int = 1) -> JournalEntry:
    return JournalEntry(
        source="shop", batch=number, epoch=1, system="1", timeline=1, first=Position(1, first), last=Position(1, last),
        first_commit_us=0, last_commit_us=0, ends={}, starts={}, counts={"public.t": Counts(update=changes)},
    )  # fmt: skip


@given(histories(), lsns, st.data())
def test_a_position_called_clean_is_clean(history: History, lsn: int, data: st.DataObject) -> None:
    """Capture cuts the commits into entries; the worker takes one or several entries at once."""
    entries: list[JournalEntry] = []
    merged: list[Position] = []
    for first, last in history.batches:
        inner = [commit for commit, _ in history.commits if first <= commit <= last.lsn]
        cut = data.draw(st.integers(1, len(inner)))
        for part in (inner[:cut], inner[cut:]):
            if part:
                entries.append(entry(len(entries) + 1, part[0], part[-1]))
        merged.append(Position(1, last.lsn))
    ends = {end for end in merged if data.draw(st.booleans())}
    if is_clean(entries, ends, Position(1, lsn)):
        assert not history.straddled(lsn)


def test_entries_without_changes_straddle_nothing() -> None:
    entries = [entry(1, 100, 100), entry(2, 150, 150, changes=0), entry(3, 300, 300, changes=0)]
    assert is_clean(entries, set(), Position(1, 200))


@pytest.mark.parametrize(
    ("entries", "ends", "clean"),
    [
        ([(100, 100), (300, 300)], [100], True),
        ([(100, 100), (300, 300)], [300], False),  # the worker may have taken both at once
        ([(100, 300)], [300], False),
        ([(300, 300)], [], False),  # what came before was not read
        ([(100, 100), (200, 200)], [100], True),  # the commit at the position itself is behind it
        ([], [], True),
    ],
)
def test_clean(entries: list[tuple[int, int]], ends: list[int], clean: bool) -> None:
    journal = [entry(n, first, last) for n, (first, last) in enumerate(entries, 1)]
    assert is_clean(journal, {Position(1, end) for end in ends}, Position(1, 200)) is clean


def test_the_commit_at_the_position_itself_is_not_in_the_snapshot() -> None:
    fold = folded([document(1, 100, 1), document(2, 200, 2)], 200)
    assert fold.judge(("a",), {"n": 1}, True) is Verdict.EQUAL


@pytest.mark.parametrize(
    ("documents", "clean", "verdict"),
    [
        ([document(1, 100, 1)], True, Verdict.DIFFERENT),
        ([document(1, 100, 1)], False, Verdict.SUSPECT),
        ([document(1, 100, 1), document(2, 300, 2)], True, Verdict.DIFFERENT),
        ([document(1, 100, 1), document(2, 300, 2)], False, Verdict.UNDECIDED),
        ([document(2, 300, 2)], True, Verdict.UNDECIDED),  # compaction may have taken an older version
        ([], True, Verdict.DIFFERENT),
    ],
)
def test_verdicts_on_a_key_that_differs(documents: list[Document], clean: bool, verdict: Verdict) -> None:
    assert folded(documents, 200).judge(("a",), {"n": 7}, clean) is verdict


def test_an_earlier_epoch_is_before_any_position_of_a_later_one() -> None:
    fold = Fold(Position(2, 50, 0))
    fold.add(document(1, 100, 1))
    assert fold.judge(("a",), {"n": 1}, False) is Verdict.EQUAL
