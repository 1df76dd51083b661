"""`instep deadletters`: what a target refused, and delivering it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from instep.errors import ConfigError
from instep.flowfile import load_all
from instep.protocols import Key
from instep.settings import Settings


async def listed(settings: Settings, target: str, flow: str | None) -> list[dict[str, Any]]:
    """The open dead letters of a target, by flow and key.

    Args:
        settings: resolved.
        target: its name.
        flow: only this flow's; None: all.

    Raises:
        StateError, ConnectionError: the ledger cannot be read.
    """
    from instep_streams.delivery.deadletters import list_open

    letters = [asdict(each) for each in await list_open(settings, target) if flow in (None, each.flow)]
    return [{**each, "key": ", ".join(each["key"]), "at": _time(each.pop("at_us"))} for each in letters]


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="seconds")


async def again(settings: Settings, target: str, flow: str | None, keys: Sequence[str]) -> dict[str, int]:
    """Deliver refused documents again; gives how many had which outcome.

    Raises:
        ConfigError: a key does not fit.
        InstepError, ConnectionError: a part refuses or does not answer.
    """
    from instep_streams.delivery.retry import retry

    total: dict[str, int] = {}
    chosen: list[Key | None] = [key_of(settings, flow, text) for text in keys]
    for key in chosen or [None]:
        for outcome, count in (await retry(settings, target, flow=flow, key=key)).items():
            total[str(outcome)] = total.get(str(outcome), 0) + count
    return total


def key_of(settings: Settings, flow: str | None, text: str) -> Key:
    """A key as a person writes it: the columns' text in the flow's order, separated by commas where there are several.

    Raises:
        ConfigError: the number of columns does not fit.
    """
    known = load_all(settings.flows_dir)
    columns = known[flow].key if flow in known else ()
    if len(columns) <= 1:
        return (text,)
    parts = tuple(part.strip() for part in text.split(","))
    if len(parts) != len(columns):
        raise ConfigError(f"The key {text!r} has {len(parts)} columns.", f"Flow {flow} has {', '.join(columns)}.")
    return parts
