"""`instep registry doctor`: other spellings of a key, found and cured, without changing what the topic means."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fixtures.registry import running_registry, until
from tests.schemas.registry.ledger import Records, compacted, load, seen
from tests.schemas.registry.test_topic import contents, produce, record

from instep.settings import KafkaSettings
from instep_schemas.registry.doctor import diagnose, examine, heal
from instep_schemas.registry.entries import Key, Keytype, encode_key
from instep_schemas.registry.log import Record, ensure_topic


def otherwise(key: bytes) -> bytes:
    """The same key with its fields sorted, as Karapace wrote some."""
    return json.dumps(json.loads(key), sort_keys=True).encode()


def diagnosis(records: Records) -> Any:
    return diagnose([Record(offset, key, value, 0) for offset, (key, value) in enumerate(records)], len(records))


def cured(records: Records) -> Records:
    return [*records, *diagnosis(records).cure]


def delete_subject(subject: str, version: int) -> tuple[bytes, bytes]:
    value = json.dumps({"subject": subject, "version": version}).encode()
    return encode_key(Key(Keytype.DELETE_SUBJECT, subject)), value


def test_a_deleted_version_does_not_come_back() -> None:
    key, value = record("a", 1, 1)
    records: Records = [(otherwise(key), value), (key, value), (key, None)]
    assert load(compacted(records)).subjects() == ["a"]  # the trouble
    (orphan,) = diagnosis(records).orphans
    assert not orphan.holds and "a v1: deleted, but comes back" in str(orphan)
    assert load(compacted(cured(records))).subjects() == []


def test_what_is_only_there_in_another_spelling_stays() -> None:
    key, value = record("a", 1, 1)
    config = encode_key(Key(Keytype.CONFIG, "a"))
    records: Records = [(otherwise(key), value), (otherwise(config), b'{"compatibilityLevel":"FULL"}')]
    after = compacted(cured(records))
    assert [raw for raw, _ in after] == [key, config]
    assert seen(load(after)) == seen(load(records))


def test_a_softly_deleted_subject_stays_deleted() -> None:
    key, value = record("a", 1, 1)
    records: Records = [(otherwise(key), value), delete_subject("a", 1)]
    assert load(cured(records)).subjects() == load(compacted(cured(records))).subjects() == []
    assert load(cured(records)).subjects(deleted=True) == ["a"]


def test_contradictions_are_told() -> None:
    broken = {
        "subject": "c",
        "version": 1,
        "id": 7,
        "schema": '"x"',
        "references": [{"name": "x", "subject": "n", "version": 1}],
    }
    records: Records = [
        record("a", 1, 5, '"int"'),
        record("b", 1, 5, '"long"'),
        (b"garbage", b"x"),
        (record("c", 1, 7)[0], json.dumps(broken).encode()),
    ]
    faults = diagnosis(records).faults
    assert len(faults) == 3
    assert [word in text for word, text in zip(("offset 2", "b v1 has the id 5", "c v1"), faults, strict=True)] == [
        True
    ] * 3


def entry(subject: str, version: int, other: bool, value: str) -> tuple[bytes, bytes | None]:
    if value == "delete subject":
        return delete_subject(subject, version)
    key, data = record(subject, version, version)
    live = json.dumps({**json.loads(data), "deleted": value == "deleted"}).encode()
    return otherwise(key) if other else key, None if value == "gone" else live


states = st.sampled_from(["live", "live", "deleted", "gone", "delete subject"])


@example([record("a", 2, 1), delete_subject("a", 2), delete_subject("a", 1)])
@given(st.lists(st.builds(entry, st.sampled_from("ab"), st.integers(1, 2), st.booleans(), states), max_size=12))
def test_the_cure_keeps_the_meaning_and_makes_compaction_harmless(records: Records) -> None:
    before, after = load(records), cured(records)
    assert list(load(after).every_version()) == list(before.every_version())
    assert list(load(compacted(after)).every_version()) == list(before.every_version())
    assert not diagnosis(compacted(after)).orphans


def test_on_a_topic_whose_registry_runs(kafka: KafkaSettings) -> None:
    topic = f"_schemas_doctor_{time.time_ns()}"
    ensure_topic(kafka, topic)
    key, value = record("a", 1, 1)
    produce(kafka, topic, [(otherwise(key), value), (key, None)])
    with running_registry(kafka, topic) as url:
        assert len(examine(kafka, topic).orphans) == 1
        assert len(heal(kafka, topic).orphans) == 1
        assert not examine(kafka, topic).orphans
        assert dict(contents(kafka, topic))[otherwise(key)] is None

        def registers() -> bool:
            body = {"schema": '"int"'}
            return bool(httpx.post(f"{url}/subjects/b/versions", json=body, timeout=30).json().get("id") == 2)

        until(registers, 60, "the registry's return")


def test_without_kafka() -> None:
    with pytest.raises(ConnectionError):
        heal(KafkaSettings(bootstrap="127.0.0.1:1"))
