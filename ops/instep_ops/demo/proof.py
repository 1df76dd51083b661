"""The end of the demo: verify, and say in figures what was proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from instep.settings import Settings
from instep_ops.demo.figures import milliseconds
from instep_ops.demo.latency import Observer, Percentiles
from instep_ops.demo.project import SOURCE, TARGET
from instep_ops.demo.report import DemoReport
from instep_ops.demo.show import Show
from instep_ops.demo.store import Life
from instep_ops.verification.report import Report
from instep_ops.verify import verify
from instep_streams.delivery.status import latencies

_SHOWN = ("ok", "differences", "undecided", "rows_compared", "position", "seconds", "unbalanced")


async def prove(
    settings: Settings, life: Life, observer: Observer, opened_us: int, kills: Mapping[str, int]
) -> tuple[DemoReport, Report]:
    """Compare the store, the topics and the CRM, and gather the figures of this run.

    Args:
        settings: resolved.
        life: the shop's.
        observer: has measured the stages up to the flow topics.
        opened_us: when the shop opened, microseconds since the Unix epoch.
        kills: what chaos killed.
    """
    found = await verify(settings, target=TARGET in settings.targets)
    counts = found.counts[SOURCE]
    outcomes: Counter[str] = Counter()
    for flow in counts["flows"].values():
        outcomes.update(flow.get("outcomes", {}))
    report = DemoReport(
        captured=int(counts["captured"]),
        emitted=sum(int(flow["emitted"]) for flow in counts["flows"].values()),
        delivered=outcomes.total(),
        outcomes=outcomes,
        verify={name: value for name, value in found.to_dict().items() if name in _SHOWN},
        latency={
            "commit_to_topic": observer.to_topic.overall(),
            "commit_to_flow": observer.to_flow.overall(),
            "commit_to_crm": await to_crm(settings, opened_us),
        },
        shop={"steps": life.steps, "changes": life.changes},
        ok=found.ok,
        kills=kills,
    )
    return report, found


async def to_crm(settings: Settings, since_us: int) -> Percentiles:
    """From the commit in the store to the CRM's acknowledgement, of what was acknowledged since then."""
    if TARGET not in settings.targets:
        return Percentiles(None, None)
    found = await latencies(settings, TARGET, since_us)
    return Percentiles(found["p50"], found["p99"])


def show_proof(report: DemoReport, found: Report, show: Show) -> None:
    """Print the proof."""
    for title, columns, rows in found.tables():
        show.table(title, columns, rows)
    counts = [("captured", report.captured), ("emitted", report.emitted), *report.outcomes.items()]
    show.table("Counts", ("", "since the first day"), counts)
    latency = [
        (stage.replace("_to_", " → "), milliseconds(each.p50), milliseconds(each.p99))
        for stage, each in report.latency.items()
    ]
    show.table("Latency", ("", "p50", "p99"), latency)
    if report.kills:
        show.say("Killed: " + ", ".join(f"{name} {count}x" for name, count in sorted(report.kills.items())))
    show.say(found.sentence())
