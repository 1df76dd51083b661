"""The topic that other programs write, too: garbage, other spellings, and writes from elsewhere."""

from __future__ import annotations

import json
import time
from itertools import count

import httpx
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition
from tests.fixtures.registry import running_registry
from tests.schemas.registry.ledger import Records

from instep.settings import KafkaSettings
from instep_schemas.client import RegistryClient
from instep_schemas.registry.log import ensure_topic

_topics = count()
TEXT = '{"type":"record","name":"r","fields":[]}'


@pytest.fixture
def topic(kafka: KafkaSettings) -> str:
    name = f"_schemas_shared_{next(_topics)}_{time.time_ns()}"
    ensure_topic(kafka, name)
    return name


def produce(kafka: KafkaSettings, topic: str, records: Records) -> None:
    """Write as a registry without transactions does."""
    producer = Producer(kafka.client())
    for key, value in records:
        producer.produce(topic, value, key)
    assert producer.flush(20) == 0


def contents(kafka: KafkaSettings, topic: str) -> Records:
    """What a reader sees that knows of transactions."""
    consumer = Consumer({**kafka.client(), "group.id": "check", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    records: Records = []
    while True:
        message = consumer.poll(20)
        assert message is not None, "the topic could not be read"
        error = message.error()
        if error is not None:
            assert error.code() == KafkaError._PARTITION_EOF
            consumer.close()
            return records
        records.append((message.key() or b"", message.value()))


def record(subject: str, version: int, schema_id: int, text: str = TEXT) -> tuple[bytes, bytes]:
    key = f'{{"keytype":"SCHEMA","subject":"{subject}","version":{version},"magic":1}}'
    value = {"subject": subject, "version": version, "id": schema_id, "schema": text, "deleted": False}
    return key.encode(), json.dumps(value).encode()


def test_garbage_is_passed_over(kafka: KafkaSettings, topic: str) -> None:
    good = record("a", 1, 5)
    produce(kafka, topic, [(b"garbage", b"x"), (good[0], b"not json"), good, (record("b", 1, 6)[0], b'{"id":6}')])
    with running_registry(kafka, topic) as url, RegistryClient(url) as client:
        assert client.subjects() == ["a"]
        assert client.register("c", '"int"') == 7


def test_what_another_program_writes_meanwhile_counts(kafka: KafkaSettings, topic: str) -> None:
    with running_registry(kafka, topic) as url, RegistryClient(url) as client:
        for number in range(5):
            assert client.register("mine", f'{{"type":"fixed","name":"f","size":1,"n":{number}}}') == 20 * number + 1
            produce(kafka, topic, [record(f"theirs{number}", 1, 20 * number + 20, f'"fixed{number}"')])
        assert client.register("mine", '{"type":"fixed","name":"f","size":1,"n":9}') == 101
        assert len(client.subjects()) == 6


def test_a_deletion_deletes_every_spelling_of_a_key(kafka: KafkaSettings, topic: str) -> None:
    key, value = record("a", 1, 1)
    other = json.dumps(json.loads(key)).encode()
    assert other != key
    produce(kafka, topic, [(other, value), (key, value)])
    with running_registry(kafka, topic) as url:
        for query in ("", "?permanent=true"):
            assert httpx.delete(f"{url}/subjects/a{query}").json() == [1]
    last = dict(contents(kafka, topic))
    assert last[key] is None and last[other] is None


def test_our_topic_holds_only_what_other_registries_know(kafka: KafkaSettings, topic: str) -> None:
    with running_registry(kafka, topic) as url, httpx.Client(base_url=url) as http:
        http.post("/subjects/a/versions", json={"schema": TEXT})
        http.put("/config/a", json={"compatibility": "FULL"})
        http.put("/mode", json={"mode": "READWRITE"})
        http.post("/subjects/:.c:a/versions", json={"schema": TEXT})
        http.delete("/subjects/a")
        http.delete("/subjects/a?permanent=true")
    records = contents(kafka, topic)
    assert [key.decode() for key, _ in records] == [
        '{"keytype":"NOOP","magic":0}',
        '{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}',
        '{"keytype":"CONFIG","subject":"a","magic":0}',
        '{"keytype":"MODE","subject":null,"magic":0}',
        '{"keytype":"CONTEXT","tenant":"default","context":".c","magic":0}',
        '{"keytype":"SCHEMA","subject":":.c:a","version":1,"magic":1}',
        '{"keytype":"DELETE_SUBJECT","subject":"a","magic":0}',
        '{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}',
        '{"keytype":"NOOP","magic":0}',
        '{"keytype":"CONFIG","subject":"a","magic":0}',
    ]
    assert json.loads(records[1][1] or b"") == {
        "subject": "a",
        "version": 1,
        "id": 1,
        "schema": TEXT,
        "deleted": False,
    }
