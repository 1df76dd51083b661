"""`instep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    for_s: Annotated[float, typer.Option("--for", metavar="SECONDS", help="Stop by itself; 0: at Ctrl-C.", min=0)] = 0,
    rate: Annotated[
        float, typer.Option("--rate", help="Changes per second of the shop; 0: a pace the CRM follows.", min=0)
    ] = 0,
    scale: Annotated[float, typer.Option("--scale", help="Size of the shop; 1: 200 products.", min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option("--seed", help="The shop's life is the same for the same seed.")] = 1,
    target: Annotated[str, typer.Option("--target", help="The CRM: tryton, or none.")] = "tryton",
    chaos: Annotated[bool, typer.Option("--chaos", help="Kill a random process every 5 seconds.")] = False,
    report: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the final report here.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Data folder; default: in the user's data directory.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Start over: forget what the data folder holds.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a live picture.")] = False,
) -> None:
    """Run the whole product here: a shop's database, Kafka, the flows and a real CRM; ends with a proof."""
    from instep_ops.demo.command import DemoOptions, run

    code = run(
        DemoOptions(
            for_s=for_s, rate=rate, scale=scale, seed=seed, target=target, chaos=chaos, report=report, data=data,
            reset=reset, plain=plain,
        )
    )  # fmt: skip
    if code:
        raise typer.Exit(code)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: instep demo --for 60 --json report.json")(demo)
