from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable

import confluent_kafka as ck
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from instep.errors import KafkaFault
from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    Follower,
    OutRecord,
    Publisher,
    RangeGone,
    RangeReader,
    Record,
    TopicSpec,
    delete_records,
    end_offsets,
    ensure_topics,
    last_record,
    read_topic,
    reader,
)
from instep_connectors.kafka.client import producer_config
from instep_ops.embedded import Kafka


def transactional(kafka: KafkaSettings, name: str) -> ck.Producer:
    producer = ck.Producer(producer_config(kafka, name, transactional_id=name))
    producer.init_transactions(30)
    return producer


def transaction(producer: ck.Producer, tp: TopicPartition, values: list[str], commit: bool = True) -> None:
    producer.begin_transaction()
    for value in values:
        producer.produce(tp[0], value.encode(), b"key", tp[1])
    if commit:
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)


def values(records: list[Record]) -> list[str]:
    return [(record.value or b"").decode() for record in records]


@pytest.fixture(scope="module")
def mixed(kafka: KafkaSettings) -> tuple[str, dict[TopicPartition, list[Record]], dict[TopicPartition, int]]:
    """A topic of committed and aborted transactions: its committed records and ends per partition."""
    topic = f"mixed-{time.monotonic_ns()}"
    ensure_topics(kafka, [TopicSpec(topic, 3)])
    producer = transactional(kafka, topic)
    kept: dict[TopicPartition, list[str]] = {(topic, number): [] for number in range(3)}
    for step in range(60):
        tp, commit = (topic, step * 7 % 3), step % 4 != 1
        batch = [f"{step}.{n}" for n in range(1 + step * 5 % 9)]
        transaction(producer, tp, batch if commit else ["ABORTED"] * len(batch), commit)
        kept[tp] += batch if commit else []
    found: dict[TopicPartition, list[Record]] = {tp: [] for tp in kept}
    for record in read_topic(kafka, topic):
        found[record.topic, record.partition].append(record)
    assert {tp: values(records) for tp, records in found.items()} == kept
    return topic, found, end_offsets(kafka, list(kept))


SPANS = st.lists(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1), st.floats(0, 1)), max_size=3), max_size=8)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spans=SPANS, held=st.sampled_from([3, 50_000]), walk=st.booleans())
def test_any_ranges_in_any_order_give_exactly_their_committed_records(
    kafka: KafkaSettings,
    mixed: tuple[str, dict[TopicPartition, list[Record]], dict[TopicPartition, int]],
    monkeypatch: pytest.MonkeyPatch,
    spans: list[list[tuple[int, float, float]]],
    held: int,
    walk: bool,
) -> None:
    """Bounds fall on records, control records and aborted ones; ranges go forward (as the worker's do) or jump."""
    topic, found, ends = mixed
    with monkeypatch.context() as patch:
        patch.setattr(reader, "_HELD", held)
        patch.setattr(reader, "_LEAST", held)
        ranges = RangeReader(kafka, patience=10)
        done = dict.fromkeys(found, 0)
        for step in spans:
            wanted = {}
            for number, a, b in step:
                tp, end = (topic, number), ends[topic, number]
                low = done[tp] if walk else int(min(a, b) * end)
                high = max(low, int(max(a, b) * end))
                wanted[tp] = (low, high)
                done[tp] = high
            got: dict[TopicPartition, list[Record]] = {}
            for record in ranges.read(wanted):
                got.setdefault((record.topic, record.partition), []).append(record)
            for tp, (low, high) in wanted.items():
                assert got.get(tp, []) == [r for r in found[tp] if low <= r.offset < high]
        ranges.close()


async def test_consecutive_small_ranges_are_read_without_waiting(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    """What the worker does all day; a re-seek or a poll that waits would take 100 ms each."""
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic, 2)])
    publisher, ranges = Publisher(kafka, unique("p")), RangeReader(kafka)
    await publisher.start()
    spans = []
    for _ in range(60):
        starts, ends = await publisher.publish([OutRecord(topic, b"%d" % n, b"%d" % n) for n in range(10)])
        spans.append({tp: (starts[tp], ends[tp]) for tp in starts})
    await publisher.aclose()
    list(ranges.read(spans[0]))
    took = []
    for span in spans[1:]:
        began = time.perf_counter()
        assert sorted(values(list(ranges.read(span)))) == [str(n) for n in range(10)]
        took.append(time.perf_counter() - began)
    ranges.close()
    assert sorted(took)[len(took) // 2] < 0.1  # about 1 ms; a new consumer each time takes over 100


def test_a_range_in_an_open_transaction_waits_for_its_commit(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    tp = (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(tp[0])])
    producer = transactional(kafka, unique("p"))
    producer.begin_transaction()
    producer.produce(tp[0], b"1", partition=0)
    producer.flush(30)
    ranges = RangeReader(kafka, patience=0.5)
    with pytest.raises(TimeoutError, match="a transaction is still open"):
        list(ranges.read({tp: (0, 1)}))
    producer.commit_transaction(30)
    assert values(list(ranges.read({tp: (0, 1)}))) == ["1"]
    ranges.close()


def test_compacted_records_are_neither_given_nor_waited_for(rough_kafka: Kafka, unique: Callable[[str], str]) -> None:
    kafka, topic = rough_kafka.settings, unique("t")
    config = {
        "cleanup.policy": "compact",
        "segment.ms": "50",
        "min.cleanable.dirty.ratio": "0.001",
        "min.compaction.lag.ms": "0",
        "max.compaction.lag.ms": "100",
    }
    ensure_topics(kafka, [TopicSpec(topic, 1, config)])
    producer, written = transactional(kafka, unique("p")), 0
    deadline = time.monotonic() + 60
    while True:  # each write rolls the segment of the former, which makes that cleanable
        assert time.monotonic() < deadline
        transaction(producer, (topic, 0), [f"{written}", f"{written}+"])
        written += 1
        left = list(read_topic(kafka, topic))
        if len(left) < 2 * written - 4:
            break
    before, end = {record.offset for record in left}, left[-1].offset + 1
    ranges, got = RangeReader(kafka), {}
    began = time.perf_counter()
    for span in [(0, end), (0, 1), (1, 2), *itertools.pairwise(range(0, end + 1, 3))]:
        got[span] = [record.offset for record in ranges.read({(topic, 0): span})]
    assert time.perf_counter() - began < 20
    ranges.close()
    after = {record.offset for record in read_topic(kafka, topic)}  # compaction goes on
    for (low, high), offsets in got.items():
        assert offsets == sorted(offsets)
        inside = set(range(low, high))
        assert after & inside <= set(offsets) <= before & inside
    assert last_record(kafka, topic) is not None


@pytest.mark.parametrize("positioned", [False, True])
def test_a_truncated_range_says_which_and_what_to_do(
    kafka: KafkaSettings, unique: Callable[[str], str], positioned: bool
) -> None:
    tp = (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(tp[0])])
    producer, ranges = transactional(kafka, unique("p")), RangeReader(kafka)
    transaction(producer, tp, ["0", "1", "2", "3", "4", "5"])
    if positioned:
        assert values(list(ranges.read({tp: (0, 2)}))) == ["0", "1"]
    delete_records(kafka, {tp: 5})
    if positioned:  # what was fetched ahead is gone with the consumer when the reader goes back
        assert values(list(ranges.read({tp: (2, 4)}))) == ["2", "3"]
    with pytest.raises(RangeGone) as told:
        list(ranges.read({tp: (1, 4)}))
    assert f"Topic {tp[0]} [0] holds offsets 5 to 7, but 1 to 4 are to be read" in told.value.cause
    assert "retention.ms" in told.value.remedy
    assert values(list(ranges.read({tp: (5, 6)}))) == ["5"], "the reader must work again"
    ranges.close()


def test_a_range_behind_the_end_of_the_topic_is_gone_too(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    tp = (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(tp[0])])
    transaction(transactional(kafka, unique("p")), tp, ["0"])
    ranges = RangeReader(kafka, patience=0.5)
    with pytest.raises(RangeGone, match="created anew"):
        list(ranges.read({tp: (0, 100)}))
    with pytest.raises(RangeGone, match="created anew"):
        list(ranges.read({tp: (90, 100)}))
    ranges.close()


def test_a_topic_that_does_not_exist(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    ranges = RangeReader(kafka, patience=0.5)
    with pytest.raises(KafkaFault, match=unique("none")):
        list(ranges.read({(unique("none"), 0): (0, 1)}))
    with pytest.raises(KafkaFault, match="There is no topic"):
        list(read_topic(kafka, unique("none")))
    ranges.close()


def test_empty_ranges_ask_nobody() -> None:
    ranges = RangeReader(KafkaSettings(bootstrap="127.0.0.1:1"))
    assert list(ranges.read({("t", 0): (5, 5)})) == list(ranges.read({})) == []


async def test_reading_goes_on_after_the_broker_was_restarted(rough_kafka: Kafka, unique: Callable[[str], str]) -> None:
    kafka, tp = rough_kafka.settings, (unique("t"), 0)
    await asyncio.to_thread(ensure_topics, kafka, [TopicSpec(tp[0])])
    await asyncio.to_thread(transaction, transactional(kafka, unique("p")), tp, ["0", "1"])
    ranges = RangeReader(kafka, patience=60)
    assert values(await asyncio.to_thread(list, ranges.read({tp: (0, 2)}))) == ["0", "1"]
    await asyncio.to_thread(rough_kafka.stop)
    waiting = asyncio.create_task(asyncio.to_thread(list, ranges.read({tp: (3, 5)})))
    await asyncio.to_thread(rough_kafka.start)
    await asyncio.to_thread(transaction, transactional(kafka, unique("p")), tp, ["2", "3"])
    assert values(await waiting) == ["2", "3"]
    ranges.close()


def test_the_last_record_stands_before_aborted_ones_and_markers(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    topic, tp = unique("t"), (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(topic)])
    assert last_record(kafka, topic) is None
    producer = transactional(kafka, unique("p"))
    transaction(producer, tp, ["aborted"], commit=False)
    assert last_record(kafka, topic) is None
    transaction(producer, tp, ["first", "last"])
    for _ in range(5):
        transaction(producer, tp, ["aborted"] * 40, commit=False)
    found = last_record(kafka, topic)
    assert found is not None and (found.value, found.offset) == (b"last", 3)


def test_a_follower_sees_what_comes_and_nothing_before(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    tp = (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(tp[0], 2)])
    producer = transactional(kafka, unique("p"))
    transaction(producer, tp, ["before"])
    assert len(list(read_topic(kafka, tp[0]))) == 1
    follower, earlier = Follower(kafka, [tp[0]]), Follower(kafka, {tp: 0})
    assert follower.poll(0.2) is None
    transaction(producer, tp, ["a", "b"])
    assert values(list(itertools.islice(follower, 2))) == ["a", "b"]
    assert values(list(itertools.islice(earlier, 3))) == ["before", "a", "b"]
    follower.close()
    earlier.close()
    beyond = Follower(kafka, {tp: 1_000})
    with pytest.raises(RangeGone):
        beyond.poll(10)
    beyond.close()
