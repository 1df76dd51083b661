"""Measure flows: `python -m benchmarks.flows`."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.capture import meters
from benchmarks.flows import engine, path, peer
from benchmarks.flows.engine import Sizes
from benchmarks.flows.state import running_state

_QUICK = Sizes(products=2_000, changes=4_000, singles=300, seconds=5)


def main() -> None:
    """Measure, print a line per trial, write JSON."""
    given = _arguments()
    sizes = _QUICK if given.quick else Sizes(given.products, given.changes, 2_000, given.seconds)
    about: dict[str, Any] = {
        "machine": meters.machine(),
        "commit": meters.commit(),
        "sizes": {n: getattr(sizes, n) for n in _NAMES},
    }
    print(about["machine"], about["commit"])
    results: list[dict[str, Any]] = []
    started, others = time.perf_counter(), meters.busy_s()
    with tempfile.TemporaryDirectory(prefix="instep-bench-") as folder:
        if "engine" in given.trials or given.sweep:
            with running_state(Path(folder) / "state", "bench") as server:
                if "engine" in given.trials:
                    for trial, figures in engine.measure(server, sizes):
                        _tell(results, "engine", trial, figures)
                for trial, figures in engine.sweep(server, given.sweep, sizes.changes):
                    _tell(results, "sweep", trial, figures)
        if "stock" in given.trials:
            smaller = replace(sizes, products=min(sizes.products, _PEER), changes=min(sizes.changes, 2 * _PEER))
            for trial, figures in peer.measure(Path(folder), smaller):
                _tell(results, "stock Faust", trial, figures)
        if "path" in given.trials:
            for trial, figures in path.measure(Path(folder), sizes):
                _tell(results, "path", trial, figures)
    about["busy_cores"] = (meters.busy_s() - others) / (time.perf_counter() - started)
    print(f"the machine was busy with {about['busy_cores']:.1f} cores on average, others included")
    if given.json is not None:
        given.json.write_text(json.dumps(about | {"results": results}, indent=1), encoding="utf-8")


_TRIALS = ("engine", "path", "stock")
_PEER = 5_000
_SWEEP = (10_000, 100_000, 1_000_000)
"""The last takes some three minutes and 10 GB of disk."""
_NAMES = ("products", "changes", "singles", "seconds")


def _tell(results: list[dict[str, Any]], subject: str, trial: str, figures: engine.Figures) -> None:
    results.append({"subject": subject, "trial": trial, "figures": figures})
    shown = ", ".join(
        f"{name} {value:,.0f}" if value >= 100 else f"{name} {value:.2f}" for name, value in figures.items()
    )
    print(f"{subject}: {trial}: {shown}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flows", description=__doc__)
    parser.add_argument("--products", type=int, default=100_000, help="products of the shop (100000)")
    parser.add_argument("--changes", type=int, default=50_000, help="changes of the mix (50000)")
    parser.add_argument("--seconds", type=int, default=30, help="of steady load (30)")
    parser.add_argument("--trials", nargs="*", choices=_TRIALS, default=("engine", "path"))
    parser.add_argument(
        "--sweep",
        nargs="*",
        type=int,
        default=(),
        metavar="PRODUCTS",
        help=f"also what a change costs in shops of these sizes ({' '.join(map(str, _SWEEP))})",
    )
    parser.add_argument("--quick", action="store_true", help="a smoke test of less than a minute")
    parser.add_argument("--json", type=Path, help="write everything measured")
    given = parser.parse_args()
    given.sweep = given.sweep or (_SWEEP if given.sweep == [] else ())
    return given


if __name__ == "__main__":
    main()
