"""`instep init`, `up`, `status`, `doctor`."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, open_project, open_running

if TYPE_CHECKING:
    from instep.settings import Settings


def init(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the new project.")]) -> None:
    """Write a commented project for your own database and CRM."""
    from instep_ops.init import create

    for path in create(folder):
        typer.echo(f"wrote {path}")
    typer.echo(f"Next: set STORE_DSN, edit {folder / 'instep.toml'}, then run: instep doctor --project {folder}")


def up(project: Project = HERE) -> None:
    """Run everything of a project on this machine until Ctrl-C."""
    from instep.telemetry import configure
    from instep_ops.cli.runs import until_stopped

    settings = open_project(project)
    configure("up")
    asyncio.run(until_stopped(lambda stop: _up(settings, project, stop)))


async def _up(settings: Settings, project: Path, stop: asyncio.Event) -> None:
    from instep_ops.cli.screen import progress_bars
    from instep_ops.up import up

    def on_event(name: str, text: str) -> None:
        typer.echo(f"{name}: {text}")

    with ExitStack() as bars:
        progress = bars.enter_context(progress_bars())

        def on_ready() -> None:
            bars.close()
            typer.echo(f"Running; logs in {settings.data_dir / 'logs'}. Ctrl-C stops it.")
            typer.echo(f"In another terminal: instep status --project {project}, instep verify --project {project}")

        await up(settings, project, stop, progress, on_event, on_ready)


def status(project: Project = HERE, as_json: Json = False) -> None:
    """Say where each stage stands: position, lag, outcomes, slot, dead letters."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.status import read

    report = asyncio.run(read(open_running(project)))
    if as_json:
        show_json(report.to_dict())
        return
    for title, columns, rows in report.tables():
        show_table(title, columns, rows)


def doctor(project: Project = HERE, as_json: Json = False) -> None:
    """Check everything a project needs; each line names what is wrong and what to do."""
    from instep_ops.cli.screen import show_json
    from instep_ops.doctor import examine

    checks = asyncio.run(examine(project))
    if as_json:
        show_json({"ok": all(c.ok for c in checks), "checks": [c.to_dict() for c in checks]})
    else:
        for check in checks:
            typer.echo(check.line())
    code = max((check.exit_code for check in checks), default=0)
    if code:
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: instep init shop")(init)
    app.command(epilog="Example: instep up --project shop")(up)
    app.command(epilog="Example: instep status --project shop --json")(status)
    app.command(epilog="Example: instep doctor --project shop")(doctor)
