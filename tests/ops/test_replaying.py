from datetime import UTC, datetime, timedelta

import pytest

from instep.change import Position
from instep.errors import ConfigError
from instep_ops.replaying import moment, place

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "before"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("1.5 h", timedelta(minutes=90)),
        ("1d", timedelta(days=1)),
        ("1w", timedelta(weeks=1)),
        ("2026-01-31T11:00:00Z", timedelta(hours=1)),
        ("2026-01-31 11:00", timedelta(hours=1)),
        ("2026-01-31T12:30+01:00", timedelta(minutes=30)),
        ("2026-01-31", timedelta(hours=12)),
    ],
)
def test_moments(text: str, before: timedelta) -> None:
    assert moment(text, NOW) == NOW - before


@pytest.mark.parametrize("text", ["", "yesterday", "15", "15y", "2026-13-01", "2026-02-01", "9" * 30 + "d"])
def test_no_moments(text: str) -> None:
    with pytest.raises(ConfigError):
        moment(text, NOW)


def test_places() -> None:
    assert place("2:16/B374D848:3") == Position(2, 0x16B374D848, 3)
    assert place("16/B374D848") == Position(1, 0x16B374D848, 0)
    with pytest.raises(ConfigError, match="no position"):
        place("here")
