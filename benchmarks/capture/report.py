"""The table: per trial and figure the median over the rounds with its spread, and ours beside the peer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.capture.subjects import DEBEZIUM, INSTEP, LIMIT, SUBJECTS
from benchmarks.capture.trials import Figures

_NOISE_CORES = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one trial.

    Attributes:
        factor: a goal against the peer: at least so many times as much, or (below 1) at most that part.
        most: a goal in itself: at most so much.
    """

    trial: str
    figure: str
    label: str
    digits: int = 0
    factor: float | None = None
    most: float | None = None


ROWS = (
    Row("drain", "per_s", "drain, changes/s", factor=3),
    Row("drain", "warm_per_s", "drain, second half, changes/s", factor=3),
    Row("drain", "cpu_s_per_million", "CPU s per million changes", 1, factor=0.25),
    Row("drain", "store_cpu_s_per_million", "… of the store meanwhile", 1),
    Row("drain", "broker_cpu_s_per_million", "… of the broker meanwhile", 1),
    Row("drain", "peak_mb", "drain, peak memory, MB", most=200),
    Row("snapshot", "per_s", "snapshot, rows/s", factor=3),
    Row("snapshot", "cpu_s_per_million", "CPU s per million rows", 1, factor=0.25),
    Row("snapshot", "peak_mb", "snapshot, peak memory, MB", most=200),
    Row("latency at 1,000/s", "p50_ms", "latency at 1,000/s, p50 ms", 1, most=15),
    Row("latency at 1,000/s", "p99_ms", "… p99 ms", 1, most=40),
    Row("latency at 1,000/s", "cpu_cores", "… CPU, cores", 2),
    Row("latency at 5,000/s", "p50_ms", "latency at 5,000/s, p50 ms", 1, most=15),
    Row("latency at 5,000/s", "p99_ms", "… p99 ms", 1, most=40),
    Row("latency at 5,000/s", "cpu_cores", "… CPU, cores", 2),
    Row("start", "first_s", "start → first change, s", 2, most=1.5),
    Row("start", "cpu_s", "… CPU s", 2),
)


def show(results: Sequence[Figures], console: Console) -> None:
    """Print the table of the main run."""
    names = [name for name in SUBJECTS if any(r.subject == name for r in results)]
    table = Table(title="Capture: median (lowest to highest)", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(name, justify="right")
    peers = [name for name in (DEBEZIUM, LIMIT) if name in names]
    for peer in peers:
        table.add_column(f"{INSTEP}/{peer}", justify="right")
    table.add_column("goal", justify="right")
    for row in ROWS:
        values = {name: _values(results, row.trial, name, row.figure) for name in names}
        if any(values.values()):
            cells = [_spread(values[name], row.digits) for name in names]
            ratios = [_ratio(values.get(INSTEP), values.get(peer)) for peer in peers]
            table.add_row(row.label, *cells, *ratios, _goal(row, values))
    console.print(table)
    for line in remarks(results):
        console.print(line, soft_wrap=True, highlight=False)


def remarks(results: Sequence[Figures]) -> list[str]:
    """What a reader must know: changes lost or written twice, and neighbours."""
    lines = []
    for name in SUBJECTS:
        counted = [r.notes for r in results if r.subject == name and "delivered" in r.notes]
        if counted:
            made = sum(int(notes["changes"]) for notes in counted)
            found = sum(int(notes["delivered"]) for notes in counted)
            verdict = "exactly" if all(n["changes"] == n["delivered"] for n in counted) else "NOT EQUAL"
            lines.append(f"{name}: {made:,} changes made, {found:,} found in the topics: {verdict}")
    noise = [r.figures["others_cores"] for r in results if "others_cores" in r.figures]
    if noise and max(noise) > _NOISE_CORES:
        lines.append(
            f"Other programs used up to {max(noise):.2f} cores (median {median(noise):.2f}): "
            "repeat it on a quiet machine."
        )
    loads = [(r.subject, r.notes["load"]) for r in results if "load" in r.notes]
    lines += [
        f"{name}: load reached {load['per_s']:,.0f}/s of {load['asked']:,}/s, {load['latest_ms']:,.0f} ms late at worst"
        for name, load in loads
        if load["per_s"] < 0.95 * load["asked"]
    ]
    return lines


def show_sweep(results: Sequence[Figures], console: Console) -> None:
    """Print how costs depend on the number of tables and on the size of rows."""
    table = Table(title="Capture: drain by tables and row size, median (lowest to highest)", title_justify="left")
    for name in ("", "subject", "changes/s", "CPU s per million", "CPU ns per value byte", "peak MB"):
        table.add_column(name, justify="left" if name in ("", "subject") else "right")
    for trial in dict.fromkeys(r.trial for r in results):
        for name in SUBJECTS:
            found = [r for r in results if r.trial == trial and r.subject == name]
            if found:
                table.add_row(
                    trial,
                    name,
                    _spread([r.figures["per_s"] for r in found], 0),
                    _spread([r.figures["cpu_s_per_million"] for r in found], 1),
                    _spread([_per_byte(r) for r in found if "value_bytes" in r.notes], 1),
                    _spread([r.figures["peak_mb"] for r in found], 0),
                )
    console.print(table)
    for line in remarks(results):
        console.print(line, soft_wrap=True, highlight=False)


def to_json(results: Sequence[Figures], header: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured."""
    return {**header, "results": [each.to_dict() for each in results]}


def _per_byte(result: Figures) -> float:
    size = float(result.notes["value_bytes"] / result.notes["delivered"])
    return result.figures["cpu_s_per_million"] * 1000 / size


def _values(results: Sequence[Figures], trial: str, subject: str, figure: str) -> list[float]:
    return [r.figures[figure] for r in results if r.trial == trial and r.subject == subject and figure in r.figures]


def _spread(values: Sequence[float], digits: int) -> str:
    if not values:
        return "-"
    middle = f"{median(values):,.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def _ratio(ours: Sequence[float] | None, peer: Sequence[float] | None) -> str:
    return f"{median(ours) / median(peer):.2f}" if ours and peer and median(peer) else "-"


def _goal(row: Row, values: dict[str, list[float]]) -> str:
    ours, peer = values.get(INSTEP), values.get(DEBEZIUM)
    if row.factor is not None:
        text, met = f"{'≥' if row.factor > 1 else '≤'} {row.factor:g} x", None
        if ours and peer and median(peer):
            ratio = median(ours) / median(peer)
            met = ratio >= row.factor if row.factor > 1 else ratio <= row.factor
    elif row.most is not None:
        text, met = f"≤ {row.most:g}", median(ours) <= row.most if ours else None
    else:
        return ""
    return text if met is None else f"{text} {'met' if met else 'MISSED'}"
