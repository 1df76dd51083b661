"""Measure the registry: `python -m benchmarks.registry`."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.registry import codec, service
from instep_ops.embedded import silent

_FIGURES: tuple[tuple[str, str, int, float | None], ...] = (
    ("load_s", "start → can write, s", 2, -3),
    ("reads_per_s", "cached reads/s, one connection", 0, None),
    ("reads_per_cpu_s", "cached reads per CPU second of the registry", 0, 2_000),
    ("register_p50_ms", "register, 8 writers, p50 ms", 1, None),
    ("register_p99_ms", "… p99 ms", 1, -50),
    ("register_max_ms", "… slowest ms", 1, None),
    ("registers_per_s", "… per second", 0, None),
    ("full_check_ms", "FULL check, envelope of 100 columns, ms", 1, -15),
    ("encode_per_s", "encode, envelope of 20 columns, /s", 0, None),
    ("fastavro_encode_per_s", "… fastavro", 0, None),
    ("encode_factor", "… times fastavro's", 1, 2),
    ("decode_per_s", "decode, /s", 0, None),
    ("decode_3_columns_per_s", "… 3 of the columns", 0, None),
    ("fastavro_decode_per_s", "… fastavro", 0, None),
    ("decode_factor", "… times fastavro's", 1, 2),
    ("decode_3_columns_factor", "… 3 of the columns, times fastavro's", 1, 2),
)
"""Name, label, digits, goal: at least that much, or (negative) at most."""


def measure(subjects: int, writes: int, seconds: float) -> dict[str, float]:
    """Everything once."""
    with tempfile.TemporaryDirectory(prefix="instep-registry-") as name:
        folder = Path(name)
        with service.open_broker(folder / "kafka", silent) as kafka:
            service.fill(kafka, subjects)
            with service.running(folder / "registry", kafka) as (url, load_s, server):
                figures = {"load_s": load_s}
                figures |= service.reads(url, server, subjects, seconds)
                figures |= service.registering(url, 8, writes)
    figures["full_check_ms"] = codec.check_ms(100, seconds)
    figures |= codec.codecs(20, seconds)
    for name in ("encode", "decode", "decode_3_columns"):
        peer = figures[f"fastavro_{name.partition('_')[0]}_per_s"]
        figures[f"{name}_factor"] = figures[f"{name}_per_s"] / peer
    return figures


def show(figures: dict[str, float], console: Console) -> None:
    """Print the table."""
    table = Table("figure", "value", "goal")
    for name, label, digits, goal in _FIGURES:
        wanted = "" if goal is None else f"{'<' if goal < 0 else '≥'} {abs(goal):,}"
        table.add_row(label, f"{figures[name]:,.{digits}f}", wanted)
    console.print(table)
    console.print(f"load average of the machine at the end: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few subjects, short")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args(arguments)
    figures = measure(500, 10, 0.3) if options.quick else measure(10_000, 100, 3.0)
    show(figures, Console())
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
