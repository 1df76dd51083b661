"""When a flow's documents come: by the clock on the wall, also when that is moved."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from instep.timing import Interval, Schedule, interval, shown

BERLIN = "Europe/Berlin"


def us(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * 1_000_000


def times(schedule: Schedule, since: int, count: int) -> list[str]:
    found = []
    for _ in range(count):
        since = schedule.next_us(since)
        found.append(datetime.fromtimestamp(since // 1_000_000, ZoneInfo(schedule.zone)).isoformat())
    return found


def test_a_schedule_is_utc_unless_a_zone_is_named() -> None:
    since = us("2026-07-01 00:30")
    assert shown(Schedule("0 2 * * *").next_us(since)) == "2026-07-01T02:00:00Z"
    assert shown(Schedule("0 2 * * *", BERLIN).next_us(since)) == "2026-07-02T00:00:00Z"


def test_a_release_at_the_time_itself_is_not_repeated() -> None:
    at = us("2026-07-01 02:00")
    assert shown(Schedule("0 2 * * *").next_us(at + 999_999)) == "2026-07-02T02:00:00Z"
    assert shown(Schedule("0 2 * * *").next_us(at - 1)) == "2026-07-01T02:00:00Z"


def test_a_time_left_out_in_spring_comes_right_behind_it() -> None:
    assert times(Schedule("30 2 * * *", BERLIN), us("2026-03-28 12:00", BERLIN), 2) == [
        "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00",
    ]  # fmt: skip


def test_a_time_that_comes_twice_in_autumn_is_taken_once() -> None:
    nightly = Schedule("30 2 * * *", BERLIN)
    assert times(nightly, us("2026-10-24 12:00", BERLIN), 2) == [
        "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00",
    ]  # fmt: skip
    between = int(datetime(2026, 10, 25, 0, 45, tzinfo=UTC).timestamp()) * 1_000_000  # 02:45 for the first time
    assert times(nightly, between, 1) == ["2026-10-26T02:30:00+01:00"]


@pytest.mark.parametrize("minute", [0, 15, 29, 30, 59])
def test_a_release_within_the_second_of_two_equal_hours_is_not_due_again(minute: int) -> None:
    released = int(datetime(2026, 10, 25, 1, minute, 17, tzinfo=UTC).timestamp()) * 1_000_000
    assert times(Schedule("30 2 * * *", BERLIN), released, 1) == ["2026-10-26T02:30:00+01:00"]


def test_every_half_hour_is_every_half_hour_whatever_the_clock_does() -> None:
    since = us("2026-10-25 01:45", BERLIN)
    halves = Schedule("0,30 * * * *", BERLIN)
    first = halves.next_us(since)
    assert [halves.next_us(first), halves.next_us(first + 1_800_000_000)] == [
        first + 1_800_000_000, first + 3_600_000_000,
    ]  # fmt: skip


@pytest.mark.parametrize("cron", ["0 2 * *", "0 2 * * * *", "61 * * * *", "0 0 31 2 *", "a b c d e", ""])
def test_no_schedule(cron: str) -> None:
    with pytest.raises(ValueError, match=r"schedule|fields|never"):
        Schedule(cron)


@pytest.mark.parametrize(
    ("text", "microseconds"), [("500ms", 500_000), ("5s", 5_000_000), ("1.5 m", 90_000_000), ("1d", 86_400_000_000)]
)
def test_intervals(text: str, microseconds: int) -> None:
    found = interval(text)
    assert found == Interval(microseconds)
    assert found.next_us(7) == microseconds + 7
    assert interval(str(found).removeprefix("at most every ")) == found


@pytest.mark.parametrize("text", ["", "5", "s", "-5s", "0s", "0.1ms", "5 weeks", "400d"])
def test_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match=r"interval|between"):
        interval(text)
