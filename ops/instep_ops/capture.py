"""What `instep capture status` shows, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instep_connectors.postgres.guard import shown
from instep_ops.verification.report import Table


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The report of `instep_streams.capture.report` for a person."""
    steps = [
        (each["step"], each["position"], _bytes(each["bytes"]), _seconds(each["seconds"])) for each in found["steps"]
    ]
    recent = found["recent"]
    rates = [
        (table, sums["per_second"], ", ".join(f"{op} {n}" for op, n in sums.items() if op != "per_second"))
        for table, sums in recent["tables"].items()
    ]
    latency = [(f"commit to topic, ms: {name}", value) for name, value in recent["commit_to_topic_ms"].items()]
    batches = [*recent["batches"].items(), *latency] if recent["batches"]["count"] else []
    return [
        ("Steps", ("step", "position", "behind", "seconds"), steps),
        ("Copies", ("table", "state", "rows", "of about", "rows/s", "seconds left"), _copies(found["snapshot"])),
        ("Slot", ("what", "value"), _slot(found["slot"])),
        (
            "Stopped tables",
            ("table", "changes that wait", "reason"),
            [tuple(each.values()) for each in found["stopped"]],
        ),
        (f"Tables, last {recent['seconds']:.0f} s", ("table", "changes/s", "changes"), rates),
        (f"Batches, last {recent['seconds']:.0f} s", ("what", "value"), batches),
    ]


def _copies(copies: Sequence[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    def shown(each: Mapping[str, Any], name: str) -> Any:
        return "?" if each[name] is None else each[name]

    names = ("table", "state", "rows", "total", "rate", "left_s")
    return [tuple(shown(each, name) for name in names) for each in copies]


def _slot(slot: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    if slot is None:
        return []
    minutes = slot["full_in_minutes"]
    return [
        ("name", slot["name"]),
        ("health", slot["level"]),
        ("retained", _bytes(slot["retained_bytes"])),
        ("limit", "none" if slot["limit_bytes"] is None else _bytes(slot["limit_bytes"])),
        ("full in", "" if minutes is None else f"{minutes} min"),
        ("WAL status", slot["wal_status"]),
        ("server process", slot["active_pid"] or "none"),
    ]


def _bytes(size: float | None) -> str:
    return "?" if size is None else shown(size)


def _seconds(age: float | None) -> str:
    return "" if age is None else f"{age:.1f}"
