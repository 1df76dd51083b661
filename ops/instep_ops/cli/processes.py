"""Each process alone: `instep registry`, `capture`, `worker`, `deliver`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instep_ops.cli import registry_doctor
from instep_ops.cli.options import HERE, Metrics, Project, open_running, pick
from instep_ops.cli.runs import run_process

SourceName = Annotated[str | None, typer.Argument(metavar="[SOURCE]", help="The source; default: the only one.")]
TargetName = Annotated[str | None, typer.Argument(metavar="[TARGET]", help="The target; default: the only one.")]


def registry(context: typer.Context, project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the schema registry (Confluent's HTTP API, kept in Kafka)."""
    if context.invoked_subcommand is not None:
        return
    settings = open_running(project)
    from instep_schemas.registry.process import run

    run_process("registry", lambda stop: run(settings, stop), metrics)


def capture(
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
    metrics: Metrics = "",
) -> None:
    """Run the capture of one source: snapshot, then every committed change, into Kafka."""
    if debezium is not None:
        _capture_as_debezium(debezium, project, metrics)
        return
    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    from instep_streams.capture.process import run

    run_process(f"capture:{name}", lambda stop: run(settings, name, stop), metrics)


def _capture_as_debezium(file: Path, project: Path, metrics: str) -> None:
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
        lambda stop: run(parsed.settings, parsed.source, stop, parsed.compatible),
        metrics,
    )


def worker(source: SourceName = None, project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the flow worker of one source: keeps the replica, evaluates the flows, emits documents."""
    settings = open_running(project)
    name = pick(settings.sources, source, "source")
    from instep_streams.flows.process import run

    run_process(f"worker:{name}", lambda stop: run(settings, name, stop), metrics)


def deliver(target: TargetName = None, project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the delivery into one target."""
    settings = open_running(project)
    name = pick(settings.targets, target, "target")
    from instep_streams.delivery.process import run

    run_process(f"deliver:{name}", lambda stop: run(settings, name, stop), metrics)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(invoke_without_command=True, epilog="Example: instep registry --project shop")
    group.callback()(registry)
    registry_doctor.attach(group)
    app.add_typer(group, name="registry")
    app.command(epilog="Example: instep capture --debezium inventory-connector.json")(capture)
    app.command(epilog="Example: instep worker shop --project shop")(worker)
    app.command(epilog="Example: instep deliver crm --project shop")(deliver)
