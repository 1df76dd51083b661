"""Measure capture side by side: `python -m benchmarks.capture`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.capture import meters, report, trials
from benchmarks.capture.bed import Bed, open_bed
from benchmarks.capture.subjects import DEBEZIUM, INSTEP, LIMIT, SUBJECTS, TUNED, Subject
from benchmarks.capture.trials import Figures
from benchmarks.capture.workload import Workload

_TRIALS = ("drain", "snapshot", "start", "latency")
_SWEEP_TABLES = (10, 100, 1_000)
_SWEEP_PADS = (10, 100, 1_000, 10_000)
_SWEEP_BYTES = 200_000_000
_PARTITIONS = 4
"""Instep's default; Debezium's topics get as many."""


class Measurement:
    """One run: which subjects, how large, how often.

    Args:
        bed: the parts.
        options: of the command line.
        console: told what is being done.
    """

    def __init__(self, bed: Bed, options: argparse.Namespace, console: Console) -> None:
        self._bed, self._options, self._console = bed, options, console
        self.results: list[Figures] = []
        self._numbers = 0

    def run(self) -> None:
        """Measure; one trial after another, the subjects in turn within each round."""
        wanted = self._options.trials
        if {"drain", "start", "latency"} & set(wanted):
            workload = self._workload()
            workload.seed()
            subjects = self._subjects(workload, self._options.subjects)
            if "drain" in wanted:
                self._drains(workload, subjects, "drain", self._options.changes)
            publishing = [subject for subject in subjects if subject.publishes]
            if "start" in wanted:
                for subject in self._rounds(publishing, "start"):
                    self._keep(trials.start(self._bed, subject))
            if "latency" in wanted:
                self._latencies(publishing)
            _drop(subjects)
        if "snapshot" in wanted:
            self._snapshots()

    def sweep(self) -> None:
        """Measure the drain by number of tables, and by size of rows."""
        changes = self._options.changes // 5
        for tables in _SWEEP_TABLES:
            self._sweep_point(f"{tables:,} tables", self._workload(tables), changes)
        for pad in _SWEEP_PADS:
            fitting = min(changes, _SWEEP_BYTES // pad)
            self._sweep_point(f"text of {pad:,} bytes", self._workload(pad=pad), fitting)

    def _sweep_point(self, title: str, workload: Workload, changes: int) -> None:
        workload.seed()
        many = workload.tables > 10
        subjects = self._subjects(workload, self._options.subjects, 1 if many else _PARTITIONS)
        self._drains(workload, subjects, title, changes)
        _drop(subjects)

    def _drains(self, workload: Workload, subjects: Sequence[Subject], title: str, changes: int) -> None:
        for number in range(self._options.rounds):
            self._say(f"backlog of {changes:,} changes, round {number + 1}")
            made = workload.backlog(changes, self._options.tx_rows)
            for subject in _turned(subjects, number):
                self._say(f"{title}: {subject.name}")
                figures = trials.drain(self._bed, subject, made)
                figures.trial = title
                self._keep(figures)

    def _latencies(self, subjects: Sequence[Subject]) -> None:
        seconds, warm = self._options.seconds, self._options.warm
        for subject in self._rounds(subjects, "latency"):
            subject.start()
            try:
                subject.catch_up()
                for rate in self._options.rates:
                    self._keep(trials.latency(self._bed, subject, rate, seconds, warm))
            finally:
                subject.stop()

    def _snapshots(self) -> None:
        workload = self._workload()
        workload.rows(self._options.rows)
        names = [name for name in self._options.subjects if name not in (LIMIT, TUNED)]
        for number in range(self._options.rounds):
            subjects = self._subjects(workload, names, prepared=False)
            for subject in _turned(subjects, number):
                self._say(f"snapshot of {self._options.rows:,} rows: {subject.name}")
                self._keep(trials.snapshot(self._bed, subject, self._options.rows))
            _drop(subjects)

    def _workload(self, tables: int = 1, pad: int = 60) -> Workload:
        self._numbers += 1
        return Workload(self._bed.postgres.create_database(f"bench_{self._numbers}"), tables, pad)

    def _subjects(
        self, workload: Workload, names: Sequence[str], partitions: int = _PARTITIONS, *, prepared: bool = True
    ) -> list[Subject]:
        made = []
        for name in names:
            self._numbers += 1
            subject = SUBJECTS[name](self._bed, workload, f"n{self._numbers}", partitions)
            if prepared:
                self._say(f"preparing {name}")
                subject.prepare()
            made.append(subject)
        return made

    def _rounds(self, subjects: Sequence[Subject], title: str) -> Iterator[Subject]:
        for number in range(self._options.rounds):
            for subject in _turned(subjects, number):
                self._say(f"{title}: {subject.name}, round {number + 1}")
                yield subject

    def _keep(self, figures: Figures) -> None:
        self.results.append(figures)

    def _say(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", style="dim", highlight=False)


def _turned(subjects: Sequence[Subject], number: int) -> list[Subject]:
    """Another subject goes first in each round."""
    at = number % len(subjects) if subjects else 0
    return [*subjects[at:], *subjects[:at]]


def _drop(subjects: Sequence[Subject]) -> None:
    for subject in subjects:
        subject.drop()


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True)
        yield keep
        return
    made = Path(tempfile.mkdtemp(prefix="instep-bench-"))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _names(allowed: Sequence[str]) -> type:
    class Names(argparse.Action):
        def __call__(self, parser, namespace, values, option_string=None):  # type: ignore[no-untyped-def]  # argparse's
            names = str(values).split(",")
            if unknown := set(names) - set(allowed):
                parser.error(f"{option_string}: {', '.join(sorted(unknown))} is not one of {', '.join(allowed)}")
            setattr(namespace, self.dest, names)

    return Names


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capture", description=__doc__)
    parser.add_argument("--subjects", action=_names(tuple(SUBJECTS)), help=f"some of {','.join(SUBJECTS)}")
    parser.add_argument("--trials", action=_names(_TRIALS), default=list(_TRIALS), help=f"some of {','.join(_TRIALS)}")
    parser.add_argument("--changes", type=int, default=1_000_000, help="size of the backlog")
    parser.add_argument("--rows", type=int, help="size of the snapshot; default: as --changes")
    parser.add_argument("--tx-rows", type=int, default=10, help="changes per transaction of the backlog")
    parser.add_argument("--rounds", type=int, default=3, help="how often each trial is run")
    parser.add_argument("--rates", type=lambda text: [int(x) for x in text.split(",")], default=[1_000, 5_000])
    parser.add_argument("--seconds", type=int, default=30, help="of each latency trial")
    parser.add_argument("--warm", type=int, default=10, help="seconds of load before them")
    parser.add_argument("--sweep", action="store_true", help="instead: the drain by number of tables and size of rows")
    parser.add_argument("--quick", action="store_true", help="a smoke test: small, one round, without Debezium")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="run in this new folder and keep it")
    options = parser.parse_args(words)
    if options.quick:
        options.changes, options.rounds, options.seconds, options.warm = 20_000, 1, 4, 1
    options.rows = options.rows or options.changes
    options.subjects = options.subjects or [
        name for name in SUBJECTS if not (options.quick and name in (DEBEZIUM, TUNED))
    ]
    return options


def main(words: Sequence[str] | None = None) -> int:
    """Run it; 0 when every subject delivered every change."""
    options = _options(words)
    console = Console(stderr=True)
    header = {"machine": meters.machine(), "commit": meters.commit(), "date": time.strftime("%Y-%m-%d %H:%M")}
    with _folder(options.keep) as folder, open_bed(folder, lambda text, part: None) as bed:
        measurement = Measurement(bed, options, console)
        (measurement.sweep if options.sweep else measurement.run)()
    out = Console(width=None if sys.stdout.isatty() else 160)
    out.print(f"{header['machine']}; commit {header['commit']}; {header['date']}", highlight=False, soft_wrap=True)
    out.print(
        f"{options.changes:,} changes, {options.rows:,} rows, {options.tx_rows} changes per transaction, "
        f"{options.rounds} rounds", highlight=False,
    )  # fmt: skip
    (report.show_sweep if options.sweep else report.show)(measurement.results, out)
    if options.json:
        options.json.write_text(json.dumps(report.to_json(measurement.results, header), indent=1) + "\n")
    short = [
        r
        for r in measurement.results
        if r.notes.get("delivered", 0) < r.notes.get("changes", 0) and INSTEP in r.subject
    ]
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
