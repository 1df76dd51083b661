"""The chunk rules without a broker: order, nothing lost, commits never above what is finished."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.streams.runtime.waiting import until

from instep.journal import TopicPartition
from instep_streams.runtime.chunks import Chunk, Chunks, Partition

TP: TopicPartition = ("t", 0)
OTHER: TopicPartition = ("t", 1)


@dataclass
class Fetched:
    """Stands for confluent-kafka's message."""

    at: int

    def offset(self) -> int:
        return self.at


@dataclass
class FakePort:
    agents: int = 1
    chunks: list[Chunk] = field(default_factory=list)
    held: list[TopicPartition] = field(default_factory=list)
    released: list[TopicPartition] = field(default_factory=list)

    def dispatch(self, chunk: Chunk) -> int:
        if self.agents:
            self.chunks.append(chunk)
        return self.agents

    def hold(self, partition: Partition) -> None:
        self.held.append(partition.tp)

    def release(self, partition: Partition) -> None:
        self.released.append(partition.tp)

    def backlog_changed(self) -> None:
        pass


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def fetched(*offsets: int) -> list[Any]:
    return [Fetched(offset) for offset in offsets]


def made(**options: Any) -> tuple[Chunks, FakePort, Clock]:
    port, clock = FakePort(), Clock()
    chunks = Chunks(port, clock=clock, **options)
    chunks.add(TP, None)
    return chunks, port, clock


def offsets(chunk: Chunk) -> list[int]:
    return [message.offset() for message in chunk.messages]


async def test_one_chunk_at_a_time_and_each_as_large_as_may_be() -> None:
    chunks, port, _ = made(size=4)
    chunks.feed(TP, fetched(0, 1))
    chunks.feed(TP, fetched(2))
    chunks.feed(TP, fetched(3, 5))
    chunks.feed(TP, fetched(*range(6, 12)))
    assert [offsets(c) for c in port.chunks] == [[0, 1]]
    for _ in range(3):
        chunks.finish(port.chunks[-1])
    assert [offsets(c) for c in port.chunks] == [[0, 1], [2, 3, 5, 6], [7, 8, 9, 10], [11]]
    assert chunks.uncommitted() == {TP: 11}
    assert chunks.queued == 0


async def test_a_failed_chunk_comes_again_as_it_was_and_only_its_partition_waits() -> None:
    chunks, port, clock = made(size=2)
    chunks.add(OTHER, None)
    chunks.feed(TP, fetched(0, 1, 2))
    chunks.finish(port.chunks[0], ValueError("no"))
    assert port.held == [TP]
    chunks.feed(OTHER, fetched(7))
    assert [c.partition.tp for c in port.chunks] == [TP, OTHER]
    chunks.deliver(chunks.partitions[TP])
    assert len(port.chunks) == 2, "handed out before its back-off"
    clock.now += 0.2
    chunks.deliver(chunks.partitions[TP])
    again = port.chunks[-1]
    assert offsets(again) == [0, 1] and again.batch.attempt == 1
    assert chunks.uncommitted() == {}
    chunks.finish(again)
    assert port.released == [TP]
    assert chunks.uncommitted() == {TP: 2}
    assert port.chunks[-1].batch.attempt == 0


async def test_the_back_off_doubles_up_to_its_limit() -> None:
    chunks, port, clock = made(first_delay=0.1, max_delay=0.5)
    chunks.feed(TP, fetched(0))
    delays = []
    for _ in range(5):
        chunks.finish(port.chunks[-1], ValueError())
        delays.append(round(chunks.partitions[TP].ready_at - clock.now, 3))
        clock.now += 10
        chunks.deliver(chunks.partitions[TP])
    assert delays == [0.1, 0.2, 0.4, 0.5, 0.5]


async def test_a_chunk_read_by_two_agents_is_done_when_both_are_and_fails_when_one_does() -> None:
    chunks, port, clock = made()
    port.agents = 2
    chunks.feed(TP, fetched(0))
    chunks.finish(port.chunks[0], ValueError())
    assert chunks.partitions[TP].running is port.chunks[0]
    chunks.finish(port.chunks[0])
    assert chunks.uncommitted() == {}
    clock.now += 1
    chunks.deliver(chunks.partitions[TP])
    chunks.finish(port.chunks[1])
    chunks.finish(port.chunks[1])
    assert chunks.uncommitted() == {TP: 1}


async def test_without_an_agent_the_chunk_waits_and_nothing_is_committed() -> None:
    chunks, port, _ = made()
    port.agents = 0
    chunks.feed(TP, fetched(3))
    assert chunks.uncommitted() == {}
    port.agents = 1
    await until(lambda: port.chunks)
    assert offsets(port.chunks[0]) == [3]


async def test_leaving_waits_for_a_started_chunk_and_drops_a_queued_one() -> None:
    chunks, port, _ = made()
    chunks.add(OTHER, None)
    chunks.feed(TP, fetched(0))
    chunks.feed(OTHER, fetched(0))
    port.chunks[0].started = True
    leaving = asyncio.create_task(chunks.leave([TP, OTHER]))
    await asyncio.sleep(0)
    assert port.chunks[0].batch.revoked
    assert not leaving.done()
    chunks.finish(port.chunks[0])
    assert await leaving == {TP: 1}
    assert chunks.partitions[OTHER].running is None
    chunks.remove([TP, OTHER])
    chunks.finish(port.chunks[1])
    assert chunks.uncommitted() == {}


async def test_leaving_gives_up_a_chunk_that_takes_too_long() -> None:
    chunks, port, _ = made(drain_s=0.01)
    chunks.feed(TP, fetched(0))
    port.chunks[0].started = True
    assert await chunks.leave([TP]) == {}
    chunks.remove([TP])
    chunks.add(TP, None)
    chunks.finish(port.chunks[0])  # the late result of the former assignment
    assert chunks.uncommitted() == {}


async def test_nothing_is_handed_out_after_stop() -> None:
    chunks, port, _ = made()
    chunks.feed(TP, fetched(0))
    await chunks.stop()
    chunks.feed(TP, fetched(1))
    assert len(port.chunks) == 1
    assert chunks.uncommitted() == {}


@pytest.mark.parametrize("busy", [False, True])
async def test_the_end_behind_records_that_were_dropped_is_not_committed(busy: bool) -> None:
    chunks, port, _ = made()
    chunks.feed(TP, fetched(0, 1))
    port.chunks[0].started = True
    if not busy:
        chunks.finish(port.chunks[0])
    stopping = asyncio.create_task(chunks.stop())
    await asyncio.sleep(0)
    chunks.feed(TP, fetched(2, 3))  # the poll thread goes on until it is told
    chunks.reached_end(TP, 5)
    if busy:
        chunks.finish(port.chunks[0])
    await stopping
    assert chunks.uncommitted() == {TP: 2}


async def test_control_records_at_the_end_count_once_everything_is_finished() -> None:
    chunks, port, clock = made()
    chunks.feed(TP, fetched(0, 1))
    chunks.reached_end(TP, 3)
    assert chunks.uncommitted() == {}
    chunks.finish(port.chunks[0], ValueError())
    chunks.reached_end(TP, 3)
    assert chunks.uncommitted() == {}, "committed over a chunk that failed"
    clock.now += 1
    chunks.deliver(chunks.partitions[TP])
    chunks.finish(port.chunks[1])
    assert chunks.uncommitted() == {TP: 3}
    chunks.committed({TP: 3})
    assert chunks.uncommitted() == {}


async def test_records_out_of_order_stop_the_process_instead_of_being_committed_over() -> None:
    chunks, _, _ = made()
    chunks.feed(TP, fetched(5, 6))
    with pytest.raises(RuntimeError, match="offset 6 came after 6 was read"):
        chunks.feed(TP, fetched(6))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("fetch"), st.sampled_from([1, 4, 16])),
        st.tuples(st.just("succeed"), st.just(0)),
        st.tuples(st.just("fail"), st.just(0)),
        st.tuples(st.just("end"), st.just(0)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("move"), st.just(0)),
        st.tuples(st.just("kill"), st.just(0)),
        st.tuples(st.just("wait"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=500, deadline=None)
@example(steps=[("fetch", 16), ("fail", 0), ("end", 0), ("commit", 0)], gaps=set(), size=16)
@given(steps=STEPS, gaps=st.sets(st.integers(0, 15)), size=st.sampled_from([1, 3, 16]))
def test_whatever_happens_no_record_is_committed_over_and_none_is_lost(
    steps: list[tuple[str, int]], gaps: set[int], size: int
) -> None:
    """One partition through fetches, failures, commits, moves and kills, against a log with gaps."""
    asyncio.run(_simulate(steps, [offset for offset in range(16) if offset not in gaps], size))


async def _simulate(steps: list[tuple[str, int]], log: list[int], size: int) -> None:
    committed, finished = 0, set[int]()
    chunks, _, clock = made(size=size)
    position = 0  # of the fetcher

    def commit() -> None:
        nonlocal committed
        for offset in chunks.uncommitted().values():
            assert offset > committed or offset == committed
            assert all(o in finished for o in log if o < offset), "committed over an unfinished record"
            committed = offset
        chunks.committed({TP: committed})

    def finish(error: Exception | None) -> None:
        partition = chunks.partitions[TP]
        chunk = partition.running
        if chunk is None:
            return
        expected = [o for o in log if o >= chunk.messages[0].offset()][: len(chunk.messages)]
        assert offsets(chunk) == expected, "a hole inside of a chunk"
        assert all(o in finished for o in log if committed <= o < expected[0]), "a chunk overtook another"
        if error is None:
            finished.update(expected)
        chunks.finish(chunk, error)

    for step, number in [*steps, *[("fetch", 100), ("wait", 0), ("succeed", 0)] * 20, ("end", 0), ("commit", 0)]:
        if step == "fetch":
            todo = [o for o in log if o >= position][:number]
            if todo:
                position = todo[-1] + 1
                chunks.feed(TP, fetched(*todo))
        elif step == "end" and not [o for o in log if o >= position]:
            chunks.reached_end(TP, 17)
        elif step == "succeed":
            finish(None)
        elif step == "fail":
            finish(ValueError())
        elif step == "wait":
            clock.now += 60
            chunks.deliver(chunks.partitions[TP])
        elif step == "commit":
            commit()
        elif step in ("move", "kill"):
            if step == "move":
                await chunks.leave([TP])
                commit()
            chunks.remove([TP])
            chunks.add(TP, committed)
            finished = {o for o in finished if o < committed}
            position = committed
    assert set(log) <= finished
    assert committed == 17
