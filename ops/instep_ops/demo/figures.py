"""What the demo shows while it runs: plain numbers and texts, gathered elsewhere, drawn by `screen`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from instep_ops.demo.latency import Percentiles

NOTHING = Percentiles(None, None)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the way: how long changes took to get there lately, and how many have."""

    name: str
    latency: Percentiles
    count: int
    what: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One field of a record, in the store and in the CRM."""

    flow: str
    key: str
    field: str
    store: str
    crm: str


@dataclass(frozen=True, slots=True)
class Figures:
    """A moment of the demo.

    Attributes:
        phase: what is going on, in a few words.
        seconds: since the shop opened.
        rate: the shop's changes per second, lately.
        changes: the shop's changes since it opened.
        stages: in the order of the way.
        outcomes: documents by outcome in the CRM; empty without a CRM.
        pairs: the records that changed last, store beside CRM.
        processes: process id by name, None while it does not run.
        restarts: how often each process was started again.
        event: what happened last to a process.
        places: where to look further: what, and the address or command.
    """

    phase: str
    seconds: float = 0.0
    rate: float = 0.0
    changes: int = 0
    stages: Sequence[Stage] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    pairs: Sequence[Pair] = ()
    processes: Mapping[str, int | None] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    event: str = ""
    places: Sequence[tuple[str, str]] = ()


def milliseconds(value: float | None) -> str:
    """A latency as people read it: milliseconds below a second, seconds above."""
    if value is None:
        return "-"
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def line(figures: Figures) -> str:
    """A moment in one line, for logs and pipes."""
    stages = ", ".join(f"{stage.name} {milliseconds(stage.latency.p50)}" for stage in figures.stages)
    outcomes = ", ".join(f"{count} {name}" for name, count in figures.outcomes.items() if count)
    parts = [f"{figures.seconds:4.0f} s", f"{figures.rate:.1f} changes/s ({figures.changes})", stages, outcomes]
    return f"{figures.phase}: {'; '.join(part for part in parts if part)}"
