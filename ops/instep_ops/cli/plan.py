"""`instep plan` and `instep apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running

Samples = Annotated[int, typer.Option("--samples", metavar="N", min=0, help="Documents to show of each flow and sort.")]


def plan(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the plan, for `instep apply`.")
    ] = None,
    samples: Samples = 3,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Compare the project with the cluster: topics, levels, schemas, flows; changes nothing.

    Exit code 0: no differences; 1: differences.
    """
    import json

    from instep_ops.cli.screen import show_json
    from instep_ops.planning.plan import make_plan
    from instep_ops.planning.subjects import administer, write

    settings = open_running(project)
    with administer(settings) as admin:
        found = make_plan(settings, admin, samples)
    if out is not None:
        write(out, json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
    if as_json:
        show_json(found.to_dict())
    else:
        typer.echo("\n".join(found.lines()))
    if found.steps:
        raise typer.Exit(1)


def apply(
    file: Annotated[Path | None, typer.Argument(metavar="[PLAN]", help="As `instep plan --out` wrote it.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="NAME", help="Do this one's harmful step too; repeatable.")
    ] = None,
    documents: Annotated[
        list[str] | None,
        typer.Option(
            "--documents",
            metavar="FLOW=WHAT",
            help="What happens to the documents of a flow whose file is gone: keep, tombstone or delete; repeatable.",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Without a plan file: do what `instep plan` shows now.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Do what a plan says, if the cluster is still as the plan saw it; writes schemas.lock.

    Exit code 0: all done; 1: steps are left that do harm or are never done.
    """
    from instep.errors import ConfigError
    from instep_ops.cli.screen import show_json
    from instep_ops.planning.apply import apply as carry_out
    from instep_ops.planning.apply import check_unmoved
    from instep_ops.planning.plan import make_plan
    from instep_ops.planning.removal import decisions
    from instep_ops.planning.steps import read_plan
    from instep_ops.planning.subjects import administer, text_of

    settings = open_running(project)
    decided = decisions(documents or ())
    if file is None and not yes:
        raise ConfigError("No plan is given.", "Name a file of `instep plan --out FILE`, or say --yes.")
    given = None if file is None else read_plan(text_of(file), file.name)
    with administer(settings) as admin:
        found = make_plan(settings, admin, 0)
        if given is not None:
            check_unmoved(found, given)
        outcome = carry_out(
            settings, admin, found, allow or (), lambda s: typer.echo(f"{s.act}: {s.name}", err=True), decided
        )  # fmt: skip
    if as_json:
        show_json(outcome.to_dict())
    else:
        for step in outcome.left:
            typer.echo("\n".join(["not done:", *step.lines()]))
        typer.echo(f"{len(outcome.done)} done, {len(outcome.left)} left, {len(outcome.others)} for the processes.")
    if not outcome.ok:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: instep plan --out next.plan")(plan)
    app.command(epilog="Example: instep apply next.plan --allow shop.public.products")(apply)
