"""`instep topics …` on a real broker and registry: decoded, chosen, from anywhere, as they come."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.schemas.samples import array, base, relation_of

from instep.change import POSITION_HEADER, Op, Position
from instep.errors import ConfigError
from instep.relation import Column
from instep.settings import KafkaSettings
from instep_connectors.kafka import OutRecord, Publisher, TopicSpec, ensure_topics
from instep_ops.cli.app import run
from instep_ops.planning.tail import Condition, key_text
from instep_schemas.client import RegistryClient
from instep_schemas.documents import DocumentCodec, DocumentColumn, KeyCodec, key_schema, value_schema
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.records import frame
from instep_schemas.wire import WireOptions

_numbers = count()
NATIVE = WireOptions("shop", "inventory", "native")
COLUMNS = [DocumentColumn("sku", "text"), DocumentColumn("qty", "integer"), DocumentColumn("on_sale", "boolean")]


class Topic:
    """A topic of documents with `size` records in two partitions: sku-0 with qty 0 at position 1:0/8 and so on."""

    def __init__(self, kafka: KafkaSettings, registry: str, folder: Path) -> None:
        self.name = f"flow.tail{next(_numbers)}"
        self.kafka, self.project = kafka, folder
        keys, values = key_schema("t", COLUMNS, ["sku"]), value_schema("t", COLUMNS, ["sku"])
        self._keys, self._values = KeyCodec(keys), DocumentCodec(values)
        with RegistryClient(registry) as client:
            self._ids = [client.register(f"{self.name}-{part}", text) for part, text in
                         (("key", keys), ("value", values))]  # fmt: skip
        ensure_topics(kafka, [TopicSpec(self.name, 2, {"cleanup.policy": "compact"})])
        (folder / "instep.toml").write_text(
            f'[sources.shop]\ndsn = "x"\n[kafka]\nbootstrap = "{kafka.bootstrap}"\n[state]\ndsn = "x"\n'
            f'[registry]\nurl = "{registry}"\n'
        )

    def record(self, number: int, timestamp_ms: int = 0) -> OutRecord:
        document = {"sku": f"sku-{number}", "qty": number, "on_sale": number % 3 == 0}
        key = frame(self._ids[0], self._keys.encode((f"sku-{number}",)))
        value = frame(self._ids[1], self._values.encode(json.dumps(document)))
        headers = [(POSITION_HEADER, Position(1, (number + 1) * 8).pack()), ("instep.batch", number.to_bytes(8, "big"))]
        return OutRecord(self.name, key, value, number % 2, headers, timestamp_ms)

    def publish(self, records: Sequence[OutRecord]) -> None:
        async def all_of_them() -> None:
            async with aclosing(Publisher(self.kafka, f"{self.name}-publisher")) as publisher:
                await publisher.start()
                for record in records:  # one transaction each: a control record behind every record
                    await publisher.publish([record])

        asyncio.run(all_of_them())


@pytest.fixture(scope="module")
def topic(kafka: KafkaSettings, registry: str, tmp_path_factory: pytest.TempPathFactory) -> Topic:
    found = Topic(kafka, registry, tmp_path_factory.mktemp("tail"))
    found.publish([found.record(number, 1_700_000_000_000 + number * 1000) for number in range(30)])
    return found


def tail(topic: Topic, capsys: pytest.CaptureFixture[str], *words: str) -> list[Any]:
    capsys.readouterr()
    assert run(["topics", "tail", topic.name, *words, "--project", str(topic.project)]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def skus(shown: list[Any]) -> list[int]:
    return [int(each["key"]["sku"].removeprefix("sku-")) for each in shown]


def test_the_last_ten_by_time(topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    shown = tail(topic, capsys)
    assert skus(shown) == list(range(20, 30))
    assert shown[-1] == {
        "partition": 1, "offset": 28, "time": "2023-11-14T22:13:49.000Z", "key": {"sku": "sku-29"},
        "value": {"sku": "sku-29", "qty": 29, "on_sale": False}, "position": "1:0/F0:0", "batch": 29,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["-n", "3"], [27, 28, 29]),
        (["-n", "0"], []),
        (["-n", "100"], list(range(30))),
        (["--partition", "1", "-n", "2"], [27, 29]),
        (["--key", "sku-3", "--key", "sku-4"], [3, 4]),
        (["--where", "qty=7"], [7]),
        (["--where", "value.qty=7"], [7]),
        (["--where", "on_sale=true", "-n", "2"], [24, 27]),
        (["--where", "on_sale!=true", "--where", "partition=0", "-n", "2"], [26, 28]),
        (["--where", "qty=null"], []),
        (["--where", "no_such_field!=1"], []),
        (["--offset", "54", "--partition", "0"], []),
        (["--offset", "26", "--partition", "0"], [26, 28]),
        (["--since", "2023-11-14T22:13:48Z"], [28, 29]),
        (["--since", "2023-11-14T22:13:20Z", "-n", "1"], [0]),
        (["--from", "1:0/E8:0"], [28, 29]),
        (["--from", "0/E9"], [29]),
    ],
)
def test_what_is_chosen(words: list[str], wanted: list[int], topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(skus(tail(topic, capsys, *words))) == wanted


def test_a_row_shows_the_values_that_its_header_tells(
    kafka: KafkaSettings, registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    topic = Topic(kafka, registry, tmp_path)
    relation = relation_of([Column("v", array(base("int4")), sql_type="integer[]")])
    with RegistryClient(registry) as client:
        text = compile_encoder(relation, NATIVE).schemas.value_text
        encoder = compile_encoder(relation, NATIVE, 1, client.register(f"{topic.name}-row-value", text))
    source = SourceBlock(NATIVE, committed_us=7, transaction=9)
    (change,) = encoder.records(Op.CREATE, None, (b"5", b"{{1,2},{3,4}}"), source, 3, time_stamp(4))
    assert change.exact is not None
    foreign = ("instep.exact", b"of another program")
    topic.publish([OutRecord(topic.name, b"5", change.value, 0, [header]) for header in (change.exact, foreign)])
    told, other = tail(topic, capsys)
    assert (told["value"]["after"], "headers" in told) == ({"id": "5", "v": "{{1,2},{3,4}}"}, False)
    assert "unchanged" not in told["value"]
    assert (other["value"]["unchanged"], other["headers"]) == (["v"], {"instep.exact": "of another program"})


def test_followed_until_ctrl_c(kafka: KafkaSettings, registry: str, tmp_path: Path) -> None:
    topic = Topic(kafka, registry, tmp_path)
    topic.publish([topic.record(0)])
    command = [sys.executable, "-m", "instep_ops.cli", "topics", "tail", topic.name, "--follow", "--where", "qty!=2"]
    with subprocess.Popen([*command, "--project", str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert skus([json.loads(process.stdout.readline())]) == [0]
        topic.publish([topic.record(number) for number in (1, 2, 3)])
        assert sorted(skus([json.loads(process.stdout.readline()) for _ in range(2)])) == [1, 3]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_ls_and_show(topic: Topic, capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> Any:
        capsys.readouterr()
        assert run(["topics", *words, "--json", "--project", str(topic.project)]) == 0
        return json.loads(capsys.readouterr().out)

    found = {each["topic"]: each for each in shown("ls")}
    assert found[topic.name]["partitions"] == 2
    assert found[topic.name]["cleanup"] == "compact"
    assert found[topic.name]["purpose"] == "documents of a flow that has no file"
    assert not any(name.startswith("__consumer") for name in found)
    assert {each["topic"] for each in shown("ls", "--all")} >= set(found)
    one = shown("show", topic.name)
    assert [each["end"] for each in one["partitions"]] == [30, 30]
    assert one["set_here"] == ["cleanup.policy"]
    assert one["subjects"] == [f"{topic.name}-key", f"{topic.name}-value"]
    assert run(["topics", "show", topic.name, "--project", str(topic.project)]) == 0
    assert "cleanup.policy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["tail", "flow.tal"], 5, "There is no topic flow.tal"),
        (["show", "TAIL"], 5, "Did you mean flow.tail"),
        (["tail", "{}", "--partition", "7"], 2, "no partition 7"),
        (["tail", "{}", "--where", "qty"], 2, "no condition"),
        (["tail", "{}", "--since", "yesterday"], 2, "is no time"),
        (["tail", "{}", "--from", "x"], 2, "is no position"),
    ],
)
def test_what_cannot_be(
    words: list[str], code: int, told: str, topic: Topic, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(topic.name) for word in words]
    assert run(["topics", *words, "--project", str(topic.project)]) == code
    shown = capsys.readouterr()
    assert told in shown.err and shown.out == ""


def shown(**value: Any) -> dict[str, Any]:
    return {"partition": 0, "key": {"id": "1", "site": "N"}, "value": value}


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("op=d", {"op": "d", "before": {"id": "1"}, "after": None}, True),
        ("sku=A", {"op": "u", "before": {"sku": "B"}, "after": {"sku": "A"}}, True),
        ("sku=B", {"op": "u", "before": {"sku": "B"}, "after": {"sku": "A"}}, False),
        ("sku=B", {"op": "d", "before": {"sku": "B"}, "after": None}, True),
        ("before.sku=B", {"op": "u", "before": {"sku": "B"}, "after": {"sku": "A"}}, True),
        ("site=N", {"op": "u", "before": None, "after": {}}, True),
        ("note=a=b", {"op": "c", "before": None, "after": {"note": "a=b"}}, True),
        ("note!=", {"op": "c", "before": None, "after": {"note": "x"}}, True),
        ("note=null", {"op": "c", "before": None, "after": {"note": None}}, True),
    ],
)
def test_conditions(text: str, value: dict[str, Any], holds: bool) -> None:
    assert Condition.parse(text).holds(shown(**value)) is holds


def test_keys_as_a_person_writes_them() -> None:
    assert key_text({"id": 1, "site": "N"}) == "1,N"
    assert key_text("batch") == "batch"
    assert key_text(None) == "null"


@pytest.mark.parametrize("text", ["", "x", "=1", "a..b=1", "!=1"])
def test_no_condition(text: str) -> None:
    with pytest.raises(ConfigError):
        Condition.parse(text)
