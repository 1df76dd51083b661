"""Each process alone: `instep registry`, `worker`, `deliver`, `agents`; `capture` has a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from instep_ops.cli import capture, registry_doctor
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


def worker(source: SourceName = None, project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the flow worker of one source: keeps the replica, evaluates the flows, emits documents."""
    settings = open_running(project)
    name = source if source in settings.sources else pick(settings.leaders, source, "source")
    from instep_streams.flows.process import run

    run_process(f"worker:{name}", lambda stop: run(settings, name, stop), metrics)


def deliver(target: TargetName = None, project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the delivery into one target."""
    settings = open_running(project)
    name = pick(settings.targets, target, "target")
    from instep_streams.delivery.process import run

    run_process(f"deliver:{name}", lambda stop: run(settings, name, stop), metrics)


def agents(project: Project = HERE, metrics: Metrics = "") -> None:
    """Run the project's own agents: the functions that agents/*.py declares with @agent."""
    settings = open_running(project)
    from instep_streams.agents.process import run

    run_process("agents", lambda stop: run(settings, stop), metrics)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(invoke_without_command=True, epilog="Example: instep registry --project shop")
    group.callback()(registry)
    registry_doctor.attach(group)
    app.add_typer(group, name="registry")
    capture.register(app)
    app.command(epilog="Example: instep worker shop --project shop")(worker)
    app.command(epilog="Example: instep deliver crm --project shop")(deliver)
    app.command(epilog="Example: instep agents --project shop")(agents)
