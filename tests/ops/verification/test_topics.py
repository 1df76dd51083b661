"""Flow topics and the journal read from a real Kafka while they grow."""

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from instep.change import Position
from instep.journal import Counts, JournalEntry
from instep.protocols import Document
from instep.settings import KafkaSettings
from instep.topics import flow_topic, journal_topic
from instep_connectors.kafka import OutRecord, Publisher, Record, TopicSpec, ensure_topics
from instep_ops.verification.topics import FlowTopics, JournalTail
from instep_schemas.records import encode_journal, frame


def publish(kafka: KafkaSettings, *batches: Sequence[OutRecord]) -> None:
    async def send() -> None:
        publisher = Publisher(kafka, f"test-{secrets.token_hex(4)}")
        await publisher.start()
        for batch in batches:
            await publisher.publish(batch)
        await publisher.aclose()

    asyncio.run(send())


def decode(record: Record) -> Document:
    """Key and version are the record's texts; a real document needs a registry, this does not."""
    assert record.key is not None and record.value is not None
    version = int(record.value)
    fields = {"n": version} if version % 10 else None
    return Document("f", (record.key.decode(),), fields, version, Position(1, version * 100))


def test_documents_are_read_once_and_then_what_is_new(kafka: KafkaSettings) -> None:
    flow = f"f{secrets.token_hex(4)}"
    topic = flow_topic(flow)
    ensure_topics(kafka, [TopicSpec(topic, 3)])

    def out(key: str, version: int) -> OutRecord:
        return OutRecord(topic, key.encode(), str(version).encode())

    topics = FlowTopics(kafka, {flow: decode}, Position(1, 250))
    try:
        topics.catch_up()
        assert list(topics.folds[flow].keys()) == []
        publish(kafka, [out("a", 1), out("b", 1), out("c", 1)], [out("a", 2)], [out("b", 3)])
        topics.catch_up()
        fold = topics.folds[flow]
        assert sorted(fold.keys()) == [("a",), ("b",), ("c",)]
        assert [getattr(fold.held((key,)), "version", 0) for key in "abc"] == [2, 1, 1]
        assert fold.emitted() == (2, 4)
        publish(kafka, [out("c", 10)])
        topics.catch_up()
        topics.catch_up()
        newest = fold.newest(("c",))
        assert newest is not None and newest.version == 10 and newest.fields is None
        topics.advance(Position(1, 1001))
        assert [getattr(fold.held((key,)), "version", 0) for key in "abc"] == [2, 3, 10]
        assert fold.emitted() == (10, 6)
    finally:
        topics.close()


def test_a_topic_that_does_not_exist_yet_is_empty(kafka: KafkaSettings) -> None:
    topics = FlowTopics(kafka, {"never_deployed": decode}, Position(1, 1))
    topics.catch_up()
    assert list(topics.folds["never_deployed"].keys()) == []
    topics.close()


def entry(source: str, number: int) -> OutRecord:
    at = Position(1, number * 8)
    made = JournalEntry(source, number, 1, "1", 1, at, at, 0, 0, {}, {}, {"public.t": Counts(update=1)})
    return OutRecord(journal_topic(source), b"batch", frame(1, encode_journal(made)))


@pytest.mark.parametrize("before", [0, 3, 500])
def test_the_journals_tail_covers_what_comes_behind_the_mark(before: int, kafka: KafkaSettings) -> None:
    source = f"s{secrets.token_hex(4)}"
    ensure_topics(kafka, [TopicSpec(journal_topic(source), 1)])
    if before:
        publish(kafka, [entry(source, n) for n in range(1, before + 1)])
    tail = JournalTail(kafka, source)
    mark = tail.mark()
    publish(kafka, [entry(source, before + 1)], [entry(source, before + 2)])
    numbers = [each.batch for each in tail.entries(mark)]
    assert numbers[-2:] == [before + 1, before + 2]
    assert numbers == list(range(numbers[0], before + 3))
    assert min(before, 3) <= len(numbers) - 2 <= 200
