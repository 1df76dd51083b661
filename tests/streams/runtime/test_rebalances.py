"""Partitions that move between the members of a group: what was begun is finished, nothing is lost or comes twice."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest
from tests.streams.runtime.conftest import chunks_of, fill, numbers, running
from tests.streams.runtime.waiting import until

from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    committed,
)
from instep_streams.runtime import Batch, FlowApp, flow_agent, flow_app
from instep_streams.runtime.consumer import Consumer

Unique = Callable[[str], str]


async def test_a_moving_partition_is_finished_before_it_goes_and_nothing_comes_twice(
    kafka: KafkaSettings, unique: Unique
) -> None:
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 4, 2000)
    done: Counter[tuple[int, int]] = Counter()
    by_app: dict[str, set[int]] = defaultdict(set)
    moved: list[str] = []

    def member(name: str) -> FlowApp:
        app = flow_app(group, kafka, batch_size=5)

        @flow_agent(app, [topic], concurrency=4)
        async def work(batch: Batch) -> None:
            by_app[name].add(batch.tp[1])
            await asyncio.sleep(0 if moved and by_app["second"] else 0.05)
            if batch.revoked:
                moved.append(name)
            done.update((batch.tp[1], n) for n in numbers(batch))

        return app

    async with running(member("first")):
        await until(lambda: len(done) > 100)
        async with running(member("second")):
            await until(lambda: by_app["second"])
            await until(lambda: len(done) == 8000)
    assert moved, "no batch was in flight when its partition moved: the test proves nothing"
    assert set(done.values()) == {1}
    assert by_app["second"] < by_app["first"] == {0, 1, 2, 3}


async def test_a_commit_that_comes_too_late_does_not_put_back_what_moved(
    kafka: KafkaSettings, unique: Unique, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker takes a commit of any member, also for a partition that another one has by now."""
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 2, 200)
    seen: Counter[tuple[int, int]] = Counter()
    go_on = asyncio.Event()
    late: list[tuple[TopicPartition, asyncio.Task[bool]]] = []

    def member(go_on: asyncio.Event) -> FlowApp:
        app = flow_app(group, kafka, batch_size=5)

        @flow_agent(app, [topic], concurrency=2)
        async def work(batch: Batch) -> None:
            await asyncio.sleep(0.02)
            await go_on.wait()
            seen.update((batch.tp[1], n) for n in numbers(batch))

        return app

    at_once = asyncio.Event()
    at_once.set()
    first = member(at_once)
    async with running(first):
        await until(lambda: len(seen) > 50)
        consumer = first.consumer
        assert isinstance(consumer, Consumer)
        gone = consumer.gone

        async def commits_late(tps: list[TopicPartition]) -> None:
            late.extend((tp, asyncio.create_task(consumer._commit({tp: 5}))) for tp in tps)
            await gone(tps)

        monkeypatch.setattr(consumer, "gone", commits_late)
        async with running(member(go_on)):
            await until(lambda: late)
            tp, task = late[0]
            assert await task
            assert (await asyncio.to_thread(committed, kafka, group, [topic]))[tp] > 5
            go_on.set()
            await until(lambda: len(seen) == 400)
    assert set(seen.values()) == {1}


async def test_a_partition_that_left_while_it_waited_for_a_retry_is_read_when_it_comes_back(
    kafka: KafkaSettings, unique: Unique
) -> None:
    """librdkafka keeps the pause flag of a partition over a rebalance."""
    topic, group = unique("in"), unique("g")
    await fill(kafka, topic, 4, 20)
    mend = False
    seen: Counter[tuple[int, int]] = Counter()

    def member(batch_size: int) -> FlowApp:
        app = flow_app(group, kafka, batch_size=batch_size)

        @flow_agent(app, [topic], concurrency=4)
        async def work(batch: Batch) -> None:
            if not mend:
                raise ValueError("everything fails")
            seen.update((batch.tp[1], n) for n in numbers(batch))

        return app

    first = member(10)
    async with running(first):
        partitions = chunks_of(first).partitions
        await until(lambda: len(partitions) == 4 and all(p.held for p in partitions.values()))
        async with running(member(10)):
            await until(lambda: len(partitions) == 2)
        await until(lambda: len(partitions) == 4)
        mend = True
        await until(lambda: len(seen) == 80)
        await fill(kafka, topic, 4, 20, first=20)
        await until(lambda: len(seen) == 160)


async def test_a_standby_takes_over_the_only_partition(kafka: KafkaSettings, unique: Unique) -> None:
    topic, group = unique("journal"), unique("g")
    await fill(kafka, topic, 1, 10)
    seen: dict[str, list[int]] = defaultdict(list)

    def member(name: str) -> FlowApp:
        app = flow_app(group, kafka)

        @flow_agent(app, [topic])
        async def work(batch: Batch) -> None:
            seen[name] += numbers(batch)

        return app

    async with running(member("standby")) as standby_stop:
        await until(lambda: len(seen["standby"]) == 10)
        async with running(member("next")):
            standby_stop.set()
            await fill(kafka, topic, 1, 10, first=10)
            await until(lambda: len(seen["standby"]) + len(seen["next"]) == 20)
    assert sorted(seen["standby"] + seen["next"]) == list(range(20))
