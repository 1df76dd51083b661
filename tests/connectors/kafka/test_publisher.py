from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from instep.errors import InstepError, KafkaFault
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    BlockingPublisher,
    Fenced,
    OutRecord,
    Publisher,
    Record,
    TopicSpec,
    ensure_topics,
    last_record,
    read_topic,
)
from instep_connectors.kafka.publisher import Offsets
from instep_ops.embedded import Kafka


def journal(topic: str, text: str = "") -> Callable[[Offsets, Offsets], OutRecord]:
    """A last record that says where the others landed."""
    return lambda starts, ends: OutRecord(topic, b"batch", repr((text, starts, ends)).encode())


async def started(kafka: KafkaSettings, name: str) -> Publisher:
    publisher = Publisher(kafka, name)
    await publisher.start()
    return publisher


async def test_offsets_given_to_the_last_record_are_where_the_records_are(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    data, log = unique("data"), unique("log")
    ensure_topics(kafka, [TopicSpec(data, 3), TopicSpec(log)])
    publisher = await started(kafka, unique("p"))
    for size in (1, 7, 300):
        sent = [OutRecord(data, b"key%d" % (n % 40), b"%d" % n) for n in range(size)]
        starts, ends = await publisher.publish(sent, journal(log, str(size)))
        entry = last_record(kafka, log)
        assert entry is not None and entry.value == repr((str(size), starts, ends)).encode()
        batch = [r for r in read_topic(kafka, data) if starts.get((data, r.partition), 1 << 60) <= r.offset]
        assert {(r.topic, r.partition) for r in batch} == set(starts) == set(ends)
        for tp in starts:
            offsets = [r.offset for r in batch if (r.topic, r.partition) == tp]
            assert offsets == list(range(starts[tp], ends[tp]))
        assert sorted(int(r.value or b"") for r in batch) == list(range(size))
        for number in range(3):  # order of each key
            values = [int(r.value or b"") for r in batch if r.partition == number]
            assert values == sorted(values)
    await publisher.aclose()


async def test_a_record_arrives_with_all_its_parts(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic, 2)])
    publisher = await started(kafka, unique("p"))
    headers = (("b", b"\x00\xff"), ("a", b""), ("b", b"again"))
    starts, ends = await publisher.publish(
        [
            OutRecord(topic, b"\x00k", b"v", partition=1, headers=headers, timestamp_ms=1234567890123),
            OutRecord(topic, b"gone", None, partition=1),
        ]
    )
    await publisher.aclose()
    assert (starts, ends) == ({(topic, 1): 0}, {(topic, 1): 2})
    first, second = read_topic(kafka, topic)
    assert first == Record(topic, 1, 0, b"\x00k", b"v", headers, 1234567890123)
    assert second.value is None and second.key == b"gone"
    assert abs(second.timestamp_ms - time.time() * 1000) < 60_000


async def test_keys_go_where_java_puts_them(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    # the hashes of Kafka's own UtilsTest.testMurmur2
    expected = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    }
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic, 12)])
    publisher = await started(kafka, unique("p"))
    await publisher.publish([OutRecord(topic, key, b"") for key in expected])
    await publisher.aclose()
    found = {record.key: record.partition for record in read_topic(kafka, topic)}
    assert found == {key: (value & 0x7FFFFFFF) % 12 for key, value in expected.items()}


def failing() -> Iterator[OutRecord]:
    yield OutRecord("placeholder", None, None)
    raise ValueError("cannot encode")


@pytest.mark.parametrize("failure", ["records", "last", "too large", "no topic"])
async def test_a_failed_batch_leaves_nothing_that_a_reader_sees(
    kafka: KafkaSettings, unique: Callable[[str], str], failure: str
) -> None:
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic)])
    publisher = await started(kafka, unique("p"))
    await publisher.publish([OutRecord(topic, None, b"before")])

    def records() -> Iterator[OutRecord]:
        for n in range(50):
            yield OutRecord(topic, None, b"%d" % n)
        if failure == "records":
            raise ValueError("cannot encode")
        if failure == "too large":
            yield OutRecord(topic, None, bytes(3_000_000))
        if failure == "no topic":
            yield OutRecord(unique("none"), None, b"x")

    def last(starts: Offsets, ends: Offsets) -> OutRecord:
        raise ValueError("cannot encode")

    expected = KafkaFault if failure in ("too large", "no topic") else ValueError
    with pytest.raises(expected):
        await publisher.publish(records(), last if failure == "last" else None)
    with pytest.raises(ConnectionError, match="make a new one"):
        await publisher.publish([OutRecord(topic, None, b"after")])
    await publisher.aclose()
    again = await started(kafka, unique("p"))
    await again.publish([OutRecord(topic, None, b"after")])
    await again.aclose()
    assert [record.value for record in read_topic(kafka, topic)] == [b"before", b"after"]


async def test_a_later_publisher_fences_the_earlier_one(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic)])
    earlier = await started(kafka, unique("p"))
    await earlier.publish([OutRecord(topic, None, b"1")])
    later = await started(kafka, unique("p"))
    with pytest.raises(Fenced) as told:
        await earlier.publish([OutRecord(topic, None, b"zombie")])
    assert "let only one of them run" in told.value.remedy
    await later.publish([OutRecord(topic, None, b"2")])
    await earlier.aclose()
    await later.aclose()
    assert [record.value for record in read_topic(kafka, topic)] == [b"1", b"2"]


async def test_an_abandoned_transaction_is_settled_by_the_next_start(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    topic = unique("t")
    ensure_topics(kafka, [TopicSpec(topic)])
    publisher = await started(kafka, unique("p"))
    blocked, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def last(starts: Offsets, ends: Offsets) -> OutRecord:
        loop.call_soon_threadsafe(blocked.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()
        return OutRecord(topic, None, b"last")

    half = asyncio.create_task(publisher.publish([OutRecord(topic, None, b"half")], last))
    await blocked.wait()
    again = await started(kafka, unique("p"))
    await again.publish([OutRecord(topic, None, b"whole")])
    go.set()
    with pytest.raises(Fenced):
        await half
    await publisher.aclose()
    await again.aclose()
    assert [record.value for record in read_topic(kafka, topic)] == [b"whole"]


async def test_without_a_broker_start_can_be_given_up_at_once() -> None:
    publisher = Publisher(KafkaSettings(bootstrap="127.0.0.1:1"), "p")
    starting = asyncio.create_task(publisher.start())
    await asyncio.sleep(0)
    began = time.monotonic()
    await publisher.aclose()
    await publisher.aclose()
    with pytest.raises(ConnectionError):
        await starting
    assert time.monotonic() - began < 20


async def test_a_killed_broker_costs_nothing_and_repeats_nothing(
    rough_kafka: Kafka, unique: Callable[[str], str]
) -> None:
    """The caller's duty as the module says: new publisher, then the last record tells what was committed."""
    kafka = rough_kafka.settings
    topic, log = unique("t"), unique("log")
    ensure_topics(kafka, [TopicSpec(topic), TopicSpec(log)])
    publisher, number, longest = await started(kafka, unique("p")), 0, 0.0
    killer = asyncio.create_task(_kill_soon(rough_kafka))
    deadline = time.monotonic() + 90
    while not killer.done() or number < 100:
        began = time.monotonic()
        assert began < deadline
        try:
            await publisher.publish(
                [OutRecord(topic, None, b"%d.%d" % (number, n)) for n in range(20)],
                lambda starts, ends, n=number: OutRecord(log, None, b"%d" % n),  # type: ignore[misc]  # bound now
            )
            number += 1
        except (ConnectionError, InstepError):
            publisher, number = await _recover(kafka, publisher, unique("p"), log)
        longest = max(longest, time.monotonic() - began)
    await killer
    await publisher.aclose()
    assert longest > 1, "the broker's death was not noticed: the test proves nothing"
    assert [int(r.value or b"") for r in read_topic(kafka, log)] == list(range(number))
    expected = [b"%d.%d" % (batch, n) for batch in range(number) for n in range(20)]
    assert [r.value for r in read_topic(kafka, topic)] == expected


async def _kill_soon(server: Kafka) -> None:
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.start)


async def _recover(kafka: KafkaSettings, broken: Publisher, name: str, log: str) -> tuple[Publisher, int]:
    await broken.aclose()
    while True:
        publisher = Publisher(kafka, name)
        try:
            await publisher.start()
            entry = await asyncio.to_thread(last_record, kafka, log)
            return publisher, 0 if entry is None else int(entry.value or b"") + 1
        except (ConnectionError, TimeoutError):
            await publisher.aclose()


def test_two_ids_take_turns_and_keep_the_order(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    """An id begins while the brokers still spread the other's commit; an older publisher has lost both."""
    topic, log = unique("data"), unique("log")
    ensure_topics(kafka, [TopicSpec(topic, 1), TopicSpec(log, 1)])
    name = unique("p")
    ids = name, unique("second")
    older, publisher = BlockingPublisher(kafka, *ids), BlockingPublisher(kafka, *ids)
    older.start()
    older.publish([OutRecord(topic, None, b"first")])
    publisher.start()
    with pytest.raises(Fenced):
        older.publish([OutRecord(topic, None, b"late")])
    with pytest.raises(ConnectionError, match="given up"):
        older.publish([OutRecord(topic, None, b"late")])
    end = 0
    for number in range(20):
        starts, ends = publisher.publish([OutRecord(topic, None, b"%d" % number)], journal(log, str(number)))
        assert end <= starts[topic, 0] < ends[topic, 0]
        end = ends[topic, 0]
    publisher.close()
    older.close()
    assert [record.value for record in read_topic(kafka, topic)] == [b"first", *(b"%d" % n for n in range(20))]


def test_a_broker_away_for_longer_than_a_delivery_may_take_is_waited_for(
    rough_kafka: Kafka, unique: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("instep_connectors.kafka.publisher._TIMEOUT", 2.0)
    topic = unique("t")
    ensure_topics(rough_kafka.settings, [TopicSpec(topic)])
    publisher = BlockingPublisher(rough_kafka.settings, unique("p"))
    publisher.start()

    def last(_starts: Offsets, _ends: Offsets) -> OutRecord:
        rough_kafka.kill()
        return OutRecord(topic, None, b"last")

    try:
        with pytest.raises(ConnectionError):
            publisher.publish([OutRecord(topic, None, b"first")], last)
    finally:
        rough_kafka.start()
        publisher.close()
    assert not list(read_topic(rough_kafka.settings, topic))
