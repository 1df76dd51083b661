"""`instep capture snapshot run`, `pause`, `resume`, `stop`, `ls`: copies of tables while streaming goes on."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running, pick

Source = Annotated[str | None, typer.Option("--source", metavar="NAME", help="Needed when there are several.")]
Tables = Annotated[list[str], typer.Argument(metavar="TABLE...", help="schema.table; * stands for any characters.")]
SomeTables = Annotated[
    list[str] | None, typer.Argument(metavar="[TABLE...]", help="schema.table patterns; without any: all copies.")
]


def run(
    tables: Tables,
    where: Annotated[str, typer.Option("--where", metavar="SQL", help="Only rows that meet this condition.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Show how far it is until it is done.")] = False,
    source: Source = None,
    project: Project = HERE,
) -> None:
    """Copy tables again while streaming goes on; a kill costs one chunk."""
    from instep_ops.copies import ask, watch

    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    asked = ask(settings, name, "run", tables, where)
    typer.echo(f"asked for: {', '.join(tables)}")
    if wait:
        watch(settings, name, asked)


def pause(source: Source = None, project: Project = HERE) -> None:
    """Read nothing for now; streaming goes on."""
    _tell("pause", source, project)


def resume(source: Source = None, project: Project = HERE) -> None:
    """Go on with the copies."""
    _tell("resume", source, project)


def stop(tables: SomeTables = None, source: Source = None, project: Project = HERE) -> None:
    """Give copies up. The first copy of a table goes on: without it the table would not be captured."""
    _tell("stop", source, project, tables)


def ls(source: Source = None, project: Project = HERE, as_json: Json = False) -> None:
    """List the copies under way: rows so far, rows in all, roughly."""
    from dataclasses import asdict

    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.copies import under_way

    settings = open_running(project)
    found = under_way(settings, pick(settings.sources, source, "source"))
    if as_json:
        show_json([asdict(each) for each in found])
        return
    if not found:
        typer.echo("No copy is under way.")
        return
    names = ["table", "state", "rows", "of about", "condition"]
    rows = [[e.table, e.state, e.rows, "?" if e.total is None else e.total, e.condition] for e in found]
    show_table("Copies", names, rows)


def _tell(
    kind: Literal["pause", "resume", "stop"], source: str | None, project: Project, tables: list[str] | None = None
) -> None:
    from instep_ops.copies import ask

    settings = open_running(project)
    ask(settings, pick(settings.sources, source, "source"), kind, tables or [])
    typer.echo(f"asked for: {kind}")


snapshot_app = typer.Typer(
    no_args_is_help=True,
    help="Copy tables while streaming goes on.",
    rich_markup_mode=None,
    epilog="Example: instep capture snapshot run public.products --wait",
)
snapshot_app.command(
    epilog="Example: instep capture snapshot run 'public.*' --where \"changed > '2026-01-01'\" --wait"
)(run)
snapshot_app.command(epilog="Example: instep capture snapshot pause")(pause)
snapshot_app.command(epilog="Example: instep capture snapshot resume")(resume)
snapshot_app.command(epilog="Example: instep capture snapshot stop public.products")(stop)
snapshot_app.command(epilog="Example: instep capture snapshot ls --json")(ls)
