"""The demo's live picture in the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from instep_ops.demo.figures import Figures, milliseconds

_SHOWN = 40


def draw(figures: Figures) -> RenderableType:
    """One moment of the demo as a panel."""
    title = f"[bold]Instep demo[/bold]  {figures.phase}  {figures.seconds:.0f} s"
    parts: list[RenderableType] = [_head(figures), _stages(figures), _processes(figures), _places(figures)]
    if figures.pairs:
        parts.append(_pairs(figures))  # last: a low terminal cuts the end off
    return Panel(Group(*parts), title=title, title_align="left", subtitle="Ctrl-C: close the shop, drain, verify")


def _head(figures: Figures) -> Text:
    text = Text(f"{figures.rate:.1f} changes/s, {figures.changes} since the shop opened")
    for name, count in figures.outcomes.items():
        style = "bold red" if name == "rejected" and count else "bold"
        text.append("   ").append(str(count), style).append(f" {name}")
    return text


def _stages(figures: Figures) -> Table:
    table = Table("way of a change", "p50", "p99", "", box=SIMPLE_HEAD, pad_edge=False)
    for column in (1, 2, 3):
        table.columns[column].justify = "right"
    for stage in figures.stages:
        p50, p99 = milliseconds(stage.latency.p50), milliseconds(stage.latency.p99)
        table.add_row(f"commit → {stage.name}", p50, p99, f"{stage.count} {stage.what}")
    return table


def _pairs(figures: Figures) -> Table:
    table = Table("changed last", "field", "store", "CRM", box=SIMPLE_HEAD, pad_edge=False)
    for pair in figures.pairs:
        style = "" if pair.store == pair.crm else "yellow"
        table.add_row(Text(f"{pair.flow} {pair.key}"), Text(pair.field), _cell(pair.store), _cell(pair.crm, style))
    return table


def _cell(value: str, style: str = "") -> Text:
    flat = value.replace("\n", " · ")
    return Text(flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…", style)


def _processes(figures: Figures) -> Text:
    text = Text()
    for name, pid in figures.processes.items():
        text.append("● ", "green" if pid else "red").append(name)
        if again := figures.restarts.get(name):
            text.append(f" (restarted {again}x)", "yellow")
        text.append("   ")
    if figures.event:
        text.append("\n").append(figures.event, "dim")
    return text


def _places(figures: Figures) -> Table:
    table = Table.grid(padding=(0, 2))
    for what, where in figures.places:
        table.add_row(Text(what, "dim"), Text(where, overflow="fold"))
    return table
