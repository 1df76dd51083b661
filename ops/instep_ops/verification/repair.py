"""Deliver the keys that differ in a CRM again."""

from __future__ import annotations

from collections.abc import Iterable

from instep.change import Position
from instep.protocols import Key
from instep.settings import Settings
from instep_ops.verification.compare import Difference
from instep_streams.replay import plan, run

_BEGINNING = Position(0, 0, 0)


async def repair(settings: Settings, differences: Iterable[Difference]) -> int:
    """Replay the newest document of each key whose CRM record differs; gives the number of keys.

    A key that differs between store and topic is not touched: the CRM would get the wrong document again.

    Raises:
        InstepError, ConnectionError: a part refuses or does not answer.
    """
    wrong, keys = set[tuple[str, Key]](), dict[str, dict[Key, None]]()
    for each in differences:
        if not each.target:
            wrong.add((each.flow, each.key))
        else:
            keys.setdefault(each.flow, {})[each.key] = None
    count = 0
    for flow, found in keys.items():
        chosen = [key for key in found if (flow, key) not in wrong]
        if chosen:
            planned = await plan(settings, flow, position=_BEGINNING, keys=chosen)
            await run(settings, planned)
            count += len(chosen)
    return count
