"""Capture's metrics, beside those every process has (`instep.telemetry`)."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from instep.journal import JournalEntry
from instep.telemetry import METRICS
from instep_connectors.postgres.guard import Health
from instep_connectors.postgres.slot import Slot
from instep_streams.capture.batch import COUNTED

TABLE_CHANGES: Final = Counter(
    "instep_table_changes", "Changes captured of a table, by operation.", ["source", "table", "op"], registry=METRICS
)
BATCH_CHANGES: Final = Histogram(
    "instep_batch_changes", "Changes in one Kafka transaction.", ["source"],
    buckets=(1, 5, 10, 50, 100, 500, 1000, 2000, 5000, 10000), registry=METRICS,
)  # fmt: skip
TRANSACTION: Final = Histogram(
    "instep_kafka_transaction_seconds", "From a batch's first record to its commit in Kafka.", ["source"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30), registry=METRICS,
)  # fmt: skip
BEHIND: Final = Gauge(
    "instep_capture_lag_bytes", "WAL written behind what the slot has confirmed.",
    ["source", "step"], registry=METRICS,
)  # fmt: skip
RETAINED: Final = Gauge(
    "instep_slot_retained_bytes", "WAL that the store keeps for the slot.", ["source"], registry=METRICS
)
LIMIT: Final = Gauge(
    "instep_slot_limit_bytes", "WAL that may be kept: wal_budget or max_slot_wal_keep_size.", ["source"],
    registry=METRICS,
)  # fmt: skip
FULL_IN: Final = Gauge(
    "instep_slot_full_minutes", "Minutes to that limit at the present rate; +Inf: it does not grow.", ["source"],
    registry=METRICS,
)  # fmt: skip
HEALTH: Final = Gauge(
    "instep_slot_health", "0 fine, 1 near its limit, 2 past it, 3 lost.", ["source"], registry=METRICS
)


HELD: Final = Gauge(
    "instep_table_stopped", "1: the registry refuses the table's schema, and its changes wait.", ["source", "table"],
    registry=METRICS,
)  # fmt: skip


def count_batch(source: str, entry: JournalEntry) -> None:
    """Count a committed batch."""
    if not entry.changes:
        return
    BATCH_CHANGES.labels(source).observe(entry.changes)
    for table, counts in entry.counts.items():
        for op in COUNTED:
            if number := getattr(counts, op):
                TABLE_CHANGES.labels(source, table, op).inc(number)


def show_slot(source: str, slot: Slot, health: Health) -> None:
    """Show a look at the slot."""
    RETAINED.labels(source).set(health.retained)
    BEHIND.labels(source, "confirmed").set(slot.lag_bytes)
    LIMIT.labels(source).set(float("inf") if health.limit is None else health.limit)
    FULL_IN.labels(source).set(float("inf") if health.minutes is None else health.minutes)
    HEALTH.labels(source).set(health.level)
