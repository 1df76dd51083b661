"""What delivery has done and what waits: for `instep status`, `instep verify` and the demo's report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from instep.journal import TopicPartition
from instep.protocols import Key
from instep.settings import KafkaSettings, Settings
from instep.topics import flow_topic
from instep_connectors.kafka import RangeReader, Record, committed, end_offsets, group_lag, start_offsets
from instep_streams.delivery.deadletters import open_letters
from instep_streams.delivery.decide import GONE, Kind
from instep_streams.delivery.ledger import Ledger, key_of, key_text
from instep_streams.delivery.process import group
from instep_streams.delivery.sinks import target_flows

_COUNTS: Final = "SELECT outcome, count(*) FROM instep_delivery.outcomes WHERE target = %(target)s GROUP BY outcome"
_RETRIES: Final = (
    "SELECT coalesce(sum(greatest(attempts - 1, 0)), 0) FROM instep_delivery.outcomes WHERE target = %(target)s"
)
_LATENCIES: Final = """
SELECT count(*), percentile_disc(ARRAY[0.5, 0.95, 0.99, 1.0]) WITHIN GROUP (ORDER BY delivered_us - committed_us)
FROM instep_delivery.outcomes
WHERE target = %(target)s AND delivered_us >= %(since)s AND committed_us > 0 AND outcome IN ('written', 'unchanged')
"""
_APPLIED: Final = """
SELECT key, a.version, a.digest, a.target_id, r.version, r.code, r.message
FROM (SELECT * FROM instep_delivery.applied WHERE target = %(target)s AND flow = %(flow)s) a
FULL JOIN (
    SELECT DISTINCT ON (key) key, version, code, message FROM instep_delivery.outcomes
    WHERE target = %(target)s AND flow = %(flow)s AND outcome = 'rejected' ORDER BY key, version DESC
) r USING (key)
WHERE %(keys)s::text[] IS NULL OR key = ANY (%(keys)s)
"""


@dataclass(frozen=True, slots=True)
class AppliedState:
    """What the ledger knows of one key in a target.

    Attributes:
        version: newest version that the target took; 0: none.
        deleted: that version is a tombstone.
        target_id: the target's identifier of the record.
        rejected_version: newest rejected version that no newer one has followed; None: no such.
        code: why it was rejected.
        message: the target's own words.
    """

    version: int = 0
    deleted: bool = False
    target_id: str = ""
    rejected_version: int | None = None
    code: str | None = None
    message: str | None = None


async def status(settings: Settings, target: str) -> dict[str, Any]:
    """Outcome counts, what waits and dead letters of a target.

    Returns:
        `outcomes` {kind: count}, `retries` (calls that had to be made again), `waiting` (records not committed yet),
        `oldest_waiting_us` (commit time in the store of the oldest of them, microseconds since the Unix epoch; None),
        `dead_letters` (open ones), `latency_ms` of all time (see `latencies`).

    Raises:
        ConnectionError: the state database or Kafka does not answer.
        InstepError: they refuse, or there is no such target.
    """
    names = [flow_topic(name) for name in target_flows(settings, target)]
    waiting, oldest = await asyncio.to_thread(_waiting, settings.kafka, group(settings, target), names)
    async with _ledger(settings, target) as ledger:
        counts = dict.fromkeys((kind.value for kind in Kind), 0)
        counts |= {str(row[0]): int(row[1]) for row in await ledger.fetch(_COUNTS, {})}
        return {
            "outcomes": counts,
            "retries": int((await ledger.fetch(_RETRIES, {}))[0][0]),
            "waiting": waiting,
            "oldest_waiting_us": oldest,
            "dead_letters": len(await open_letters(ledger)),
            "latency_ms": await _latencies(ledger, 0),
        }


async def latencies(settings: Settings, target: str, since_us: int = 0) -> dict[str, float | int | None]:
    """Milliseconds from the commit in the store until the target had the document, of written and unchanged ones.

    Args:
        settings: the project's.
        target: its name.
        since_us: only outcomes recorded from then on, microseconds since the Unix epoch.

    Returns:
        `count`, and `p50`, `p95`, `p99`, `max` in milliseconds (None without any). Documents of a snapshot or a seed
        have no commit time and do not count.

    Raises:
        ConnectionError: the state database does not answer.
        StateError: it refuses.
    """
    async with _ledger(settings, target) as ledger:
        return await _latencies(ledger, since_us)


async def applied(
    settings: Settings, target: str, flow: str, keys: Iterable[Key] | None = None
) -> dict[Key, AppliedState]:
    """What the ledger knows of a flow's keys (None: all it has ever seen with an outcome of the target).

    Raises:
        ConnectionError: the state database does not answer.
        StateError: it refuses.
    """
    async with _ledger(settings, target) as ledger:
        rows = await ledger.fetch(
            _APPLIED, {"flow": flow, "keys": None if keys is None else [key_text(key) for key in keys]}
        )
    return {key_of(row[0]): _state(*row[1:]) for row in rows}


def _state(
    version: int | None, digest: str | None, target_id: str | None, rejected: int | None, code: str, message: str
) -> AppliedState:
    open_letter = rejected is not None and rejected > (version or 0)
    return AppliedState(
        version or 0,
        digest == GONE,
        target_id or "",
        rejected if open_letter else None,
        code if open_letter else None,
        message if open_letter else None,
    )


@asynccontextmanager
async def _ledger(settings: Settings, target: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(settings.state.dsn.reveal(), target)
    try:
        await ledger.open()
        yield ledger
    finally:
        await ledger.aclose()


async def _latencies(ledger: Ledger, since_us: int) -> dict[str, float | int | None]:
    ((count, found),) = await ledger.fetch(_LATENCIES, {"since": since_us})
    values = [None] * 4 if found is None else [each / 1000 for each in found]
    return {"count": count, **dict(zip(("p50", "p95", "p99", "max"), values, strict=True))}


def _waiting(kafka: KafkaSettings, group_id: str, names: list[str]) -> tuple[int, int | None]:
    lags = {tp: lag for tp, lag in group_lag(kafka, group_id, names).items() if lag}
    if not lags:
        return 0, None
    done, ends = committed(kafka, group_id, names), end_offsets(kafka, lags)
    starts = start_offsets(kafka, [tp for tp in lags if tp not in done])
    reader = RangeReader(kafka)
    try:
        found = [_first(reader, tp, done.get(tp, starts.get(tp, 0)), ends[tp]) for tp in lags]
    finally:
        reader.close()
    return sum(lags.values()), min((_commit_time(record) for record in found if record is not None), default=None)


def _first(reader: RangeReader, tp: TopicPartition, start: int, end: int) -> Record | None:
    return next(iter(reader.read({tp: (start, end)})), None)


def _commit_time(record: Record) -> int:
    committed_us = int.from_bytes(dict(record.headers).get("instep.committed_us", b""), "big")
    return committed_us or record.timestamp_ms * 1000
