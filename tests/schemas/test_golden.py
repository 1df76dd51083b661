"""Every recorded Debezium case, replayed on a real PostgreSQL: schema texts and Avro bodies are equal byte for byte."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fastavro
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.schemas.golden import NAMES, Replay, Seen, expected_by_topic, load, options_of

from instep.change import ABSENT, Absent, Op, Value
from instep.relation import Column, Relation, ReplicaIdentity
from instep.topics import key_subject, value_subject
from instep_schemas import control
from instep_schemas.decode import compile_decoder, decode_key
from instep_schemas.derive import derive
from instep_schemas.encode import Record, TableEncoder, compile_encoder
from instep_schemas.envelope import SourceBlock, message_value, time_stamp, transaction_block
from instep_schemas.literals import format_hstore
from instep_schemas.shape import shape_of
from instep_schemas.varint import long
from instep_schemas.wire import EXCEPTIONS, Unencodable, Unsupported, WireOptions

DEVIATIONS = {
    ("defaults", "a"): "null-with-default",
    ("defaults", "t"): "null-with-default",
    **{("null_vs_default", column): "null-with-default" for column in "abcde"},
    ("types_core", "c_name"): "name-in-stream",
    ("types_not_null", "c_name"): "name-in-stream",
    ("infinity", "d"): "date-infinity",
}
"""(case, column): the name in EXCEPTIONS under which our value may differ from the recorded one."""

UNKNOWN_KEY_TOPIC = "replica_identity.public.ri_index"
SIGNAL_TOPIC = "incremental_snapshot.public.debezium_signal"
"""Its other rows were written by Debezium itself."""


def body_of(schema: str, value: dict[str, Any]) -> dict[str, Any]:
    """A recorded value, decoded again without logical types."""
    parsed = fastavro.parse_schema(json.loads(schema.replace('"logicalType"', '"was"')))
    decoded = fastavro.schemaless_reader(io.BytesIO(bytes.fromhex(value["value_hex"])), parsed, None)
    assert isinstance(decoded, dict)
    return decoded


class Comparison:
    """Walks one topic's recorded records beside the changes of the replay."""

    def __init__(self, name: str, case: dict[str, Any], options: WireOptions) -> None:
        self.name, self.case, self.options = name, case, options
        self.encoders: dict[int, TableEncoder] = {}
        self.deviated: set[str] = set()

    def topic(self, seen: list[Seen], expected: list[dict[str, Any]]) -> None:
        at = 0
        for change in seen:
            if expected[0]["topic"] == UNKNOWN_KEY_TOPIC and change.before is not None:
                at += self.unknown_key(change, expected[at:])
                continue
            count = len(self.encode(change, expected[at:], expected[at]))
            for number in range(count):  # the two halves of a key change each have their own time
                theirs = expected[at + number]
                clock = theirs if theirs["value"] else expected[at]
                self.equal(self.encode(change, expected[at:], clock)[number], theirs)
            at += count
        if expected[0]["topic"] != SIGNAL_TOPIC:
            assert at == len(expected)

    def encode(self, change: Seen, expected: list[dict[str, Any]], clock: dict[str, Any]) -> list[Record]:
        encoder = self.encoders.get(id(change.relation)) or compile_encoder(change.relation, self.options)
        self.encoders[id(change.relation)] = encoder
        value = clock["value"]
        source = value["source"]
        return encoder.records(
            change.op,
            change.before,
            change.after,
            self.source(source),
            source["lsn"],
            self.stamp(value),
            self.transaction([each["value"] for each in expected if each["value"]]),
        )

    def source(self, source: dict[str, Any]) -> SourceBlock:
        last_commit = json.loads(source["sequence"])[0]
        return SourceBlock(
            self.options,
            committed_us=source["ts_us"],
            transaction=source["txId"],
            last_commit=None if last_commit is None else int(last_commit),
            snapshot=source["snapshot"],
        )

    def stamp(self, value: dict[str, Any]) -> bytes:
        return b"".join(b"\x02" + long(value[name]) for name in ("ts_ms", "ts_us", "ts_ns"))

    def transaction(self, values: list[dict[str, Any]]) -> Callable[[], bytes]:
        blocks = iter([value["transaction"] for value in values])

        def block() -> bytes:
            told = next(blocks)
            if told is None:
                return b"\x00"
            return transaction_block(told["id"], told["total_order"], told["data_collection_order"])

        return block

    def equal(self, ours: Record, theirs: dict[str, Any]) -> None:
        assert (ours.key.hex() if ours.key is not None else None) == theirs["key_hex"]
        moved = next(((name, value) for name, value in theirs["headers"] if name.endswith(("newkey", "oldkey"))), None)
        assert (ours.moved and (ours.moved[0], ours.moved[1].decode())) == moved
        if ours.value is None or theirs["value_hex"] is None:
            assert ours.value is None and theirs["value_hex"] is None
            return
        if ours.value.hex() != theirs["value_hex"]:
            self.deviates(ours.value, theirs)

    def deviates(self, ours: bytes, theirs: dict[str, Any]) -> None:
        """Other bytes are right only where a deviation is declared, and then in that column alone."""
        incremental = theirs["value"]["source"]["snapshot"] == "incremental"
        assert incremental or any(case == self.name for case, _ in DEVIATIONS)
        subject = theirs["value_schema_subject"]
        schema = self.case["subjects"][subject["subject"]][subject["version"] - 1]
        mine, recorded = body_of(schema, {"value_hex": ours.hex()}), body_of(schema, theirs)
        for image in ("before", "after"):
            for column in list(recorded[image] or ()):
                if (self.name, column) in DEVIATIONS and mine[image][column] != recorded[image][column]:
                    self.deviated.add(column)
                    del mine[image][column], recorded[image][column]
        if incremental:  # the time of reading, in nanoseconds, not a commit's
            assert mine["source"].pop("ts_ns") // 1000 == recorded["source"].pop("ts_ns") // 1000
        assert repr(mine) == repr(recorded)  # NaN equals itself here

    def unknown_key(self, change: Seen, expected: list[dict[str, Any]]) -> int:
        """REPLICA IDENTITY USING INDEX without the primary key: gives how many records Debezium wrote for it."""
        assert expected[0]["key"] == {"id": 0}
        if change.op is Op.DELETE:
            with pytest.raises(Unencodable, match="REPLICA IDENTITY"):
                self.encode(change, expected, expected[0])
            return 2
        (record,) = self.encode(change, expected, expected[0])
        assert record.key is not None and record.key.hex() == expected[2]["key_hex"]
        return 3


@pytest.fixture(scope="module")
def replays() -> dict[str, Replay]:
    return {}


def replayed(name: str, postgres: PostgresForTests, replays: dict[str, Replay]) -> Replay:
    if name not in replays:
        replay = Replay(load(name), postgres.database())
        replay.run()
        replays[name] = replay
    return replays[name]


WRITTEN = [name for name in NAMES if name != "names_differ_by_case"]
NOT_READ_BACK = {
    "binary_base64": "a base64 text does not say that it was a bytea",
    "bits": "a bit(1) is an Avro boolean, and a bit string's length is lost",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_schema_texts(name: str, postgres: PostgresForTests, replays: dict[str, Replay]) -> None:
    replay = replayed(name, postgres, replays)
    options = options_of(replay.case)
    texts: dict[str, list[str]] = {}
    for topic, relations in replay.relations.items():
        for relation in relations:
            schemas = derive(relation, options)
            subjects = {key_subject(topic): schemas.key_text, value_subject(topic): schemas.value_text}
            for subject, text in subjects.items():
                if text is not None and text not in texts.setdefault(subject, []):
                    texts[subject].append(text)
    texts |= control_texts(replay.case, options)
    assert {subject: each for subject, each in texts.items() if each} == replay.case["subjects"]


def control_texts(case: dict[str, Any], options: WireOptions) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for subject in case["subjects"]:
        topic, _, part = subject.rpartition("-")
        if topic == f"{options.source}.transaction":
            schemas = control.transaction_schemas()
        elif topic == f"{options.source}.message":
            schemas = control.message_schemas(options)
        elif topic.startswith("__debezium-heartbeat."):
            schemas = control.heartbeat_schemas()
        else:
            continue
        found[subject] = [schemas.key_text if part == "key" else schemas.value_text]
    return found


@pytest.mark.parametrize("name", WRITTEN)
def test_records(name: str, postgres: PostgresForTests, replays: dict[str, Replay]) -> None:
    replay = replayed(name, postgres, replays)
    comparison = Comparison(name, replay.case, options_of(replay.case))
    compared = 0
    for topic, expected in expected_by_topic(replay.case):
        if topic in replay.changes:
            comparison.topic(replay.changes[topic], expected)
            compared += 1
        else:
            control_topics = (f"{comparison.options.source}.transaction", f"{comparison.options.source}.message")
            assert topic in control_topics or topic.startswith("__debezium-heartbeat.")
    assert compared == len(replay.changes)
    # a declared deviation that does not happen is a stale declaration
    assert comparison.deviated == {column for case, column in DEVIATIONS if case == name}


@pytest.mark.parametrize("name", ["tx_metadata", "odd_prefix", "logical_message", "heartbeat"])
def test_control_records(name: str) -> None:
    case = load(name)
    options = options_of(case)
    comparison = Comparison(name, case, options)
    compared = 0
    for record in case["records"]:
        value = record["value"]
        if record["topic"].endswith(".transaction"):
            counts = value["data_collections"] and {
                each["data_collection"]: each["event_count"] for each in value["data_collections"]
            }
            body = control.transaction_value(value["status"], value["id"], value["ts_ms"], counts)
            key = control.transaction_key(value["id"])
        elif record["topic"].endswith(".message"):
            message, source = value["message"], value["source"]
            content = bytes.fromhex(message["content"]["$bytes"])
            transaction = comparison.transaction([value])()
            block = comparison.source(source)
            body = message_value(options, message["prefix"], content, block, source["lsn"], value["ts_ms"], transaction)
            key = control.message_key(message["prefix"])
        elif record["topic"].startswith("__debezium-heartbeat."):
            body, key = control.heartbeat_value(value["ts_ms"]), control.heartbeat_key(options.source)
        else:
            continue
        compared += 1
        assert (key.hex(), body.hex()) == (record["key_hex"], record["value_hex"])
    assert compared > 0


def test_columns_that_differ_by_case_are_refused(postgres: PostgresForTests) -> None:
    case = load("names_differ_by_case")
    assert case["task_failed"]
    replay = Replay(case | {"seed": ["INSERT INTO t VALUES (1, 2, 'v')"], "dml": []}, postgres.database())
    replay.run()
    ((relation,),) = replay.relations.values()
    with pytest.raises(Unsupported, match="one name"):
        derive(relation, options_of(case))


@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in NOT_READ_BACK])
def test_recorded_values_survive_decoding_and_encoding(
    name: str, postgres: PostgresForTests, replays: dict[str, Replay]
) -> None:
    """The decoder reads what Debezium wrote: our encoder makes the same bytes of what it read."""
    replay = replayed(name, postgres, replays)
    comparison = Comparison(name, replay.case, options_of(replay.case))
    for topic, expected in expected_by_topic(replay.case):
        for record in expected:
            if record["value"] is None or record["value"].get("after") is None or topic not in replay.relations:
                continue
            text = replay.case["subjects"][value_subject(topic)][record["value_schema_subject"]["version"] - 1]
            envelope = compile_decoder(text)(bytes.fromhex(record["value_hex"]))
            assert envelope.op == record["value"]["op"]
            assert envelope.lsn == record["value"]["source"]["lsn"]
            assert envelope.tx_id == record["value"]["source"]["txId"]
            assert envelope.ts_us == record["value"]["source"]["ts_us"]
            assert envelope.snapshot == record["value"]["source"]["snapshot"]
            check_again(comparison, replay, topic, envelope.after, record, text)


def check_again(
    comparison: Comparison, replay: Replay, topic: str, after: Any, record: dict[str, Any], text: str
) -> None:
    relation = next(each for each in replay.relations[topic] if derive(each, comparison.options).value_text == text)
    names = {column.name: column for column in relation.columns}
    adjusted = {field.column.name: field.name for field in derive(relation, comparison.options).fields}
    cells = [as_sent(after.get(adjusted.get(name, name)), column) for name, column in names.items()]
    again = comparison.encode(Seen(relation, Op.CREATE, None, cells), [record], record)[0]
    fresh = compile_decoder(text)(again.value or b"")
    assert fresh.after == after
    if record["key_hex"] is not None and topic != UNKNOWN_KEY_TOPIC:
        key_text = replay.case["subjects"][key_subject(topic)][0]
        assert again.key is not None and again.key.hex() == record["key_hex"]
        shape = shape_of(key_text, text)
        assert decode_key(key_text)(again.key) == {name: after[name] for name in shape.key}


def as_sent(text: Value, column: Column) -> bytes | Absent | None:
    if column.type.name == "bit" and column.modifier == 1 and isinstance(text, str):
        return b"1" if text == "t" else b"0"
    if column.type.name == "hstore" and isinstance(text, str):
        return format_hstore(json.loads(text)).encode()
    return text.encode() if isinstance(text, str) else text


@pytest.mark.parametrize("name", WRITTEN)
def test_the_native_profile_carries_every_value(
    name: str, postgres: PostgresForTests, replays: dict[str, Replay]
) -> None:
    """What the store said comes back from our own profile, column by column, whatever its type."""
    options = WireOptions("shop", "shop", "native")
    source = SourceBlock(options, committed_us=5, transaction=6)
    for change in (change for changes in replayed(name, postgres, replays).changes.values() for change in changes):
        relation = change.relation
        if change.op is Op.DELETE and not all(c.identity for c in relation.columns if c.name in relation.key):
            continue  # REPLICA IDENTITY USING INDEX, keyed by the primary key: see test_records
        if name == "enum_add_value":  # capture describes the table again upon UnknownLabel
            relation = with_labels(relation, ("a", "b", "c"))
        encoder = compile_encoder(relation, options)
        decode = compile_decoder(encoder.schemas.value_text)
        told = [
            decode(record.value)
            for record in encoder.records(change.op, change.before, change.after, source, 7, time_stamp(8))
            if record.value is not None
        ]
        after = texts_of(relation, change.after)
        if after is not None and change.before is not None and relation.replica_identity is ReplicaIdentity.FULL:
            before = texts_of(relation, change.before) or {}
            after = {column: before[column] if text is ABSENT else text for column, text in after.items()}
        assert told[-1].after == after
        if change.before is not None and told[0].before is not None:
            known = {column.name for column in relation.columns if column.identity}
            old = texts_of(relation, change.before) or {}
            assert told[0].before == {column: old[column] if column in known else ABSENT for column in old}


def with_labels(relation: Relation, labels: tuple[str, ...]) -> Relation:
    enums = [
        replace(column, type=replace(column.type, labels=labels)) if column.type.labels else column
        for column in relation.columns
    ]
    return replace(relation, columns=tuple(enums))


def texts_of(relation: Relation, row: Any) -> dict[str, Value] | None:
    if row is None:
        return None
    cells = zip(relation.columns, row, strict=True)
    return {column.name: cell.decode() if isinstance(cell, bytes) else cell for column, cell in cells}


def test_every_deviation_is_explained() -> None:
    assert set(DEVIATIONS.values()) <= EXCEPTIONS.keys()
    assert {case for case, _ in DEVIATIONS} <= set(NAMES)
