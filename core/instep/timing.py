"""When a flow's documents come, other than at once: by a schedule, or not more often than an interval. Pure.

Times are microseconds since the Unix epoch, as in journal entries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Final
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

_FIELDS: Final = 5
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS_US: Final = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_MOST_US: Final = 366 * _UNITS_US["d"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Times of a day, week or month, as cron knows them.

    A time that a change of the clock leaves out is made up for right behind it; one that comes twice is taken once.

    Args:
        cron: minute, hour, day of the month, month, day of the week.
        zone: IANA name of the time zone that it is meant in.

    Raises:
        ValueError: no such schedule or zone, or one that never comes.
    """

    cron: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if len(self.cron.split()) != _FIELDS:
            raise ValueError(f"{self.cron!r} has not the five fields minute, hour, day, month, day of the week")
        zone = _zone(self.zone)
        try:
            next(CronSim(self.cron, datetime(2000, 1, 1, tzinfo=zone)))
        except CronSimError as exc:
            raise ValueError(f"{self.cron!r} is no schedule: {str(exc)[:1].lower()}{str(exc)[1:]}") from None
        except StopIteration:
            raise ValueError(f"{self.cron!r} never comes") from None

    def next_us(self, released_us: int) -> int:
        """The first time behind a release."""
        released = datetime.fromtimestamp(released_us // 1_000_000, UTC).astimezone(_zone(self.zone))
        times = (int(each.timestamp()) * 1_000_000 for each in CronSim(self.cron, released))
        return next(each for each in times if each > released_us)  # the hour that comes twice gives its first one again

    def __str__(self) -> str:
        return f"at {self.cron} ({self.zone})"


@dataclass(frozen=True, slots=True)
class Interval:
    """The least time between two releases.

    Args:
        microseconds: more than none.
    """

    microseconds: int

    def next_us(self, released_us: int) -> int:
        """When the next release may be."""
        return released_us + self.microseconds

    def __str__(self) -> str:
        unit = next(name for name in ("d", "h", "m", "s", "ms") if not self.microseconds % _UNITS_US[name])
        return f"at most every {self.microseconds // _UNITS_US[unit]}{unit}"


Timing = Schedule | Interval


def interval(text: str) -> Interval:
    """An interval as a person writes it: `500ms`, `5s`, `2m`, `1h`, `1d`.

    Raises:
        ValueError: it is none, or none that makes sense.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is no interval; write 500ms, 5s, 2m, 1h or 1d")
    microseconds = round(float(found[1]) * 1_000) * _UNITS_US[found[2]] // 1_000
    if not _UNITS_US["ms"] <= microseconds <= _MOST_US:
        raise ValueError(f"{text!r} is not between 1ms and 366d")
    return Interval(microseconds // _UNITS_US["ms"] * _UNITS_US["ms"])


def shown(us: int) -> str:
    """A time as people and JSON read it, in UTC to the second."""
    return datetime.fromtimestamp(us // 1_000_000, UTC).isoformat().replace("+00:00", "Z")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # also where the system has no zones
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no name; a folder of zones
        raise ValueError(f"{name!r} is no time zone of this system, like Europe/Berlin") from None
