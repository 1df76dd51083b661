"""Agents on a real broker: order, retry, dead letters, stopping; what is committed and what is not."""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from tests.streams.runtime.conftest import chunks_of, fill, numbers, running
from tests.streams.runtime.waiting import until

from instep.errors import KafkaFault, TargetError
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    OutRecord,
    RangeGone,
    Record,
    TopicSpec,
    committed,
    delete_records,
    ensure_topics,
    group_lag,
    read_topic,
)
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app, run_app

Unique = Callable[[str], str]


def polling(app: FlowApp) -> bool:
    return app.started and app.consumer._thread is not None  # type: ignore[attr-defined]  # of our Consumer


async def no_lag(kafka: KafkaSettings, group: str, topic: str) -> None:
    """Wait until all is committed, control records at the end of the partitions included."""
    async with asyncio.timeout(30):
        while any((await asyncio.to_thread(group_lag, kafka, group, [topic])).values()):
            pass


def collect(app: FlowApp, topic: str, seen: dict[int, list[int]]) -> None:
    """An agent that notes what it gets, per partition."""

    @flow_agent(app, [topic])
    async def note(batch: Batch) -> None:
        seen[batch.tp[1]] += numbers(batch)


async def test_batches_keep_the_order_of_their_partition_and_never_overlap_in_it(
    kafka: KafkaSettings, unique: Unique, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, out, group = unique("in"), unique("out"), unique("g")
    monkeypatch.chdir(tmp_path)
    await fill(kafka, topic, 4, 500)
    await asyncio.to_thread(ensure_topics, kafka, [TopicSpec(out, 4)])
    seen: dict[int, list[int]] = defaultdict(list)
    at_work: set[int] = set()
    most = 0
    app = flow_app(group, kafka, batch_size=50)

    @flow_agent(app, [topic], concurrency=3)
    async def work(batch: Batch) -> Sequence[OutRecord]:
        nonlocal most
        number = batch.tp[1]
        assert number not in at_work, "two batches of one partition at once"
        assert len(batch) <= 50 and len(batch) == len(batch.records)
        assert (batch.first, batch.last) == (batch.records[0].offset, batch.records[-1].offset)
        at_work.add(number)
        most = max(most, len(at_work))
        await asyncio.sleep(0.01)
        at_work.remove(number)
        seen[number] += numbers(batch)
        assert all(record.headers == (("h", record.value),) for record in batch.records)
        return [OutRecord(out, record.key, record.value, number) for record in batch.records]

    async with running(app):
        await until(lambda: sum(map(len, seen.values())) == 2000)
        await no_lag(kafka, group, topic)
    assert seen == {number: list(range(500)) for number in range(4)}
    assert most == 3
    found: dict[int, list[int]] = defaultdict(list)
    for record in await asyncio.to_thread(list, read_topic(kafka, out)):
        found[record.partition].append(int(record.value or b""))
    assert found == seen
    assert os.listdir(tmp_path) == [], "Faust's data folder"


async def test_a_restarted_group_goes_on_where_it_was(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 2, 30)
    seen: dict[int, list[int]] = defaultdict(list)
    for round_ in range(2):
        app = flow_app(group, kafka)
        collect(app, topic, seen)
        async with running(app):
            await until(lambda goal=60 * (round_ + 1): sum(map(len, seen.values())) >= goal)  # type: ignore[misc]
        if not round_:
            await fill(kafka, topic, 2, 30, first=30)
    assert seen == {0: list(range(60)), 1: list(range(60))}


async def test_a_failing_batch_holds_up_its_own_partition_only(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 3, 200)
    seen: dict[int, list[int]] = defaultdict(list)
    attempts: list[int] = []
    others_done_at_attempt = -1
    app = flow_app(group, kafka, batch_size=20)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        nonlocal others_done_at_attempt
        if batch.tp[1] == 1 and 100 in numbers(batch):
            attempts.append(batch.attempt)
            if batch.attempt < 4:
                raise ValueError("not yet")
            others_done_at_attempt = batch.attempt if len(seen[0]) == len(seen[2]) == 200 else -1
        seen[batch.tp[1]] += numbers(batch)

    async with running(app):
        await until(lambda: sum(map(len, seen.values())) >= 600)
    assert attempts == [0, 1, 2, 3, 4]
    assert others_done_at_attempt == 4, "the others waited for the failing partition"
    assert seen == {number: list(range(200)) for number in range(3)}


async def test_records_that_fail_for_good_go_to_the_dead_letters_alone(kafka: KafkaSettings, unique: Unique) -> None:
    topic, dead, group = unique("in"), unique("dead"), unique("g")
    await fill(kafka, topic, 2, 100)
    await asyncio.to_thread(ensure_topics, kafka, [TopicSpec(dead)])
    seen: dict[int, list[int]] = defaultdict(list)
    app = flow_app(group, kafka, batch_size=40)

    async def put_away(record: Record, error: Exception, failures: int) -> Sequence[OutRecord]:
        reason = f"{record.partition}/{record.offset} {error} {failures}"
        return [OutRecord(dead, record.key, record.value, headers=[("reason", reason.encode())])]

    @flow_agent(app, [topic], max_attempts=2, dead_letter=put_away)
    async def work(batch: Batch) -> None:
        if any(n % 33 == 7 for n in numbers(batch)):
            raise ValueError("poison")
        seen[batch.tp[1]] += numbers(batch)

    async with running(app):
        await until(lambda: sum(map(len, seen.values())) == 2 * 97)
        await no_lag(kafka, group, topic)
    good = [n for n in range(100) if n % 33 != 7]
    assert seen == {0: good, 1: good}
    letters = {(r.headers[0][1], r.value) for r in await asyncio.to_thread(list, read_topic(kafka, dead))}
    assert letters == {(b"%d/%d poison 2" % (p, n), b"%d" % n) for p in (0, 1) for n in (7, 40, 73)}


@pytest.mark.parametrize("how", ["raises", "no topic"])
async def test_a_dead_letter_that_cannot_be_written_ends_the_process_without_a_commit(
    kafka: KafkaSettings, unique: Unique, how: str
) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 10)
    app = flow_app(group, kafka, batch_size=5)

    async def put_away(record: Record, error: Exception, failures: int) -> Sequence[OutRecord]:
        if how == "raises":
            raise ValueError("disk full")
        return [OutRecord(unique("none"), record.key, record.value)]

    @flow_agent(app, [topic], max_attempts=1, dead_letter=put_away)
    async def work(batch: Batch) -> None:
        if 7 in numbers(batch):
            raise ValueError("poison")

    with pytest.raises(KafkaFault) as told:
        await asyncio.wait_for(run_app(app, asyncio.Event()), 60)
    assert ("disk full" if how == "raises" else unique("none")) in told.value.cause
    assert committed(kafka, group, [topic]) == {(topic, 0): 5}


async def test_what_a_person_must_mend_ends_the_process_without_a_commit(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 10)
    app = flow_app(group, kafka, batch_size=5)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        if batch.first:
            raise TargetError("The CRM refuses the key.", "Make a new one.")

    with pytest.raises(TargetError, match="refuses the key"):
        await asyncio.wait_for(run_app(app, asyncio.Event()), 60)
    assert committed(kafka, group, [topic]) == {(topic, 0): 5}


async def test_stopping_finishes_and_commits_the_begun_batch(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 100)
    begun, finish = asyncio.Event(), asyncio.Event()
    count = 0
    app = flow_app(group, kafka, batch_size=10)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        nonlocal count
        count += 1
        if count == 3:
            begun.set()
            assert not batch.revoked
            await batch.wait_revoked()
            assert batch.revoked
            await finish.wait()

    stop = asyncio.Event()
    task = asyncio.create_task(run_app(app, stop))
    await asyncio.wait_for(begun.wait(), 30)
    stop.set()
    await until(lambda: chunks_of(app).stopping)
    assert not task.done()
    finish.set()
    began = time.monotonic()
    await task
    assert time.monotonic() - began < 15  # drain_s is 30
    assert count == 3
    assert committed(kafka, group, [topic]) == {(topic, 0): 30}


async def test_stopping_leaves_a_hanging_batch_uncommitted(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 20)
    begun = asyncio.Event()
    app = flow_app(group, kafka, batch_size=10, drain_s=0.2)

    @flow_agent(app, [topic])
    async def work(batch: Batch) -> None:
        if batch.first:
            begun.set()
            await asyncio.Event().wait()

    stop = asyncio.Event()
    task = asyncio.create_task(run_app(app, stop))
    await asyncio.wait_for(begun.wait(), 30)
    stop.set()
    await asyncio.wait_for(task, 25)
    assert committed(kafka, group, [topic]) == {(topic, 0): 10}


async def test_records_deleted_before_they_were_processed_are_not_skipped_silently(
    kafka: KafkaSettings, unique: Unique
) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 10)
    seen: dict[int, list[int]] = defaultdict(list)
    app = flow_app(group, kafka)
    collect(app, topic, seen)
    async with running(app):
        await until(lambda: len(seen[0]) == 10)
    await fill(kafka, topic, 1, 10, first=10)
    await asyncio.to_thread(delete_records, kafka, {(topic, 0): 15})
    again = flow_app(group, kafka)
    collect(again, topic, seen)
    with pytest.raises(RangeGone, match=topic):
        await asyncio.wait_for(run_app(again, asyncio.Event()), 60)
    assert len(seen[0]) == 10


async def test_a_topic_may_come_into_being_later(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("in"), unique("g")
    seen: dict[int, list[int]] = defaultdict(list)
    app = flow_app(group, kafka)
    collect(app, topic, seen)
    async with running(app):
        await until(lambda: polling(app))
        await fill(kafka, topic, 1, 5)
        await until(lambda: len(seen[0]) == 5)


async def test_two_agents_of_one_app_both_get_every_batch_before_it_is_committed(
    kafka: KafkaSettings, unique: Unique
) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 1, 10)
    seen: dict[str, list[int]] = defaultdict(list)
    let_go = asyncio.Event()
    app = flow_app(group, kafka, batch_size=5)

    @flow_agent(app, [topic])
    async def quick(batch: Batch) -> None:
        seen["quick"] += numbers(batch)

    @flow_agent(app, [topic])
    async def slow(batch: Batch) -> None:
        await let_go.wait()
        seen["slow"] += numbers(batch)

    async with running(app):
        await until(lambda: len(seen["quick"]) == 5)
        assert chunks_of(app).uncommitted() == {}
        let_go.set()
        await until(lambda: len(seen["slow"]) == 10)
    assert seen == {"quick": list(range(10)), "slow": list(range(10))}


async def test_the_first_record_comes_soon_after_the_start(kafka: KafkaSettings, unique: Unique) -> None:
    topic = unique("in")
    await fill(kafka, topic, 1, 1)
    took = []
    for n in range(3):
        seen: dict[int, list[int]] = defaultdict(list)
        app = flow_app(unique(f"g{n}"), kafka)
        collect(app, topic, seen)
        began = time.monotonic()
        async with running(app):
            await until(lambda seen=seen: seen[0])  # type: ignore[misc]
            took.append(time.monotonic() - began)
    assert min(took) < 3  # the old default of the group coordinator waits 3 s for others
