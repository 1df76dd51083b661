"""Dates and times over PostgreSQL's whole range, against Python's calendar and against PostgreSQL itself."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests

from instep_schemas import civil

FIRST, LAST = civil.days_from_civil(-4712, 1, 1), civil.days_from_civil(5_874_897, 12, 31)


@given(st.dates())
def test_days_equal_pythons(day: date) -> None:
    days = (day - date(1970, 1, 1)).days
    assert civil.parse_date(day.isoformat().encode()) == days
    assert civil.format_date(days) == day.isoformat()


@given(st.integers(FIRST, LAST))
def test_every_day_comes_back(days: int) -> None:
    assert civil.parse_date(civil.format_date(days).encode()) == days


@given(st.integers(-210_863_520_000_000_000, 2**63 - 1))
def test_every_moment_comes_back(micros: int) -> None:
    assert civil.parse_timestamp(civil.format_timestamp(micros).encode()) == micros


@given(st.integers(0, civil.DAY_US))
def test_every_time_of_day_comes_back(micros: int) -> None:
    assert civil.parse_time(civil.format_time(micros).encode()) == micros


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (b"2024-02-29 12:00:00+02", datetime(2024, 2, 29, 10, tzinfo=UTC)),
        (b"2024-02-29 12:00:00-05:30", datetime(2024, 2, 29, 17, 30, tzinfo=UTC)),
        (b"1890-01-01 00:00:00.5+00:53:28", datetime(1889, 12, 31, 23, 6, 32, 500_000, tzinfo=UTC)),
    ],
)
def test_offsets_are_taken_away(text: bytes, moment: datetime) -> None:
    assert civil.parse_timestamp(text) == (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize("text", [b"", b"infinity", b"2024-2-9", b"24-02-29", b"2024-02-29 AD", b"x"])
def test_other_texts_are_no_dates(text: bytes) -> None:
    with pytest.raises(ValueError, match="not a"):
        civil.parse_date(text)
    with pytest.raises(ValueError, match="not a"):
        civil.parse_timestamp(text)
    with pytest.raises(ValueError, match="not a"):
        civil.parse_time(text)


def test_postgresql_agrees_over_its_whole_range(postgres: PostgresForTests) -> None:
    days = [*range(FIRST, LAST, 98_765), *range(-720_500, -719_000, 7), *range(-141_430, -141_420), LAST]
    with psycopg.connect(postgres.dsn) as conn:
        rows = conn.execute("SELECT (date '1970-01-01' + n)::text FROM unnest(%s::int[]) n", (days,)).fetchall()
    assert [civil.format_date(day) for day in days] == [row[0] for row in rows]


def test_postgresql_prints_timestamps_alike(postgres: PostgresForTests) -> None:
    step = 1_234_567_890_123_457
    micros = list(range(-210_863_520_000_000_000, 9_223_000_000_000_000_000, step))
    query = """SELECT (timestamp '1970-01-01' + make_interval(days => (n / 86400000000)::int)
        + (n %% 86400000000) * interval '1 microsecond')::text FROM unnest(%s::bigint[]) n"""
    with psycopg.connect(postgres.dsn) as conn:
        rows = conn.execute(query, (micros,)).fetchall()
    assert [civil.format_timestamp(each) for each in micros] == [row[0] for row in rows]
