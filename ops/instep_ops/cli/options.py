"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instep.errors import ConfigError

if TYPE_CHECKING:
    from instep.settings import Settings

Project = Annotated[
    Path,
    typer.Option("--project", "-p", metavar="DIR", envvar="INSTEP_PROJECT", help="Folder that holds instep.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON on standard output.")]
Metrics = Annotated[
    str,
    typer.Option(
        "--metrics", metavar="HOST:PORT", envvar="INSTEP_METRICS", help="Serve Prometheus metrics at this address."
    ),
]
HERE = Path(".")


def open_project(project: Path) -> Settings:
    """The project's settings as they stand in the file.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    from instep.settings import load

    return load(project)


def open_running(project: Path) -> Settings:
    """The project's settings with every address real.

    Raises:
        ConfigError: there is none, or it is wrong.
        EnvironmentFault: it needs embedded parts that do not run.
    """
    from instep_ops.assemble import resolve, running

    settings = open_project(project)
    return resolve(settings, running(settings))


def flow_name(text: str) -> str:
    """A flow's name, which may also be given as its file: `flows/product_card.sql`."""
    return Path(text).stem if text.endswith(".sql") else text


def pick(names: Iterable[str], wanted: str | None, what: str) -> str:
    """The named source, target or flow, or the only one there is.

    Raises:
        ConfigError: no such one, none at all, or several and none named.
    """
    known = sorted(names)
    listed = ", ".join(known) or "none"
    if wanted is None:
        if len(known) == 1:
            return known[0]
        if not known:
            raise ConfigError(f"This project has no {what}.", f"Add one to instep.toml (or a file to flows/): {what}.")
        raise ConfigError(f"This project has several {what}s: {listed}.", f"Name the {what} in the command.")
    if wanted not in known:
        raise ConfigError(f"There is no {what} {wanted!r}.", f"This project has: {listed}.")
    return wanted
