from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from instep.change import Position
from instep.errors import VerifyFailed
from instep.journal import JournalEntry
from instep.settings import parse
from instep_ops.verification import barrier
from instep_ops.verification.barrier import Barrier
from instep_ops.verification.worker import Progress

SETTINGS = parse({"sources": {"shop": {"dsn": "x"}}}, Path())


def entry(batch: int, lsn: int, more: bool = False, epoch: int = 1) -> JournalEntry:
    at = Position(epoch, lsn)
    return JournalEntry("shop", batch, epoch, "1", 1, at, at, 0, 0, {}, {}, more=more)


class Script:
    """Gives one answer after the other; the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        self._answers: Iterator[Any] = iter(answers)
        self._last: Any = None

    def __call__(self, *arguments: object) -> Any:
        self._last = next(self._answers, self._last)
        if isinstance(self._last, Exception):
            raise self._last
        return self._last


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_up(entries: list[Any], progress: list[Any]) -> None:
        monkeypatch.setattr(barrier, "last_entry", Script(*entries))
        monkeypatch.setattr(barrier, "progress", Script(*progress))

    monkeypatch.setattr(barrier, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(barrier, "_LONGEST_PAUSE_S", 0.001)
    return set_up


class Registry:
    """Knows a flow's schema from the second question on."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def latest(self, subject: str) -> object:
        self.asked.append(subject)
        return "schema" if self.asked.count(subject) > 1 else None


def barrier_of(patience: float, registry: Any = None) -> Barrier:
    known: Any = registry or Registry()
    return Barrier(SETTINGS, "shop", known, patience)


async def passed(lsn: int, patience: float = 5) -> int:
    return await barrier_of(patience).passed(lsn)


async def test_waits_for_capture_then_for_the_worker(script: Any) -> None:
    entries = [None, ConnectionError("away"), entry(7, 1998), entry(8, 1999, more=True), entry(9, 1999, epoch=3)]
    script(entries, [Progress(8), Progress(8, batch=3), Progress(9), Exception("asked once too often")])
    assert await passed(2000) == 3


async def test_a_capture_that_does_not_move_is_told(script: Any) -> None:
    script([entry(7, 1990)], [])
    with pytest.raises(VerifyFailed, match=r"Capture of shop has not reached 0/7D0.*`instep status`"):
        await passed(2000, patience=0.05)


async def test_a_worker_that_does_not_move_is_told_with_its_reason(script: Any) -> None:
    script([entry(9, 2000)], [Progress(8, fault="card: division by zero")])
    with pytest.raises(VerifyFailed, match=r"worker of shop has not emitted journal entry 9.*division by zero"):
        await passed(2000, patience=0.05)


async def test_slow_progress_is_progress(script: Any) -> None:
    script([entry(9, 2000)], [Progress(n // 30) for n in range(0, 9 * 30 + 30)])
    assert await passed(2000, patience=0.2) == 1


async def test_a_part_that_is_away_is_named(script: Any) -> None:
    script([ConnectionError("Kafka at x:1 does not answer.")], [])
    with pytest.raises(VerifyFailed, match="Kafka at x:1"):
        await passed(2000, patience=0.05)


async def test_a_flow_that_was_just_deployed_is_waited_for(script: Any) -> None:
    script([], [Progress(0), Progress(0, frozenset({"a"})), Progress(1, frozenset({"a", "b"}))])
    registry = Registry()
    await barrier_of(5, registry).deployed(["a", "b"])
    assert set(registry.asked) == {"flow.a-value", "flow.b-value"}


async def test_a_flow_that_the_worker_does_not_know_is_named(script: Any) -> None:
    script([], [Progress(0, frozenset({"a"}))])
    with pytest.raises(VerifyFailed, match="does not work on a, b yet"):
        await barrier_of(0.05).deployed(["a", "b"])
