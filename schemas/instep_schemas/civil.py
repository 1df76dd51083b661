"""PostgreSQL's dates and times as text, to and from numbers, over its whole range.

The proleptic Gregorian calendar from 4713 BC to 294276 AD; Python's `datetime` knows 1 to 9999 only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

DAY_US: Final = 86_400_000_000

DATE_INFINITY: Final = -2_147_472_692
"""What Debezium's stream writes for `infinity` in a date column (days; no date of PostgreSQL has that number)."""
DATE_MINUS_INFINITY: Final = -2_147_472_691
TIMESTAMP_INFINITY_MS: Final = 9_223_372_036_825_200
"""pgjdbc's `infinity` as milliseconds since the Unix epoch; Debezium's timestamps carry it, in µs or in ms."""
TIMESTAMP_MINUS_INFINITY_MS: Final = -9_223_372_036_832_400

_DATE = re.compile(rb"(\d{4,7})-(\d\d)-(\d\d)( BC)?")
_TIMESTAMP = re.compile(
    rb"(\d{4,7}-\d\d-\d\d) (\d\d:\d\d:\d\d(?:\.\d{1,6})?)(?:([+-])(\d\d)(?::(\d\d)(?::(\d\d))?)?)?( BC)?"
)


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01; years are astronomical (1 BC = 0)."""
    if month <= 2:
        year -= 1
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year (astronomical), month, day."""
    days += 719_468
    era = days // 146_097
    of_era = days - era * 146_097
    year_of_era = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def parse_date(text: bytes) -> int:
    """Days since 1970-01-01 of `2024-02-29` or `0044-03-15 BC`.

    Raises:
        ValueError: not such a text (infinity included).
    """
    found = _DATE.fullmatch(text)
    if found is None:
        raise ValueError("not a date")
    year = int(found[1])
    return days_from_civil(1 - year if found[4] else year, int(found[2]), int(found[3]))


def format_date(days: int) -> str:
    """What `parse_date` reads."""
    year, month, day = civil_from_days(days)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}"
    return f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def parse_time(text: bytes) -> int:
    """Microseconds since midnight of `12:34:56.789` (`24:00:00` included).

    Raises:
        ValueError: not such a text.
    """
    if len(text) < 8 or text[2] != 58 or text[5] != 58:
        raise ValueError("not a time")
    seconds = int(text[:2]) * 3600 + int(text[3:5]) * 60 + int(text[6:8])
    if len(text) == 8:
        return seconds * 1_000_000
    return seconds * 1_000_000 + int(text[9:].ljust(6, b"0"))


def format_time(micros: int) -> str:
    """What `parse_time` reads: the fraction without trailing zeros."""
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    clock = "%02d:%02d:%02d" % (minutes // 60, minutes % 60, second)  # noqa: UP031 - a third faster than f""
    return f"{clock}.{fraction:06d}".rstrip("0") if fraction else clock


def parse_timestamp(text: bytes) -> int:
    """Microseconds since the Unix epoch of a timestamp, with or without an offset, BC or not.

    Raises:
        ValueError: not such a text (infinity included).
    """
    found = _TIMESTAMP.fullmatch(text)
    if found is None:
        raise ValueError("not a timestamp")
    micros = parse_date(found[1] + (found[7] or b"")) * DAY_US + parse_time(found[2])
    if found[3] is None:
        return micros
    offset = int(found[4]) * 3600 + int(found[5] or 0) * 60 + int(found[6] or 0)
    return micros + offset * (1_000_000 if found[3] == b"-" else -1_000_000)


def format_timestamp(micros: int) -> str:
    """What `parse_timestamp` reads."""
    days, clock = divmod(micros, DAY_US)
    date, space, era = _dates(days).partition(" ")
    return f"{date} {format_time(clock)}{space}{era}"


_dates = lru_cache(4096)(format_date)
