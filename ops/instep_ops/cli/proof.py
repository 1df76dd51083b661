"""`instep verify` and `instep replay`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from instep_ops.cli.options import HERE, Json, Metrics, Project, flow_name, open_running

if TYPE_CHECKING:
    from instep.settings import Settings
    from instep_ops.verification.rolling import Round
    from instep_ops.verify import Report


def verify(
    flow: Annotated[list[str] | None, typer.Argument(metavar="[FLOW]...", help="Flows; default: all.")] = None,
    target: Annotated[
        bool | None,
        typer.Option("--target/--no-target", help="Read the CRM back too (default), or prove the flow topics only."),
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Deliver the keys that differ in the CRM again.")] = False,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="Compare a few keys of the topics again and again, until stopped.")
    ] = False,
    rate: Annotated[
        float, typer.Option("--rate", metavar="KEYS", help="With --rolling: keys a second, at most.", min=0.2)
    ] = 20.0,
    metrics: Metrics = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Prove it: the SELECT on the store = the flow topic = the CRM, at one position, while everything runs.

    Exit code 0: equal; 1: differences, or keys that stayed undecided. With --rolling: one line per round and flow (with
    --json one object), metrics at --metrics; it ends at SIGTERM or Ctrl-C, with 1 if a key was found to differ.
    """
    from instep_ops.cli.screen import show_json
    from instep_ops.verify import verify as prove

    settings = open_running(project)
    names = [flow_name(each) for each in flow or ()] or None
    if rolling:
        _roll(settings, names, rate, metrics, as_json, whole=target is True or repair)
        return
    report = asyncio.run(
        prove(
            settings, names, target=target is not False, repair=repair, progress=lambda text: typer.echo(text, err=True)
        )
    )
    if as_json:
        show_json(report.to_dict())
    else:
        _show(report)
    if not report.ok:
        raise typer.Exit(1)


def _roll(
    settings: Settings, names: list[str] | None, rate: float, metrics: str, as_json: bool, *, whole: bool
) -> None:  # fmt: skip
    import json

    from instep.errors import ConfigError
    from instep.telemetry import serve_metrics
    from instep_ops.cli.runs import until_stopped
    from instep_ops.verification.rolling import roll

    if whole:
        raise ConfigError("--rolling compares flow topics only.", "Leave --target and --repair out.")
    if metrics:
        serve_metrics(metrics)
    clean = True

    def tell(each: Round) -> None:
        shown = json.dumps(each.to_dict(), ensure_ascii=False, default=str) if as_json else "\n".join(each.lines())
        typer.echo(shown)

    async def work(stop: asyncio.Event) -> None:
        nonlocal clean
        clean = await roll(settings, names, stop, tell, rate, lambda text: typer.echo(text, err=True))

    asyncio.run(until_stopped(work))
    if not clean:
        raise typer.Exit(1)


def _show(report: Report) -> None:
    from instep_ops.cli.screen import show_table

    for title, columns, rows in report.tables():
        show_table(title, columns, rows)
    typer.echo(report.sentence())


def replay(
    flow: Annotated[str, typer.Argument(metavar="FLOW", help="The flow whose documents are delivered again.")],
    since: Annotated[
        str | None,
        typer.Option(
            "--since", metavar="TIME", help="From this time on: 2026-01-31T12:00:00Z, or 90s, 15m, 2h, 1d ago."
        ),
    ] = None,
    position: Annotated[
        str | None,
        typer.Option("--from", metavar="POSITION", help="From this source position on, as `status` shows it."),
    ] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Only this key; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be delivered.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Deliver past documents of a flow again, beside the live flow, which never moves."""
    from instep_ops.cli.screen import show_json
    from instep_ops.replaying import replay as deliver_again

    settings = open_running(project)
    summary: dict[str, Any] = asyncio.run(
        deliver_again(settings, flow_name(flow), since=since, position=position, keys=key or [], dry_run=dry_run)
    )
    if as_json:
        show_json(summary)
    else:
        for name, value in summary.items():
            typer.echo(f"{name}: {value}")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog="Example: instep verify product_card --json")(verify)
    app.command(epilog="Example: instep replay product_card --since 15m --dry-run")(replay)
