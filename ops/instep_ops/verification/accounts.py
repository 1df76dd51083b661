"""The counts behind a proof: every captured change is in the journal's chain, every document has an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from instep.flowfile import Flow
from instep.settings import Settings
from instep_ops.verification.fold import Fold
from instep_streams.capture.audit import Audit, check_chain, read_journal
from instep_streams.delivery.ledger import Ledger

_OUTCOMES = """
SELECT outcome, count(*) FROM instep_delivery.outcomes
WHERE target = %(target)s AND flow = %(flow)s AND version <= %(version)s GROUP BY outcome
"""


async def captured(settings: Settings, source: str) -> tuple[dict[str, int], list[str]]:
    """Changes that the journal counts, and what is wrong with its chain."""

    def read() -> Audit:
        audit = Audit()
        check_chain(read_journal(settings, source), audit)
        return audit

    audit = await asyncio.to_thread(read)
    counts = {"entries": audit.entries, "captured": audit.changes, "rejected": audit.rejected}
    problems = [f"{source}: {text}." for text in audit.problems]
    if audit.rejected:
        problems.append(f"{source}: {audit.rejected} changes are in capture's dead letters.")
    return counts, problems


async def delivered(settings: Settings, flow: Flow, fold: Fold) -> tuple[dict[str, Any], list[str]]:
    """Outcomes of the documents before the position, and how many documents have none.

    A compacted topic may hold fewer documents than there are outcomes, never more.
    """
    assert flow.target is not None
    number, emitted = fold.emitted()
    async with aclosing(Ledger(settings.state.dsn.reveal(), flow.target)) as ledger:
        rows = await ledger.fetch(_OUTCOMES, {"flow": flow.name, "version": number})
    outcomes = {str(kind): int(count) for kind, count in rows}
    missing = emitted - sum(outcomes.values())
    problems = (
        [f"{flow.name}: {missing} of {emitted} documents have no outcome in {flow.target}."] if missing > 0 else []
    )
    return {"emitted": emitted, "outcomes": outcomes}, problems


async def take(
    settings: Settings, source: str, flows: Mapping[str, Flow], folds: Mapping[str, Fold], target: bool
) -> tuple[dict[str, Any], list[str]]:
    """The counts of one source and its flows, and sentences about what does not add up.

    Args:
        settings: resolved.
        source: its name.
        flows: its flows.
        folds: their topics around the position.
        target: also look at the outcomes in the targets.
    """
    if settings.sources[source].journal:
        counts, problems = await captured(settings, source)
    else:  # Debezium keeps no account of what it writes
        counts, problems = {}, []
    result: dict[str, Any] = {**counts, "flows": {}}
    for name, flow in flows.items():
        if target and flow.target:
            result["flows"][name], more = await delivered(settings, flow, folds[name])
            problems += more
        else:
            result["flows"][name] = {"emitted": folds[name].emitted()[1]}
    return result, problems
