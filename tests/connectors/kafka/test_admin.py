from __future__ import annotations

import logging
import time
from collections.abc import Callable

import confluent_kafka as ck
import pytest

from instep.errors import KafkaFault
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    OutRecord,
    Publisher,
    TopicSpec,
    committed,
    delete_records,
    delete_topics,
    end_offsets,
    ensure_topics,
    group_lag,
    offsets_for_time,
    partitions,
    read_topic,
    start_offsets,
    topics,
)
from instep_connectors.kafka.client import consumer_config


def test_topics_are_created_once_and_can_be_used_at_once(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    specs = [TopicSpec(unique("data"), 3), TopicSpec(unique("flow"), 2, {"cleanup.policy": "compact"})]
    assert ensure_topics(kafka, specs) == []
    assert [partitions(kafka, spec.name) for spec in specs] == [3, 2]
    assert end_offsets(kafka, [(specs[0].name, 2)]) == {(specs[0].name, 2): 0}
    assert ensure_topics(kafka, specs) == []


def test_an_existing_topic_that_differs_is_reported_and_left_alone(
    kafka: KafkaSettings, unique: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    name = unique("flow")
    ensure_topics(kafka, [TopicSpec(name, 2, {"cleanup.policy": "delete"})])
    with caplog.at_level(logging.WARNING):
        told = ensure_topics(kafka, [TopicSpec(name, 4, {"cleanup.policy": "compact"})])
    assert told == [
        f"Topic {name} has 2 partitions, the settings ask for 4; it is used as it is (more partitions would put keys "
        "elsewhere).",
        f"Topic {name} has cleanup.policy=delete, Instep needs compact; set it with your Kafka tools.",
    ]
    assert [record.message for record in caplog.records] == told
    assert partitions(kafka, name) == 2


def test_a_journal_with_several_partitions_is_refused(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    name = unique("journal")
    ensure_topics(kafka, [TopicSpec(name, 2)])
    with pytest.raises(KafkaFault, match="its order matters: it must have 1") as told:
        ensure_topics(kafka, [TopicSpec(name)])
    assert told.value.remedy


def test_more_replicas_than_brokers_is_refused_with_the_topic_named(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    greedy = kafka.model_copy(update={"replication": 3})
    with pytest.raises(KafkaFault, match=f"cannot create topic {unique('t')}"):
        ensure_topics(greedy, [TopicSpec(unique("t"))])


def test_no_topic_is_no_partition_and_its_offsets_are_a_fault(
    kafka: KafkaSettings, unique: Callable[[str], str]
) -> None:
    assert partitions(kafka, unique("none")) == 0
    assert unique("none") not in topics(kafka)
    with pytest.raises(KafkaFault, match=unique("none")):
        end_offsets(kafka, [(unique("none"), 0)])


def test_no_broker_is_a_passing_fault() -> None:
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        topics(KafkaSettings(bootstrap="127.0.0.1:1"), timeout=0.5)


async def test_offsets_by_time_lag_and_deletion(kafka: KafkaSettings, unique: Callable[[str], str]) -> None:
    topic, tp = unique("t"), (unique("t"), 0)
    ensure_topics(kafka, [TopicSpec(topic)])
    publisher = Publisher(kafka, unique("p"))
    await publisher.start()
    day = 1_700_000_000_000
    await publisher.publish([OutRecord(topic, None, b"%d" % n, timestamp_ms=day + 1_000 * n) for n in range(5)])
    await publisher.aclose()
    assert len(list(read_topic(kafka, topic))) == 5  # waits until the commit is visible
    assert offsets_for_time(kafka, [tp], day + 1_500) == {tp: 2}
    later = int(time.time() * 1000) + 3_600_000
    assert offsets_for_time(kafka, [tp], later) == end_offsets(kafka, [tp]) == {tp: 6}  # 5 and a control record
    group = unique("g")
    assert committed(kafka, group, [topic]) == {}
    assert group_lag(kafka, group, [topic, unique("none")]) == {tp: 6}
    _commit(kafka, group, topic, 4)
    assert committed(kafka, group, [topic]) == {tp: 4}
    assert group_lag(kafka, group, [topic]) == {tp: 2}
    delete_records(kafka, {tp: 3})
    assert start_offsets(kafka, [tp]) == {tp: 3}
    delete_topics(kafka, [topic, unique("none")])
    deadline = time.monotonic() + 60
    while partitions(kafka, topic):
        assert time.monotonic() < deadline


def _commit(kafka: KafkaSettings, group: str, topic: str, offset: int) -> None:
    consumer = ck.Consumer(consumer_config(kafka, "test", group_id=group))
    consumer.commit(offsets=[ck.TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()
