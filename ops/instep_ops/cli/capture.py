"""`instep capture`: the process itself, and what stands beside it: `audit`, `status`, `recover`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from instep.errors import ConfigError
from instep_ops.cli.capture_snapshot import snapshot_app
from instep_ops.cli.options import HERE, Json, Metrics, Project, open_running, pick
from instep_ops.cli.runs import run_process

SourceName = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="The source; default: the only one.")]


class ProcessGroup(TyperGroup):
    """A process's own command with further commands under it: `capture shop`, `capture audit shop`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """A command's name comes first; anything else is for the process."""
        if args and args[0] in self.commands:
            super().parse_args(ctx, [])
            ctx._protected_args, ctx.args = args[:1], args[1:]
            return args[1:]
        ctx.allow_interspersed_args = True
        return super().parse_args(ctx, args)


def capture(
    context: typer.Context,
    source: SourceName = None,
    project: Project = HERE,
    debezium: Annotated[
        Path | None,
        typer.Option(
            "--debezium",
            metavar="FILE",
            help="Write what Debezium would by this connector configuration (properties or JSON). Brokers and registry "
            "that it does not name are those of instep.toml.",
        ),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            "--record",
            metavar="FILE",
            help="Keep every replication frame and acknowledgement in FILE: row values too.",
        ),
    ] = None,
    metrics: Metrics = "",
) -> None:
    """Run the capture of one source: snapshot, then every committed change, into Kafka."""
    if context.invoked_subcommand is not None:
        return
    if debezium is not None:
        _capture_as_debezium(debezium, project, record, metrics)
        return
    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    if not settings.sources[name].journal:
        why = f"sources.{name}.journal = false: Debezium writes its topics."
        raise ConfigError(why, "There is nothing to capture.")
    from instep_streams.capture.process import run

    run_process(f"capture:{name}", lambda stop: run(settings, name, stop, None, record), metrics)


def _capture_as_debezium(file: Path, project: Path, record: Path | None, metrics: str) -> None:
    from instep_streams.capture.connector import connector
    from instep_streams.capture.process import run
    from instep_streams.capture.properties import read

    settings = open_running(project) if (project / "instep.toml").exists() else None
    kafka, registry = (settings.kafka, settings.registry) if settings else (None, None)
    parsed = connector(read(file), kafka, registry)
    for warning in parsed.warnings:
        typer.echo(f"{file}: {warning}", err=True)
    run_process(
        f"capture:{parsed.source}",
        lambda stop: run(parsed.settings, parsed.source, stop, parsed.compatible, record),
        metrics,
    )


def audit(
    source: SourceName = None,
    wait: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long capture may take to get there.")
    ] = 60.0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Prove it: the topics folded by key = the tables, and the journal has no gap, no overlap and right counts.

    The store is read at one position, while everything runs. Exit code 0: equal; 1: not.
    """
    from instep_ops.cli.screen import show_json
    from instep_streams.capture.audit import audit as prove

    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    found = prove(settings, name, wait)
    if as_json:
        show_json(found.to_dict())
    else:
        for problem in found.problems:
            typer.echo(problem)
        typer.echo(found.sentence())
    if not found.ok:
        raise typer.Exit(1)


def status(source: SourceName = None, project: Project = HERE, as_json: Json = False) -> None:
    """Show where the capture of one source stands: lag at each step, slot, snapshot, rates, batches.

    Exit code 0; 1 when the slot is near its limit, past it, or lost, or a table is stopped.
    """
    from instep_ops.capture import tables
    from instep_ops.cli.screen import show_json, show_table
    from instep_streams.capture.report import report

    settings = open_running(project)
    found = report(settings, pick(settings.sources, source, "source"))
    if as_json:
        show_json(found)
    else:
        typer.echo(f"{found['source']}: {found['state']}")
        for title, columns, rows in tables(found):
            show_table(title, columns, rows)
    slot = found["slot"]
    ill = slot is not None and slot["level"] != "fine"
    if ill and not as_json:
        typer.echo(f"{slot['cause']} {slot['remedy']}")
    if ill or found["stopped"]:
        raise typer.Exit(1)


def recover(source: SourceName = None, project: Project = HERE, as_json: Json = False) -> None:
    """Make a new slot after the old one was lost, and bring what was missed: deletes too. Capture must not run.

    Every table is compared, at the new slot's beginning, with what its topic's readers hold. Only the differences are
    written. The journal says where the chain was mended. Start `instep capture` afterwards.
    """
    from threading import Event

    from instep.telemetry import configure
    from instep_ops.cli.screen import show_json, show_table
    from instep_streams.capture.recovery import recover as mend
    from instep_streams.capture.task import Task

    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    configure(f"recover:{name}")
    found = mend(Task(settings, name, Event().wait)).to_dict()
    if as_json:
        show_json(found)
        return
    typer.echo(f"Mended from {found['from']} to {found['to']}: {found['reason']}")
    columns = ["equal", "reads", "deletes", "rejected"]
    show_table("Tables", ["table", *columns], [[t, *map(n.get, columns)] for t, n in found["tables"].items()])


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=ProcessGroup, invoke_without_command=True, epilog="Example: instep capture --debezium inventory.json"
    )
    group.callback()(capture)
    group.command(epilog="Example: instep capture audit shop --json")(audit)
    group.command(epilog="Example: instep capture status --json")(status)
    group.command(epilog="Example: instep capture recover shop")(recover)
    group.add_typer(snapshot_app, name="snapshot")
    app.add_typer(group, name="capture")
