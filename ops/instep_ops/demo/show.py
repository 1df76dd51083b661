"""How the demo speaks to a person: a live picture in a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from instep_ops.demo.figures import line
from instep_ops.demo.screen import draw
from instep_ops.embedded import Progress

_STEP_EVERY = 0.25


class Show(Protocol):
    """What the demo needs of a terminal.

    Attributes:
        every_s: seconds between two pictures of the live part.
        pairs: whether the picture shows records.
    """

    every_s: float
    pairs: bool

    def say(self, text: str) -> None:
        """A sentence that stays."""
        ...

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table that stays; nothing when it has no rows."""
        ...

    def progress(self) -> Any:
        """A context that gives `Progress`: a bar per step."""
        ...

    def live(self) -> Any:
        """A context that gives a function drawing the present figures."""
        ...


class _Console:
    def __init__(self) -> None:
        self._console = Console()

    def say(self, text: str) -> None:
        """A sentence that stays."""
        self._console.print(Text(text), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A table that stays; nothing when it has no rows."""
        if rows:
            table = Table(*columns, title=title, title_justify="left")
            for row in rows:
                table.add_row(*(Text(str(cell)) for cell in row))
            self._console.print(table)


class Rich(_Console):
    """A terminal."""

    every_s = 0.5
    pairs = True

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A bar per step."""
        from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        tasks: dict[str, TaskID] = {}
        with Bars(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=self._console) as bars:

            def tell(description: str, fraction: float) -> None:
                if description not in tasks:
                    tasks[description] = bars.add_task(description, total=1.0)
                bars.update(tasks[description], completed=fraction)

            yield tell

    @contextmanager
    def live(self) -> Iterator[Any]:
        """A picture that is drawn over and over."""
        with Live(console=self._console, auto_refresh=False, transient=False) as screen:
            yield lambda figures: screen.update(draw(figures), refresh=True)


class Plain(_Console):
    """Not a terminal: a log file, a pipe."""

    every_s = 5.0
    pairs = False

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A line at the start of a step, at each quarter and at its end."""
        told: dict[str, float] = {}

        def tell(description: str, fraction: float) -> None:
            if description not in told or fraction >= min(1.0, told[description] + _STEP_EVERY) > told[description]:
                told[description] = fraction
                self.say(f"{description}: {fraction:.0%}")

        yield tell

    @contextmanager
    def live(self) -> Iterator[Any]:
        """A line every few seconds."""
        yield lambda figures: self.say(line(figures))
