"""`instep replay`: what a person says (a time, a position, keys) as what replay needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from instep.change import Position
from instep.errors import ConfigError
from instep.settings import Settings
from instep_ops.rejected import key_of

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime) -> datetime:
    """A point in time: `90s`, `15m`, `2h`, `1d`, `1w` before now, or ISO 8601 (without an offset: UTC).

    Raises:
        ConfigError: neither, or in the future.
    """
    ago = _AGO.fullmatch(text.strip())
    try:
        if ago:
            found = now - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        else:
            found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise ConfigError(f"{text!r} is no time.", "Give 2026-01-31T12:00:00Z, or 90s, 15m, 2h, 1d ago.") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if found > now:
        raise ConfigError(f"{text!r} is in the future.", "Replay delivers what was.")
    return found


def place(text: str) -> Position:
    """A source position as `status` shows it, `1:0/1A2B3C4D:0`, or an LSN.

    Raises:
        ConfigError: not of that form.
    """
    try:
        return Position.parse(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no position.", "Give one as `instep status` shows it, or X/Y.") from None


async def replay(
    settings: Settings, flow: str, *, since: str | None, position: str | None, keys: Sequence[str], dry_run: bool
) -> dict[str, Any]:
    """Plan a replay and, unless it is dry, deliver; gives the plan's figures and the outcomes.

    Args:
        settings: resolved.
        flow: the flow's name.
        since: a time as `moment` reads it.
        position: a position as `place` reads it; exactly one of the two.
        keys: only these, as a person writes them; empty: all.
        dry_run: only plan.

    Raises:
        ConfigError: an argument is wrong.
        InstepError, ConnectionError: a part refuses or does not answer.
    """
    from instep_streams.replay import plan, run

    planned = await plan(
        settings, flow,
        since=None if since is None else moment(since, datetime.now(UTC)),
        position=None if position is None else place(position),
        keys=[key_of(settings, flow, text) for text in keys],
    )  # fmt: skip
    outcomes = {} if dry_run else await run(settings, planned)
    return {**planned.to_dict(), "dry_run": dry_run, "outcomes": outcomes}
