"""`instep demo`: the whole product on this machine, with a shop's life going on in the store."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from instep.errors import ConfigError, EnvironmentFault

TARGETS = ("tryton", "none")

DEFAULT_RATE = 15.0
"""Changes per second that leave the CRM headroom: about half of them change a document, Tryton takes 30 to 40 a
second."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How the demo runs.

    Attributes:
        for_s: seconds the shop is open; 0: until Ctrl-C.
        rate: changes per second; 0: a pace that the CRM follows.
        scale: size of the shop; 1: 200 products, 150 customers, 300 orders.
        seed: decides the shop's life.
        target: `tryton` or `none`.
        chaos: kill a random process every few seconds.
        report: file for the final report as JSON.
        data: data folder; default: in the user's data directory.
        reset: start over.
        plain: lines instead of a live picture; always so when standard output is not a terminal.
    """

    for_s: float = 0
    rate: float = 0
    scale: float = 1.0
    seed: int = 1
    target: str = "tryton"
    chaos: bool = False
    report: Path | None = None
    data: Path | None = None
    reset: bool = False
    plain: bool = False


def run(options: DemoOptions) -> int:
    """Run the demo to its end and give the exit code: 0 when everything captured has an outcome and the CRM is right.

    Raises:
        InstepError: something a person must mend.
    """
    _check(options)
    from instep_ops.demo.show import Plain, Rich
    from instep_ops.demo.stage import Demo

    show = Plain() if options.plain or not sys.stdout.isatty() else Rich()
    return asyncio.run(Demo(options, show).run())


def _check(options: DemoOptions) -> None:
    """Refuse now what would else be found at the end, or never."""
    if options.target not in TARGETS:
        raise ConfigError(f"The demo has no CRM {options.target!r}.", f"Give one of: {', '.join(TARGETS)}.")
    if options.report is not None and not os.access(options.report.absolute().parent, os.W_OK | os.X_OK):
        raise EnvironmentFault(
            f"The report cannot be written to {options.report}.", "Name a file in a folder that exists and is yours."
        )
