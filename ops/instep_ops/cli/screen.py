"""What commands show: JSON on standard output for scripts, tables and progress bars for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instep_ops.embedded import Progress


def show_json(value: Any) -> None:
    """Print one JSON document; values JSON does not know (decimals, times) as their text."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, default=str)
    sys.stdout.write("\n")
    sys.stdout.flush()


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; nothing at all when it has no rows."""
    if not rows:
        return
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(*(Column(name, overflow="fold") for name in columns), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    Console().print(table)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """Show a bar per step on standard error; each step is told by its description and its fraction."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def tell(description: str, fraction: float) -> None:
            if description not in tasks:
                tasks[description] = bars.add_task(description, total=1.0)
            bars.update(tasks[description], completed=fraction)

        yield tell
