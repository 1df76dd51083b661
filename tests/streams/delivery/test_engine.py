from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.connectors.crm.contract import FAULTS, Contract, ContractSink, contract
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.parts import FLOW, Letterbox, gone, until, value, waiting

from instep import failpoints
from instep.errors import TargetError
from instep_streams.delivery.batch import TargetAway
from instep_streams.delivery.budget import Budget
from instep_streams.delivery.conflate import Waiting
from instep_streams.delivery.decide import Kind
from instep_streams.delivery.engine import Engine
from instep_streams.delivery.ledger import Ledger

_numbers = itertools.count(1)


async def short(seconds: float) -> None:
    """Back-off for tests: in order, but soon."""
    await asyncio.sleep(min(seconds, 0.01))


class Lease:
    """A partition that may be taken away."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()

    @property
    def revoked(self) -> bool:
        return self._gone.is_set()

    async def wait_revoked(self) -> None:
        await self._gone.wait()

    def end(self) -> None:
        self._gone.set()


class Bench:
    """An engine against the contract server and a real ledger."""

    def __init__(self, dsn: str, state: Contract, **options: object) -> None:
        self.state, self.letters = state, Letterbox()
        self.target = f"t{next(_numbers)}"
        self.ledger = Ledger(dsn, self.target)
        self.sink = ContractSink(state.url)
        self.options = options

    def engine(self, *, rewrite: bool = False, patience: float = 10, attempts: int = 4) -> Engine:
        budget = Budget(self.ledger, 0)
        return Engine(
            self.target,
            {FLOW.name: FLOW},
            {FLOW.name: self.sink},
            self.ledger,
            self.letters,
            budget,
            attempts=attempts,
            rewrite=rewrite,
            patience=patience,
            sleep=short,
        )

    async def outcomes(self) -> dict[tuple[str, int], str]:
        rows = await self.ledger.fetch(
            "SELECT key, version, outcome FROM instep_delivery.outcomes WHERE target = %(target)s", {}
        )
        return {(row[0][2:-2], row[1]): row[2] for row in rows}

    async def aclose(self) -> None:
        await self.sink.aclose()
        await self.ledger.aclose()


@pytest.fixture(scope="module")
def dsn(postgres: PostgresForTests) -> str:
    return postgres.database()


@pytest.fixture
async def bench(dsn: str) -> AsyncIterator[Bench]:
    async with contract() as state:
        bench = Bench(dsn, state)
        await bench.ledger.open()
        yield bench
        await bench.aclose()
    failpoints.arm("")


async def test_documents_arrive_and_equal_ones_cost_no_call(bench: Bench) -> None:
    engine = bench.engine()
    assert await engine.deliver([value(k, 1) for k in "abcdefghij"]) == Counter({Kind.WRITTEN: 10})
    assert bench.state.records["j"] == {"v": 1}
    calls = bench.state.calls
    same = waiting(replace(value("a", 1).document, version=2))
    assert await engine.deliver([same]) == Counter({Kind.UNCHANGED: 1})
    assert bench.state.calls == calls


async def test_what_kafka_delivers_again_is_not_written_again(bench: Bench) -> None:
    backlog = [value("a", 1), value("a", 2), gone("b", 3)]
    assert await bench.engine().deliver(backlog) == Counter({Kind.WRITTEN: 1, Kind.SUPERSEDED: 1, Kind.UNCHANGED: 1})
    calls = bench.state.calls
    assert await bench.engine().deliver(backlog) == Counter({Kind.SUPERSEDED: 1})  # said again, recorded once
    assert bench.state.calls == calls
    assert await bench.outcomes() == {("a", 1): "superseded", ("a", 2): "written", ("b", 3): "unchanged"}


async def test_an_older_version_changes_nothing(bench: Bench) -> None:
    await bench.engine().deliver([value("a", 7)])
    assert await bench.engine().deliver([value("a", 6)]) == Counter({Kind.SUPERSEDED: 1})
    assert await bench.engine(rewrite=True).deliver([value("a", 5)]) == Counter({Kind.SUPERSEDED: 1})
    assert bench.state.records["a"] == {"v": 7}


async def test_a_refused_document_waits_for_a_person_and_hurts_nobody(bench: Bench) -> None:
    bench.state.refused.add("c")
    counts = await bench.engine().deliver([value(k, 1) for k in "abcdefgh"])
    assert counts == Counter({Kind.WRITTEN: 7, Kind.REJECTED: 1})
    ((letter, entry),) = bench.letters.found
    assert letter.document.key == ("c",) and entry.rejected is not None and entry.rejected.code == "http 400"
    assert "c" not in bench.state.records


async def test_a_poisoned_document_is_given_up_and_hurts_nobody(bench: Bench) -> None:
    bench.state.poisoned.add("c")
    counts = await bench.engine().deliver([value(k, 1) for k in "abcdefgh"])
    assert counts == Counter({Kind.WRITTEN: 7, Kind.REJECTED: 1})
    ((letter, entry),) = bench.letters.found
    assert letter.document.key == ("c",) and entry.rejected is not None
    assert entry.rejected.code == "GAVE_UP" and "NoneType" in entry.rejected.message


async def test_while_the_target_is_away_documents_wait(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "instep.delivery")
    engine = bench.engine(patience=0.05)
    backlog = [value(k, 1) for k in "abcdefgh"]
    bench.state.down = True
    for _ in range(3):
        with pytest.raises(TargetAway):
            await engine.deliver(backlog)
    assert await bench.outcomes() == {} and bench.letters.found == []
    bench.state.down = False
    assert await engine.deliver(backlog) == Counter({Kind.WRITTEN: 8})
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "no documents" in said[0] and "again after" in said[1]


async def test_when_no_write_works_at_all_the_target_counts_as_away(bench: Bench) -> None:
    engine = bench.engine(patience=0.2)
    bench.state.poisoned |= {f"k{n}" for n in range(40)}
    with pytest.raises(TargetAway):
        await engine.deliver([value(f"k{n}", 1) for n in range(40)])
    assert len(bench.letters.found) < 20
    bench.state.poisoned.clear()
    counts = await engine.deliver([value(f"k{n}", 1) for n in range(40)])
    assert counts[Kind.WRITTEN] == 40 - len(bench.letters.found)


async def test_a_refused_key_stops_the_process_and_loses_nothing(bench: Bench) -> None:
    bench.state.locked_out = True
    with pytest.raises(TargetError):
        await bench.engine().deliver([value("a", 1)])
    assert await bench.outcomes() == {}


async def test_a_long_pause_gives_the_documents_back(bench: Bench) -> None:
    engine = bench.engine(patience=0.5)
    engine._means.budget.pause("account", 60)
    with pytest.raises(TargetAway, match="paused for 60 s"):
        await engine.deliver([value("a", 1)])


async def test_a_partition_that_leaves_is_not_held(bench: Bench) -> None:
    bench.state.down = True
    lease = Lease()
    delivery = asyncio.ensure_future(bench.engine().deliver([value(f"k{n}", 1) for n in range(40)], lease))
    await until(lambda: asyncio.sleep(0, bench.state.reads > 0))
    lease.end()
    with pytest.raises(TargetAway, match="another process"):
        await asyncio.wait_for(delivery, 60)
    bench.state.down = False
    with pytest.raises(TargetAway, match="another process"):
        await bench.engine().deliver([value("a", 1)], lease)
    assert bench.state.records == {}


async def test_a_replay_mends_what_the_ledger_believes_to_be_there(bench: Bench) -> None:
    await bench.engine().deliver([value("a", 1), value("b", 1)])
    bench.state.records["a"] = {"v": "damaged"}
    counts = await bench.engine(rewrite=True).deliver([value("a", 1), value("b", 1)])
    assert counts == Counter({Kind.WRITTEN: 1, Kind.UNCHANGED: 1})
    assert bench.state.records["a"] == {"v": 1}


@pytest.mark.parametrize("place", ["before_write", "written", "recorded"])
async def test_after_a_crash_anywhere_every_version_has_one_outcome(bench: Bench, place: str) -> None:
    backlog = [value(k, v) for v in (1, 2) for k in "abcdefgh"]
    failpoints.arm(f"delivery.{place}=raise@2")
    with pytest.raises(failpoints.FailpointHit):
        await bench.engine().deliver(backlog)
    failpoints.arm("")
    await bench.engine().deliver([*backlog, value("a", 3)])
    assert bench.state.records == {k: {"v": 3 if k == "a" else 2} for k in "abcdefgh"}
    outcomes = await bench.outcomes()
    assert len(outcomes) == 17
    assert {outcomes[k, 1] for k in "abcdefgh"} == {"superseded"}


async def test_a_digest_of_before_the_crash_does_not_hide_what_was_sent(bench: Bench) -> None:
    """v1 applied; v2 sent, but the crash came before its outcome; v3 equals v1: the target must be asked."""
    await bench.engine().deliver([value("a", 1)])
    failpoints.arm("delivery.written=raise")
    with pytest.raises(failpoints.FailpointHit):
        await bench.engine().deliver([value("a", 2)])
    failpoints.arm("")
    third = waiting(replace(value("a", 1).document, version=3))
    await bench.engine().deliver([value("a", 2), third])
    assert bench.state.records["a"] == {"v": 1}


versions = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), min_size=1, max_size=24)
schedules = st.lists(st.sampled_from(("none", *FAULTS)), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(versions, schedules, st.sets(st.sampled_from("abc"), max_size=1), st.integers(1, 8))
def test_after_any_faults_the_target_equals_the_source_and_the_ledger_what_the_server_saw(
    dsn: str, changes: list[tuple[str, bool]], schedule: list[str], refused: set[str], chunk: int
) -> None:
    backlog = [gone(k, v) if removed else value(k, v) for v, (k, removed) in enumerate(changes, 1)]
    asyncio.run(_play(dsn, backlog, schedule, refused, chunk))


async def _play(dsn: str, backlog: Sequence[Waiting], schedule: list[str], refused: set[str], chunk: int) -> None:
    async with contract() as state:
        state.schedule.extend(schedule)
        state.refused = refused
        bench = Bench(dsn, state)
        await bench.ledger.open()
        engine = bench.engine(attempts=50)
        for start in range(0, len(backlog), chunk):
            await engine.deliver(backlog[start : start + chunk])
        outcomes = await bench.outcomes()
        await bench.aclose()
    _same_state(backlog, state, refused)
    assert set(outcomes) == {(w.document.key[0], w.document.version) for w in backlog}
    _same_story(backlog, state, outcomes)


def _same_state(backlog: Sequence[Waiting], state: Contract, refused: set[str]) -> None:
    wanted = {w.document.key[0]: w.document.fields for w in backlog}
    for key, fields in wanted.items():
        if key not in refused:
            assert state.records.get(key) == fields


def _same_story(backlog: Sequence[Waiting], state: Contract, outcomes: dict[tuple[str, int], str]) -> None:
    """What the server committed is what the ledger says was written; tombstones carry no version to compare."""

    def of(kind: str) -> set[tuple[str, int]]:
        documents = [w.document for w in backlog if w.document.fields is not None]
        return {(d.key[0], d.version) for d in documents if outcomes[d.key[0], d.version] == kind}

    committed = {(key, version) for key, version in state.committed if version is not None}
    assert committed == of("written")
    assert all(key in state.refused for key, _ in of("rejected"))
