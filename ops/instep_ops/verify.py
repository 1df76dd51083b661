"""`instep verify`: the SELECT on the store = the flow topic folded by key = the CRM read back, at one position.

Nothing is stopped for it. A temporary slot exports a snapshot of the store at LSN L; the user's SELECT runs on it; then
the worker passes L, and the flow topic is folded up to L (`verification.fold` says what can be known about a key while
changes go on). The CRM is compared with the version that the ledger says it was given.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from instep.errors import ConfigError
from instep.flowfile import Flow, load_all
from instep.settings import Settings
from instep_ops.verification.accounts import take
from instep_ops.verification.compare import Difference
from instep_ops.verification.readback import ReadBack
from instep_ops.verification.repair import repair as deliver_again
from instep_ops.verification.report import Proof, Report, Undecided
from instep_ops.verification.rounds import Rounds, Tell

__all__ = ["Difference", "Proof", "Report", "Undecided", "by_source", "verify"]


async def verify(
    settings: Settings, flows: Sequence[str] | None = None, target: bool = True, *, repair: bool = False,
    progress: Tell | None = None,
) -> Report:  # fmt: skip
    """Prove flows while everything runs.

    Args:
        settings: resolved.
        flows: their names; None: all.
        target: read the CRMs back too.
        repair: deliver the keys that differ in a CRM again, and prove once more.
        progress: told in words what is being done.

    Raises:
        ConfigError: no such flow.
        VerifyFailed: a stage makes no progress, so that nothing can be proven.
        InstepError: a part refuses.
    """
    begin, tell = time.monotonic(), progress or _silent
    chosen = by_source(settings, flows)
    report = await _prove(settings, chosen, target, tell)
    if repair and any(each.target for each in report.differences):
        tell("delivering the keys that differ again")
        repaired = await deliver_again(settings, report.differences)
        report = await _prove(settings, chosen, target, tell)
        report.repaired = repaired
    report.seconds = time.monotonic() - begin
    return report


async def _prove(
    settings: Settings, chosen: Mapping[str, Mapping[str, Flow]], target: bool, tell: Tell
) -> Report:  # fmt: skip
    report = Report()
    for source, mine in chosen.items():
        rounds = Rounds(settings, source, mine, tell)
        try:
            topics = await rounds.run()
            report.proofs += rounds.proofs.values()
            for name, flow in mine.items():
                if target and flow.target:
                    tell(f"{name}: reading {flow.target} back")
                    await ReadBack(settings, flow, topics, rounds.rows[name], rounds.proofs[name]).run()
            report.counts[source], unbalanced = await take(settings, source, mine, topics.folds, target)
            for joined in settings.joined(source):
                report.counts[joined], more = await take(settings, joined, {}, {}, target)
                unbalanced += more
        finally:
            await asyncio.to_thread(rounds.close)
        report.unbalanced += unbalanced
    return report


def by_source(settings: Settings, names: Sequence[str] | None) -> dict[str, dict[str, Flow]]:
    """The wanted flows (None: all), per source.

    Raises:
        ConfigError: no such flow, none at all, or its source or target is not in the project.
    """
    known = load_all(settings.flows_dir)
    for name in names or ():
        if name not in known:
            raise ConfigError(f"There is no flow {name!r}.", f"This project has: {', '.join(known) or 'none'}.")
    chosen: dict[str, dict[str, Flow]] = {}
    for name, flow in known.items():
        if names is None or name in names:
            chosen.setdefault(_source_of(settings, flow), {})[name] = flow
    if not chosen:
        raise ConfigError(f"There are no flows in {settings.flows_dir}.", "Write one: a SELECT in a file `NAME.sql`.")
    return chosen


def _source_of(settings: Settings, flow: Flow) -> str:
    if flow.target and flow.target not in settings.targets:
        raise ConfigError(
            f"Flow {flow.name} names the target {flow.target!r}, which is not in instep.toml.", "Add it, or correct it."
        )
    if flow.source in settings.sources:
        return settings.leader(flow.source)
    if not flow.source and len(settings.leaders) == 1:
        return settings.leaders[0]
    listed = ", ".join(settings.sources)
    raise ConfigError(f"Flow {flow.name} needs a source: {flow.source or 'none named'}.", f"There are: {listed}.")


def _silent(text: str) -> None:
    """Tell nobody."""
