"""One measurement each. All take a subject that is stopped and leave it stopped."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from benchmarks.capture import meters
from benchmarks.capture.bed import Bed, until
from benchmarks.capture.subjects import Subject
from benchmarks.capture.topics import Listener
from benchmarks.capture.workload import WRITERS, paced

_LOOK_S = 0.05
_PATIENCE_S = 600.0
_SAMPLES = 10_000


@dataclass(slots=True)
class Figures:
    """What one trial of one subject gave; figures by name, None where the subject has none."""

    trial: str
    subject: str
    figures: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Costs:
    """CPU seconds spent so far, by who spent them."""

    subject: float
    store: float
    broker: float
    others: float

    @classmethod
    def now(cls, bed: Bed, subject: Subject) -> _Costs:
        own = meters.cpu_s(subject.server.pid)
        store, broker = meters.cpu_s(bed.postgres.pid), meters.cpu_s(bed.kafka.pid)
        known = own + store + broker + meters.cpu_s(bed.registry.pid) + sum(os.times()[:2])
        return cls(own, store, broker, meters.busy_s() - known)


@dataclass(frozen=True, slots=True)
class _Mark:
    """So much was done at this time (seconds since the start) at these costs."""

    at: float
    done: int
    costs: _Costs


def drain(bed: Bed, subject: Subject, changes: int) -> Figures:
    """Let a stopped subject work off a backlog that is in the WAL already."""
    if not subject.publishes:
        return _read_through(bed, subject, changes)
    topics = bed.topics
    subject.finish()
    base, before = topics.ends(subject.data_topics), subject.finished()
    done = _grown(subject, sum(base.values()))
    marks, peak = _watch(bed, subject, done, lambda: subject.finished() > before)
    found, size = topics.delivered(base, topics.ends(subject.data_topics))
    result = _paces("drain", subject, marks, changes, peak)
    result.notes |= {"changes": changes, "delivered": found, "value_bytes": size}
    return result


def snapshot(bed: Bed, subject: Subject, rows: int) -> Figures:
    """Let a new subject take a table that is there already."""
    told = False

    def finished() -> bool:
        nonlocal told
        if not told and any(bed.topics.ends(subject.data_topics).values()):
            subject.finish()  # now there is a slot: this change comes behind the snapshot
            told = True
        return told and subject.finished() > 0

    marks, peak = _watch(bed, subject, _grown(subject, 0), finished)
    found, size = bed.topics.delivered({}, bed.topics.ends(subject.data_topics))
    result = _paces("snapshot", subject, marks, rows, peak)
    result.notes |= {"changes": rows, "delivered": found, "value_bytes": size}
    return result


def start(bed: Bed, subject: Subject) -> Figures:
    """How long from the start of the process until a change that waited can be read."""
    subject.finish()
    before = subject.finished()
    begun = time.monotonic()
    subject.start()
    try:
        while subject.finished() <= before:
            until(begun + _PATIENCE_S, "the first change", subject.server)
            time.sleep(0.01)
        taken = time.monotonic() - begun
        figures = {"first_s": taken, "cpu_s": meters.cpu_s(subject.server.pid)}
    finally:
        subject.stop()
    return Figures("start", subject.name, figures)


def latency(bed: Bed, subject: Subject, per_s: int, seconds: int, warm_s: int) -> Figures:
    """Commit in the store until a `read_committed` consumer has the change, at a steady rate; the subject runs."""
    tx_rows = 1 if per_s < 5_000 else 10
    step = 10 * WRITERS
    changes = per_s * (seconds + warm_s) // step * step
    workload = subject.workload
    listener = Listener(bed.topics, subject.topic("b1"), max(1, changes // _SAMPLES))
    costs = _Costs.now(bed, subject)
    begun = time.monotonic()
    try:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            load = pool.submit(
                paced, workload.dsn, workload.share(changes), changes, per_s, tx_rows, workload.pad
            ).result()
        deadline = time.monotonic() + 30
        while listener.seen < changes and time.monotonic() < deadline:
            until(deadline + 1, "the load", subject.server)
            time.sleep(_LOOK_S)
    finally:
        listener.close()
    spent, elapsed = _Costs.now(bed, subject), time.monotonic() - begun
    times = bed.topics.source_times_us(arrival.value for arrival in listener.arrivals)
    since = min(times) + warm_s * 1_000_000
    waits = sorted((a.at_us - t) / 1000 for a, t in zip(listener.arrivals, times, strict=True) if t >= since)
    figures = {
        "p50_ms": _quantile(waits, 0.5),
        "p99_ms": _quantile(waits, 0.99),
        "max_ms": waits[-1],
        "cpu_cores": (spent.subject - costs.subject) / elapsed,
        "peak_mb": meters.peak_mb(subject.server.pid),
    }
    notes = {"samples": len(waits), "changes": changes, "delivered": listener.seen, "load": asdict(load)}
    return Figures(f"latency at {per_s:,}/s", subject.name, figures, notes)


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _grown(subject: Subject, base: int) -> Callable[[], int]:
    return lambda: sum(subject.bed.topics.ends(subject.data_topics).values()) - base


def _read_through(bed: Bed, subject: Subject, changes: int) -> Figures:
    """The drain of a subject that only reads: progress is what the store has sent it."""
    with psycopg.connect(subject.workload.dsn, autocommit=True) as conn:

        def number(query: str) -> int:
            row = conn.execute(query.encode(), (subject.slot,) if "%s" in query else ()).fetchone()
            return int(row[0]) if row and row[0] is not None else 0

        target = number("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
        base = number("SELECT confirmed_flush_lsn - '0/0'::pg_lsn FROM pg_replication_slots WHERE slot_name = %s")
        sent = (
            "SELECT r.sent_lsn - '0/0'::pg_lsn FROM pg_stat_replication r JOIN pg_replication_slots s"
            " ON s.active_pid = r.pid WHERE s.slot_name = %s"
        )

        def done() -> int:
            return max(0, number(sent) - base)

        subject.finish()  # behind the target: makes the store send up to it
        marks, peak = _watch(bed, subject, done, lambda: done() >= target - base)
    result = _paces("drain", subject, marks, changes, peak)
    result.notes["changes"] = changes
    return result


def _watch(
    bed: Bed, subject: Subject, done: Callable[[], int], finished: Callable[[], bool]
) -> tuple[list[_Mark], float]:
    """Start a subject, note how its work grows until it is finished, stop it; gives the marks and its peak memory."""
    begun = time.monotonic()
    marks = [_Mark(0.0, 0, _Costs.now(bed, subject))]
    subject.start()
    try:
        last = False
        while not last:
            last = finished()  # before `done`, so that the last mark holds everything
            now = done()
            if now > marks[-1].done:
                marks.append(_Mark(time.monotonic() - begun, now, _Costs.now(bed, subject)))
            until(begun + _PATIENCE_S, "the end of the work", subject.server)
            if not last:
                time.sleep(_LOOK_S)
        peak = meters.peak_mb(subject.server.pid)
    finally:
        subject.stop()
    return marks, peak


def _paces(trial: str, subject: Subject, marks: list[_Mark], changes: int, peak: float) -> Figures:
    """Figures from the marks.

    How much was done is counted in offsets (tombstones and transaction markers among them) or bytes: their share of the
    whole is the share of the changes. Rates and costs run from the first mark with work in it, so that the start of a
    process, which has a row of its own, is not in them; a warm rate is that of the second half.
    """
    if len(marks) < 2:
        raise RuntimeError(f"{subject.name} finished a {trial} without a change in its topics")
    whole = marks[-1].done
    first = marks[1] if len(marks) > 2 else marks[0]
    half = next(mark for mark in marks if mark.done * 2 >= whole)
    last = marks[-1]

    def pace(since: _Mark) -> float:
        return changes * (last.done - since.done) / whole / max(last.at - since.at, 1e-9)

    part = changes * (last.done - first.done) / whole / 1e6
    a, b = first.costs, last.costs
    figures = {
        "per_s": pace(first),
        "warm_per_s": pace(half) if half is not last else pace(first),
        "first_s": marks[1].at,
        "whole_s": last.at,
        "cpu_s_per_million": (b.subject - a.subject) / part,
        "store_cpu_s_per_million": (b.store - a.store) / part,
        "broker_cpu_s_per_million": (b.broker - a.broker) / part,
        "others_cores": (b.others - a.others) / max(last.at - first.at, 1e-9),
        "peak_mb": peak,
    }
    return Figures(trial, subject.name, figures)
