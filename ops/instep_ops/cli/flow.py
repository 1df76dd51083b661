"""`instep flow check`, `explain`, `run` and `watch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, flow_name, open_project, open_running, pick

FlowName = Annotated[
    str | None, typer.Argument(metavar="[FLOW]", help="The flow, or its file; default: all (check), the only one.")
]


def check(flow: FlowName = None, project: Project = HERE, as_json: Json = False) -> None:
    """Compile flows against the store: say what they read, or why they are refused."""
    from instep_ops.cli.screen import show_json
    from instep_ops.flows import check_all, with_stores

    checks = check_all(with_stores(open_project(project)), [flow_name(flow)] if flow else None)
    if as_json:
        show_json({"ok": all(c.ok for c in checks), "checks": [c.to_dict() for c in checks]})
    else:
        for each in checks:
            typer.echo(each.line())
    code = max((each.exit_code for each in checks), default=0)
    if code:
        raise typer.Exit(code)


def explain(
    flow: FlowName = None,
    project: Project = HERE,
    as_json: Json = False,
    svg: Annotated[Path | None, typer.Option("--svg", metavar="FILE", help="Draw the graph into this file.")] = None,
    show: Annotated[bool, typer.Option("--open", help="Draw the graph and open it in the browser.")] = False,
) -> None:
    """Say how a change of which column finds which keys, as a Mermaid graph, and show PostgreSQL's plans."""
    import tempfile
    import webbrowser

    from instep.flowfile import load_all
    from instep_ops.cli.screen import show_json
    from instep_ops.drawing import draw
    from instep_ops.explaining import explain as look
    from instep_ops.flows import with_stores

    settings = with_stores(open_project(project))
    found = look(settings, pick(load_all(settings.flows_dir), flow and flow_name(flow), "flow"))
    if show and svg is None:
        svg = Path(tempfile.mkdtemp(prefix="instep-")) / f"{found.name}.svg"
    if svg is not None:
        svg.write_text(draw(found.graph, f"flow {found.name}"), encoding="utf-8")
        typer.echo(f"drawn: {svg}", err=True)
    if as_json:
        show_json(found.to_dict())
    else:
        typer.echo(found.text())
    if show and svg is not None:
        webbrowser.open(svg.resolve().as_uri())


def run(
    flow: FlowName = None,
    project: Project = HERE,
    as_json: Json = False,
    limit: Annotated[int, typer.Option("--limit", help="Show this many documents.", min=1)] = 20,
) -> None:
    """Evaluate a flow on the store now and show its documents; nothing is emitted."""
    from instep.flowfile import load_all
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.flows import evaluate, with_stores

    settings = with_stores(open_project(project))
    name = pick(load_all(settings.flows_dir), flow and flow_name(flow), "flow")
    documents = evaluate(settings, name, limit)
    if as_json:
        show_json(documents)
    else:
        show_table(name, list(documents[0]) if documents else [], [list(each.values()) for each in documents])


def watch(
    flow: FlowName = None,
    project: Project = HERE,
    as_json: Json = False,
    count: Annotated[int, typer.Option("--count", help="End after so many; 0: at Ctrl-C.", min=0)] = 0,
) -> None:
    """Show each document as it changes, field by field, with the changes of the store that caused it.

    With --json, one object a line.
    """
    import json
    from itertools import islice

    from instep.flowfile import load_all
    from instep_ops.watching import watch as follow

    settings = open_running(project)
    name = pick(load_all(settings.flows_dir), flow and flow_name(flow), "flow")
    found = follow(settings, name, lambda: typer.echo(f"watching {name}", err=True))
    for each in islice(found, count or None):
        shown = json.dumps(each.to_dict(), ensure_ascii=False, default=str) if as_json else "\n".join(each.lines())
        typer.echo(shown)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Check and try flows.", no_args_is_help=True, rich_markup_mode=None)
    group.command(epilog="Example: instep flow check product_card")(check)
    group.command(epilog="Example: instep flow explain product_card --svg card.svg")(explain)
    group.command(epilog="Example: instep flow run product_card --limit 5")(run)
    group.command(epilog="Example: instep flow watch product_card")(watch)
    app.add_typer(group, name="flow", epilog="Example: instep flow check")
