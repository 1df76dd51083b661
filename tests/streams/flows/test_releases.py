"""Flows with a schedule or an interval, on a real state database with a clock of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.test_engine import ITEMS, drain, entry, keys, row

from instep.change import Op
from instep.flowfile import Flow
from instep.protocols import Key
from instep_streams.flows import releases
from instep_streams.flows.engine import Engine
from instep_streams.flows.session import open_state

SQL = "SELECT id, name FROM items"


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 7, 1, 12, tzinfo=UTC).timestamp()

    def __call__(self) -> float:
        return self.now

    def to(self, text: str) -> None:
        self.now = datetime.fromisoformat(f"{text}+00:00").timestamp()


NIGHTLY = Flow(name="f", sql=SQL, key=("id",), schedule="0 2 * * *")
SELDOM = Flow(name="f", sql=SQL, key=("id",), min_interval="5s")
AT_ONCE = Flow(name="f", sql=SQL, key=("id",))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    return postgres.database()


@contextmanager
def engine(dsn: str, clock: Clock, flow: Flow, *others: Flow) -> Iterator[Engine]:
    made = Engine(open_state(dsn), "shop", clock=clock)
    try:
        made.ensure_tables([ITEMS])
        if made.progress.entry == 0:
            made.process([(entry(1), [row(1, name="one"), row(2, name="two"), row(3, name="three")])])
        made.deploy({each.name: each for each in (flow, *others)})
        yield made
    finally:
        made.close()


def test_a_schedule_holds_changes_until_its_time_and_emits_differences_only(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, NIGHTLY) as made:
        assert len(drain(made)) == 3, "a first deployment is due at once"
        assert keys(made.process([(entry(2), [row(1, Op.UPDATE, name="x"), row(2, Op.UPDATE, name="x")])])) == []
        assert keys(made.process([(entry(3), [row(2, Op.UPDATE, name="two")])])) == [] and not made.waiting
        assert made.progress.settled == 3, "what is not due does not keep others from being proven"
        clock.to("2026-07-02 01:59:59")
        assert not made.waiting
        clock.to("2026-07-02 02:00:00")
        batch = made.slice()
        assert [(each.key, each.document) for each in batch.documents] == [(("1",), '{"id":1,"name":"x"}')]
        assert not made.waiting
        made.process([(entry(4), [row(1, Op.UPDATE, name="y")])])
        clock.to("2026-07-03 01:00:00")
        assert not made.waiting


def test_a_time_that_passed_while_the_worker_was_down_is_made_up_for_once(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
        made.process([(entry(2), [row(1, Op.UPDATE, name="x")])])
    clock.to("2026-07-05 09:00:00")
    with engine(dsn, clock, NIGHTLY) as made:
        assert drain(made) == [("1",)]
        made.process([(entry(3), [row(1, Op.UPDATE, name="y")])])
        assert drain(made) == []
    with engine(dsn, clock, NIGHTLY) as made:
        assert drain(made) == [], "a start alone releases nothing"
        clock.to("2026-07-06 02:00:00")
        assert drain(made) == [("1",)]


def test_an_interval_emits_a_lone_change_at_once_and_conflates_many(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, SELDOM) as made:
        drain(made)
        clock.now += 5
        assert not made.waiting, "nothing is held"
        made.process([(entry(2), [row(1, Op.UPDATE, name="a")])])
        assert drain(made) == [("1",)]
        emitted: list[tuple[float, str | None]] = []
        for number in range(3, 53):
            clock.now += 0.5
            made.process([(entry(number), [row(1, Op.UPDATE, name=f"n{number}")])])
            while made.waiting:
                emitted += [(clock.now, each.document) for each in made.slice().documents]
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(emitted)]
        assert len(emitted) == 5 and min(gaps) >= 5
        clock.now += 5
        last = made.slice().documents
        assert [each.document for each in last] == (
            [] if '"n52"' in (emitted[-1][1] or "") else ['{"id":1,"name":"n52"}']
        )


def test_the_interval_counts_from_the_end_of_a_long_release(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, SELDOM) as made:
        drain(made)
        clock.now += 5
        for id in (1, 2, 3):
            made.process([(entry(id + 1), [row(id, Op.UPDATE, name="a")])])
        first = keys(made.slice(1))
        assert first == [("1",)]
        clock.now += 4
        made.process([(entry(5), [row(1, Op.UPDATE, name="b")])])
        rest = drain(made)
        clock.now += 4
        assert rest == [("2",), ("3",)] and not made.waiting
        clock.now += 1
        assert drain(made) == first


def test_a_clock_that_was_put_back_does_not_stop_a_flow(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, SELDOM) as made:
        drain(made)
        clock.now -= 3600
        made.process([(entry(2), [row(1, Op.UPDATE, name="a")])])
        assert drain(made) == [("1",)]


def test_a_schedule_whose_last_release_a_wrong_clock_put_in_the_future_comes_at_its_next_time(
    dsn: str, clock: Clock
) -> None:
    clock.to("2031-01-01 12:00:00")
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
    clock.to("2026-07-01 12:00:00")
    with engine(dsn, clock, NIGHTLY) as made:
        made.process([(entry(2), [row(1, Op.UPDATE, name="x")])])
        assert drain(made) == []
        clock.to("2026-07-02 02:00:00")
        assert drain(made) == [("1",)]


def test_other_flows_and_a_changed_select_do_not_wait(dsn: str, clock: Clock) -> None:
    other = AT_ONCE.model_copy(update={"name": "g"})
    with engine(dsn, clock, NIGHTLY, other) as made:
        drain(made)
        batch = made.process([(entry(2), [row(1, Op.UPDATE, name="x")])])
        assert [each.flow for each in batch.documents] == ["g"]
    changed = NIGHTLY.model_copy(update={"sql": "SELECT id, upper(name) AS name FROM items"})
    with engine(dsn, clock, changed, other) as made:
        assert len(drain(made)) == 3


def test_no_schedule_any_more_and_one_from_now_on(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
        made.process([(entry(2), [row(1, Op.UPDATE, name="x")])])
    with engine(dsn, clock, AT_ONCE) as made:
        assert drain(made) == [("1",)]
        assert keys(made.process([(entry(3), [row(1, Op.UPDATE, name="y")])])) == [("1",)]
    clock.to("2026-08-01 00:00:00")
    with engine(dsn, clock, NIGHTLY) as made:
        made.process([(entry(4), [row(1, Op.UPDATE, name="z")])])
        assert drain(made) == [], "the time without a schedule is not made up for"


def test_more_changes_than_keys_are_one_comparison(dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "_MANY", 2)
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
        for number in range(2, 6):
            made.process([(entry(number), [row(1, Op.UPDATE, name=f"n{number}")])])
        held = made._conn.execute("SELECT count(*) FROM instep.dirty_1").fetchone()
        assert held == (0,)
    with engine(dsn, clock, NIGHTLY) as made:
        assert drain(made) == []
        made.process([(entry(6), [row(3, Op.DELETE)])])
        clock.to("2026-07-02 02:00:00")
        assert sorted(drain(made)) == [("1",), ("3",)]
        made.process([(entry(7), [row(1, Op.UPDATE, name="again")])])
        assert drain(made) == []


def test_a_start_within_a_transaction_releases_nothing_before_its_time(dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
        made.process([(entry(2, more=True), [row(1, Op.UPDATE, name="x")])])
    made = Engine(open_state(dsn), "shop", clock=clock)
    try:
        made.look_at_all()
        made.process([(entry(3), [row(2, Op.UPDATE, name="y")])])  # nobody notes what it makes dirty
        made.deploy({"f": NIGHTLY})
        assert drain(made) == []
        clock.to("2026-07-02 02:00:00")
        assert sorted(drain(made)) == [("1",), ("2",)]
    finally:
        made.close()


def test_a_key_that_fails_is_tried_again_with_the_next_release(dsn: str, clock: Clock) -> None:
    flow = NIGHTLY.model_copy(update={"sql": "SELECT id, 10 / length(name) AS n FROM items"})
    with engine(dsn, clock, flow) as made:
        drain(made)
        made.process([(entry(2), [row(1, Op.UPDATE, name=""), row(2, Op.UPDATE, name="12345")])])
        clock.to("2026-07-02 02:00:00")
        assert drain(made) == [("2",)] and "division by zero" in made.fault("f")
        made.process([(entry(3), [row(1, Op.UPDATE, name="12")])])
        assert drain(made) == [] and made.fault("f")
    with engine(dsn, clock, flow) as made:
        assert drain(made) == [] and made.fault("f"), "a start heals nothing"
        clock.to("2026-07-03 02:00:00")
        assert drain(made) == [("1",)] and not made.fault("f")


@pytest.mark.parametrize("flow", [NIGHTLY, SELDOM])
def test_released_and_not_emitted_comes_again_and_nothing_else_does(flow: Flow, dsn: str, clock: Clock) -> None:
    with engine(dsn, clock, flow) as made:
        drain(made)
        marker = made.progress.batch
        made.process([(entry(2), [row(1, Op.UPDATE, name="x")])])
        clock.to("2026-07-02 02:00:00")
        assert drain(made) == [("1",)]
        made.process([(entry(3), [row(2, Op.UPDATE, name="y")])])
    clock.now += 1000 if flow is SELDOM else 1
    with engine(dsn, clock, flow) as made:  # killed between release and emission
        assert keys(made.unsent(marker)) == [("1",)]
        assert drain(made) == [], "an interval is counted from the emission, be it late"
        clock.to("2026-07-03 02:00:00")
        assert drain(made) == [("2",)]


def test_a_step_that_fails_loses_nothing_of_what_is_held(
    dsn: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "_MANY", 2)
    other = Flow(name="g", sql="SELECT id, 10 / length(name) AS n FROM items", key=("id",))
    with engine(dsn, clock, NIGHTLY, other) as made:
        drain(made)
        made.process(
            [(entry(2), [row(1, Op.UPDATE, name="a"), row(2, Op.UPDATE, name="b"), row(3, Op.UPDATE, name="")])]
        )
    with engine(dsn, clock, NIGHTLY, other) as made:
        clock.to("2026-07-02 02:00:00")
        found = []
        while made.waiting:
            found += [each.key for each in made.slice().documents if each.flow == "f"]
        assert sorted(found) == [("1",), ("2",), ("3",)]


@pytest.mark.parametrize(("meanwhile", "later"), [("c", "b"), (None, "b")])
def test_what_is_sent_late_in_a_newer_state_is_what_the_next_release_compares_with(
    meanwhile: str | None, later: str, dsn: str, clock: Clock
) -> None:
    topic: dict[Key, str | None] = {}
    with engine(dsn, clock, NIGHTLY) as made:
        drain(made)
        marker = made.progress.batch
        made.process([(entry(2), [row(1, Op.UPDATE, name="b")])])
        clock.to("2026-07-02 02:00:00")
        assert drain(made) == [("1",)]
        made.process([(entry(3), [row(1, Op.DELETE if meanwhile is None else Op.UPDATE, name=meanwhile)])])
    with engine(dsn, clock, NIGHTLY) as made:  # killed before "b" was published
        topic |= {each.key: each.document for each in made.unsent(marker).documents}
        made.process([(entry(4), [row(1, Op.UPDATE, name=later)])])
        clock.to("2026-07-03 02:00:00")
        while made.waiting:
            topic |= {each.key: each.document for each in made.slice().documents}
        assert topic == {("1",): f'{{"id":1,"name":"{later}"}}'}
