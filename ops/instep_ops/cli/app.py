"""The command line: every command, and the one place where a fault becomes a sentence and an exit code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from instep_ops.cli import deadletters, demo, flow, plan, processes, project, proof, schema, topics
from instep_ops.cli.faults import DEBUG_VARIABLE, explain


class Commands(TyperGroup):
    """A group of commands whose faults end as one sentence."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes its exit code."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except (Exception, KeyboardInterrupt) as exc:
            raise typer.Exit(explain(exc)) from None


def _version(wanted: bool) -> None:
    if wanted:
        from instep import __version__

        typer.echo(f"instep {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (as INSTEP_DEBUG=1 does).")] = False,
) -> None:
    """Keep a CRM in step with an inventory database, and prove it."""
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


def build() -> typer.Typer:
    """The command line, assembled."""
    app = typer.Typer(
        cls=Commands,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Example: instep demo --for 60",
    )
    app.callback()(_options)
    for module in (demo, project, proof, flow, deadletters, plan, schema, topics, processes):
        module.register(app)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line; gives the exit code."""
    try:
        build()(list(arguments), prog_name="instep")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0
