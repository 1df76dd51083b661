from __future__ import annotations

from tests.streams.delivery.parts import FLOW, gone, value

from instep.change import Position
from instep.journal import Counts, JournalEntry
from instep.protocols import Delete, Fields, Key
from instep_streams.delivery.conflate import Newest, conflate
from instep_streams.delivery.decide import Applied
from instep_streams.replay.plan import Forecast, ReplayPlan, forecast, stretch


def entry(batch: int, lsn: int, commit_us: int, changes: int = 1) -> JournalEntry:
    first, last = Position(1, lsn), Position(1, lsn + 8)
    counts = {"public.t": Counts(update=changes)} if changes else {}
    return JournalEntry("shop", batch, 1, "1", 1, first, last, commit_us, commit_us, {}, {}, counts)


JOURNAL = [
    entry(1, 100, 0, 5),
    entry(2, 100, 0, 5),
    entry(3, 200, 0, 0),
    entry(4, 300, 3_000),
    entry(5, 400, 4_000, 2),
    entry(6, 500, 9_000, 0),
    entry(7, 600, 6_000, 3),
]


def test_a_time_finds_the_first_entry_with_changes_from_then_on() -> None:
    found = stretch(JOURNAL, since_us=3_500)
    assert found is not None
    assert (found.first, found.batches, found.entries, found.changes) == (Position(1, 400), (5, 7), 2, 5)
    assert found.since_us == 4_000


def test_a_position_finds_the_entry_that_holds_it() -> None:
    found = stretch(JOURNAL, position=Position(1, 404))
    assert found is not None and found.first == Position(1, 404) and found.batches == (5, 7)
    found = stretch(JOURNAL, position=Position(1, 409))
    assert found is not None and found.first == Position(1, 600) and found.batches == (7, 7)


def test_snapshot_entries_belong_to_what_follows_them() -> None:
    found = stretch(JOURNAL, since_us=1_000)
    assert found is not None and found.batches == (1, 7) and found.changes == 16 and found.since_us == 0
    found = stretch(JOURNAL[:2], since_us=1_000)
    assert found is not None and found.batches == (1, 2)


def test_behind_the_end_is_nothing() -> None:
    assert stretch(JOURNAL, since_us=6_001) is None
    assert stretch(JOURNAL, position=Position(1, 609)) is None
    assert stretch([], since_us=0) is None
    assert ReplayPlan("card", "crm", None).to_dict()["keys"] == 0


def test_the_forecast_compares_with_what_the_target_really_holds() -> None:
    newest = conflate([value(k, 5) for k in "abcd"] + [gone(k, 5) for k in "efg"])
    applied: dict[Key, Applied] = {(k,): Applied(6 if k == "d" else 5, settled=True) for k in "abdef"}
    held: dict[Key, Fields] = {("a",): {"v": 5}, ("b",): {"v": 4}, ("e",): {"v": 5}, ("g",): {"v": 5}}
    assert forecast(FLOW, ["v"], newest, applied, held) == Forecast((("b",), ("e",)), 2, 2, 1, 0)
    ignoring = FLOW.model_copy(update={"delete": Delete.IGNORE})
    assert forecast(ignoring, ["v"], newest, applied, held) == Forecast((("b",),), 1, 1, 1, 3)


def test_a_column_that_the_target_does_not_give_differs() -> None:
    newest = [Newest(value("a", 5))]
    assert forecast(FLOW, ["v"], newest, {("a",): Applied(5, settled=True)}, {("a",): {}}).change == (("a",),)
