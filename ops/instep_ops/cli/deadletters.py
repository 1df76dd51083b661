"""`instep deadletters ls` and `instep deadletters retry`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running, pick

TargetName = Annotated[str | None, typer.Argument(metavar="[TARGET]", help="The target; default: the only one.")]
FlowName = Annotated[str | None, typer.Option("--flow", metavar="FLOW", help="Only this flow's.")]

Keys = Annotated[list[str] | None, typer.Option("--key", metavar="KEY", help="Only this key; may be repeated.")]


def ls(target: TargetName = None, flow: FlowName = None, project: Project = HERE, as_json: Json = False) -> None:
    """List the documents that the target refused, with the reason."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.rejected import listed

    settings = open_running(project)
    letters = asyncio.run(listed(settings, pick(settings.targets, target, "target"), flow))
    if as_json:
        show_json(letters)
    elif letters:
        show_table("Dead letters", list(letters[0]), [list(letter.values()) for letter in letters])
    else:
        typer.echo("No dead letters.")


def retry(
    target: TargetName = None, flow: FlowName = None,
    key: Keys = None,
    project: Project = HERE, as_json: Json = False,
) -> None:  # fmt: skip
    """Deliver refused documents again, in their newest version."""
    from instep_ops.cli.screen import show_json
    from instep_ops.rejected import again

    settings = open_running(project)
    summary = asyncio.run(again(settings, pick(settings.targets, target, "target"), flow, key or []))
    if as_json:
        show_json(summary)
    else:
        typer.echo(", ".join(f"{name}: {value}" for name, value in summary.items()) or "Nothing to do.")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Documents that a target refused.", no_args_is_help=True, rich_markup_mode=None)
    group.command(epilog="Example: instep deadletters ls crm --json")(ls)
    group.command(epilog="Example: instep deadletters retry crm --flow product_card")(retry)
    app.add_typer(group, name="deadletters", epilog="Example: instep deadletters ls")
