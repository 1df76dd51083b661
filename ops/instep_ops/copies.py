"""Copies of tables beside the stream: asked for, listed, watched."""

from __future__ import annotations

import time

from instep.settings import Settings
from instep_streams.capture.control import Asked, TableProgress, ask, standing, under_way

__all__ = ["ask", "under_way", "watch"]

_LOOK_S = 0.3
_PATIENCE_S = 5.0
"""A capture that takes no notice for longer lags, or does not run: that is said."""


def watch(settings: Settings, source: str, asked: Asked) -> None:
    """Show how far what was asked for is, until it is done.

    Raises:
        InstepError, ConnectionError, TimeoutError: the broker does not answer.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}
        begun, told = time.monotonic(), False
        while (now := standing(settings, source, asked)) is None:
            if not told and time.monotonic() - begun > _PATIENCE_S:
                told = True
                bar.console.print(f"The capture of {source} has not come to it yet: it lags, or does not run.")
            time.sleep(_LOOK_S)
        while True:
            found = {each.table: each for each in now or ()}
            for table, each in found.items():
                task = tasks.get(table)
                if task is None:
                    task = tasks[table] = bar.add_task(table, total=each.total)
                bar.update(task, completed=each.rows, total=_total(each), description=f"{table} {each.state}")
            for table, task in tasks.items():
                if table not in found:
                    bar.update(task, description=f"{table} done", total=bar.tasks[task].completed)
            if not found:
                return
            time.sleep(_LOOK_S)
            now = standing(settings, source, asked)


def _total(each: TableProgress) -> int | None:
    return None if each.total is None else max(each.total, each.rows)
