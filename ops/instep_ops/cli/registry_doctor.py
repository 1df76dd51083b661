"""`instep registry doctor`, beside `instep registry` itself."""

from __future__ import annotations

from typing import Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running


def doctor(
    cure: Annotated[
        bool, typer.Option("--heal", help="Cure what is found; a running registry pauses a second.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Find records of _schemas whose key is spelled otherwise: compaction would bring them back once deleted."""
    from instep_ops.cli.screen import show_json
    from instep_schemas.registry.doctor import examine, heal

    kafka = open_running(project).kafka
    found = heal(kafka) if cure else examine(kafka)
    orphans = [str(orphan) for orphan in found.orphans]
    if as_json:
        show_json(
            {"records": found.records, "orphans": orphans, "healed": cure, "faults": list(found.faults)},
        )
    else:
        for line in (*orphans, *found.faults):
            typer.echo(line)
        fate = "healed" if cure else "heal them with --heal"
        typer.echo(f"{found.records} records, {len(orphans)} orphans{f' ({fate})' if orphans else ''}.")
    if found.faults or (orphans and not cure):
        raise typer.Exit(1)


def attach(group: typer.Typer) -> None:
    """Add the command to `instep registry`."""
    group.command(epilog="Example: instep registry doctor --heal")(doctor)
