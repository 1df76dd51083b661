"""`instep topics ls`, `show` and `tail`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from instep_ops.cli.options import HERE, Json, Project, open_running

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="As `instep topics ls` lists it.")]


def ls(
    every: Annotated[bool, typer.Option("--all", help="Every topic of the cluster, not only the project's.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """List the project's topics: what each is for, partitions, retention, size."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.planning.topics import listed

    found = listed(open_running(project), every)
    if as_json:
        show_json(found)
    else:
        names = ["topic", "purpose", "partitions", "cleanup", "offsets"]
        show_table("Topics", names, [[each[name] for name in names] for each in found])


def show(topic: Topic, project: Project = HERE, as_json: Json = False) -> None:
    """Show one topic: partitions with their offsets, settings, schemas."""
    from instep_ops.cli.screen import show_json, show_table
    from instep_ops.planning.subjects import administer
    from instep_ops.planning.topics import shown

    settings = open_running(project)
    with administer(settings) as admin:
        found = shown(settings, admin, topic)
    if as_json:
        show_json(found)
        return
    typer.echo(f"{topic}: {found['purpose'] or 'not of this project'}, replication {found['replication']}")
    show_table("", ["partition", "start", "end"], [list(each.values()) for each in found["partitions"]])
    here = found["set_here"]
    rows = [[name, value, "this topic" if name in here else "default"] for name, value in found["config"].items()]
    show_table("", ["setting", "value", "set by"], rows)
    typer.echo(f"Subjects: {', '.join(found['subjects']) or 'none'}")


def tail(
    topic: Topic,
    count: Annotated[int | None, typer.Option("--last", "-n", metavar="N", min=0, help="So many records.")] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From this time on: 2026-01-31T12:00:00Z, or 15m ago.")
    ] = None,
    position: Annotated[
        str | None, typer.Option("--from", metavar="POSITION", help="From this source position on, as `status` shows.")
    ] = None,
    offset: Annotated[int | None, typer.Option("--offset", metavar="N", min=0, help="From this offset on.")] = None,
    partition: Annotated[int | None, typer.Option("--partition", metavar="N", min=0, help="Only this one.")] = None,
    key: Annotated[
        list[str] | None, typer.Option("--key", metavar="KEY", help="Only this key (columns by comma); repeatable.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="FIELD=VALUE", help="Only where this holds (also !=); repeatable: all."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new records until Ctrl-C.")] = False,
    project: Project = HERE,
) -> None:
    """Show records, decoded, one JSON object a line. Without a beginning: the last 10."""
    from datetime import UTC, datetime

    from instep_ops.planning.subjects import administer
    from instep_ops.planning.tail import Condition, Tail, Wish
    from instep_ops.planning.topics import source_of
    from instep_ops.replaying import moment, place

    begins = since is not None or position is not None or offset is not None
    wish = Wish(
        since=None if since is None else moment(since, datetime.now(UTC)),
        position=None if position is None else place(position),
        offset=offset, partition=partition, keys=key or (), where=[Condition.parse(text) for text in where or ()],
        count=count if count is not None or begins else 10,
    )  # fmt: skip
    settings = open_running(project)
    with administer(settings) as admin:
        try:
            reader = Tail(settings.kafka, admin, topic, source_of(settings, topic))
            for shown in reader.read(wish, follow):
                typer.echo(json.dumps(shown, ensure_ascii=False, default=str))
        except KeyboardInterrupt:
            if not follow:
                raise


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The project's topics and their records.", no_args_is_help=True, rich_markup_mode=None)
    group.command(epilog="Example: instep topics ls --json")(ls)
    group.command(epilog="Example: instep topics show shop.public.products")(show)
    group.command(
        epilog="Example: instep topics tail shop.public.products --where op=d --where sku=A-7 --since 1h --follow"
    )(tail)
    app.add_typer(group, name="topics", epilog="Example: instep topics ls")
