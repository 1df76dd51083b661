"""Confluent's own Python clients, every call of both, against our registry on a real broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import quote

import pytest
from confluent_kafka.schema_registry import AsyncSchemaRegistryClient, Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import (
    AsyncAvroDeserializer,
    AsyncAvroSerializer,
    AvroDeserializer,
    AvroSerializer,
)
from confluent_kafka.schema_registry.common.schema_registry_client import (
    ConfigCompatibilityLevel,
    Metadata,
    MetadataProperties,
    Rule,
    RuleKind,
    RuleMode,
    RuleParams,
    RuleSet,
    SchemaReference,
    ServerConfig,
)
from confluent_kafka.schema_registry.error import SchemaRegistryError
from confluent_kafka.serialization import MessageField, SerializationContext
from tests.schemas.registry.confluent import connected

_numbers = count()


def record(*fields: tuple[Any, ...], name: str = "row") -> str:
    """A record schema; a pair is a field, a triple has a default."""
    made = [{"name": f[0], "type": f[1], **({"default": f[2]} if len(f) > 2 else {})} for f in fields]
    return json.dumps({"type": "record", "name": name, "fields": made})


ID = ("id", "long")
V1 = Schema(record(ID), "AVRO")
V2 = Schema(record(ID, ("name", ["null", "string"], None)), "AVRO")
BAD = Schema(record(ID, ("qty", "int")), "AVRO")


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(kind: str, registry: str) -> Iterator[SchemaRegistryClient]:
    with connected(kind, registry) as client:
        yield client


@pytest.fixture
def fresh(kind: str, registry: str) -> Iterator[SchemaRegistryClient]:
    """A client that has nothing in its caches."""
    with connected(kind, registry) as client:
        yield client


@pytest.fixture
def subject() -> str:
    return f"subject/{next(_numbers)} é-value"


def refused(status: int, code: int) -> Any:
    """Expect one refusal."""
    return pytest.raises(SchemaRegistryError, check=lambda e: (e.http_status_code, e.error_code) == (status, code))


def test_register_and_read_back(client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str) -> None:
    first = client.register_schema(subject, V1)
    assert client.register_schema(subject, Schema(f" {V1.schema_str} ", "AVRO")) == first
    second = client.register_schema_full_response(subject, V2)
    assert (second.schema_id, second.version) != (first, 1) and second.guid is not None

    assert json.loads(fresh.get_schema(first).schema_str or "") == json.loads(V1.schema_str or "")
    assert fresh.get_schema_by_guid(second.guid).schema_str == fresh.get_schema(second.schema_id or 0).schema_str
    assert fresh.get_versions(subject) == [1, 2]
    assert subject in fresh.get_subjects()
    assert fresh.get_version(subject, 1).schema_id == first
    latest = fresh.get_latest_version(subject)
    assert (latest.version, latest.schema_id, latest.guid) == (2, second.schema_id, second.guid)
    assert fresh.lookup_schema(subject, V1).version == 1
    assert subject in fresh.get_subjects_by_schema_id(first)
    assert (subject, 1) in [(v.subject, v.version) for v in fresh.get_schema_versions(first)]
    assert fresh.get_schema_types() == ["AVRO"]


def test_one_schema_under_two_subjects_has_one_id(client: SchemaRegistryClient, subject: str) -> None:
    schema = Schema(record(ID, name=f"shared{next(_numbers)}"), "AVRO")
    assert client.register_schema(subject, schema) == client.register_schema(subject + "2", schema)
    schema_id = client.lookup_schema(subject, schema).schema_id
    assert client.get_subjects_by_schema_id(schema_id or 0) == [subject, subject + "2"]


def test_what_is_not_there(client: SchemaRegistryClient, subject: str) -> None:
    with refused(404, 40401):
        client.get_latest_version(subject)
    with refused(404, 40401):
        client.lookup_schema(subject, V1)
    client.register_schema(subject, V1)
    with refused(404, 40402):
        client.get_version(subject, 7)
    with refused(404, 40403):
        client.lookup_schema(subject, V2)
    with refused(404, 40403):
        client.get_schema(999_999)
    with refused(422, 42202):
        client.get_version(subject, 0)
    with refused(422, 42202):
        client.get_version(subject, "newest")  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("{", "AVRO"),
        (record(("a", "int", "x")), "AVRO"),
        (record(ID, ID), "AVRO"),
        (record(("a", "nonesuch")), "AVRO"),
        ("", "AVRO"),
        ('{"type":"object"}', "JSON"),
        ('syntax = "proto3";', "PROTOBUF"),
    ],
)
def test_what_is_no_avro_schema_is_refused(client: SchemaRegistryClient, subject: str, text: str, kind: str) -> None:
    with refused(422, 42201):
        client.register_schema(subject, Schema(text, kind))


def test_incompatible_schemas_are_refused_with_the_column(client: SchemaRegistryClient, subject: str) -> None:
    client.register_schema(subject, V1)
    with pytest.raises(SchemaRegistryError) as refusal:
        client.register_schema(subject, BAD)
    assert (refusal.value.http_status_code, refusal.value.error_code) == (409, 409)
    assert "row.qty: added without a default, cannot read the data of v1" in refusal.value.error_message
    assert f'incompatible with an earlier schema for subject "{subject}", details: [' in refusal.value.error_message
    assert not client.test_compatibility(subject, BAD)
    assert not client.test_compatibility(subject, BAD, version=1, verbose=True)
    assert not client.test_compatibility_all_versions(subject, BAD, verbose=True)
    assert client.test_compatibility(subject, V2)
    assert client.test_compatibility_all_versions(subject, V2)
    assert client.test_compatibility(f"{subject} unknown", BAD)
    with refused(404, 40402):
        client.test_compatibility(subject, V2, version=9)


def test_levels(client: SchemaRegistryClient, subject: str) -> None:
    assert client.get_compatibility() == "BACKWARD"
    with refused(404, 40408):
        client.get_compatibility(subject)
    assert client.set_compatibility(subject, "full_transitive")["compatibility"] == "FULL_TRANSITIVE"  # type: ignore[index]  # the client says str, and gives the answer's object
    assert client.get_compatibility(subject) == "FULL_TRANSITIVE"
    client.register_schema(subject, V1)
    with refused(409, 409):
        client.register_schema(subject, Schema(record(("id", "int")), "AVRO"))
    client.set_compatibility(subject, "NONE")
    client.register_schema(subject, Schema(record(("id", "int")), "AVRO"))
    with refused(422, 42203):
        client.set_compatibility(subject, "SIDEWAYS")
    assert client.delete_config(subject).compatibility_level is ConfigCompatibilityLevel.NONE
    with refused(404, 40401):
        client.delete_config(subject)


def test_configuration_has_all_its_fields(client: SchemaRegistryClient, subject: str) -> None:
    tier = Metadata(None, MetadataProperties({"tier": "gold"}), [])
    config = ServerConfig(
        compatibility=ConfigCompatibilityLevel.FULL, compatibility_group="major", default_metadata=tier
    )
    answer = client.set_config(subject, config)
    assert answer["compatibility"] == "FULL"  # type: ignore[index]  # the client says ServerConfig, and gives a dict
    read = client.get_config(subject)
    assert read.compatibility_level is ConfigCompatibilityLevel.FULL
    assert (read.compatibility_group, read.default_metadata) == ("major", tier)
    client.register_schema(subject, V1)
    assert client.get_latest_version(subject).schema.metadata == tier


def test_a_group_is_a_fresh_start(client: SchemaRegistryClient, subject: str) -> None:
    client.set_config(subject, ServerConfig(compatibility_group="major"))

    def of_major(major: str, text: str | None) -> Schema:
        return Schema(text, "AVRO", metadata=Metadata(None, MetadataProperties({"major": major}), None))

    client.register_schema(subject, of_major("1", V1.schema_str))
    with refused(409, 409):
        client.register_schema(subject, of_major("1", BAD.schema_str))
    client.register_schema(subject, of_major("2", BAD.schema_str))
    assert client.get_latest_with_metadata(subject, {"major": "1"}).version == 1
    with refused(404, 40403):
        client.get_latest_with_metadata(subject, {"major": "3"})


def test_metadata_and_rules_are_kept(client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str) -> None:
    rule = Rule(
        name="encrypt",
        doc=None,
        kind=RuleKind.TRANSFORM,
        mode=RuleMode.WRITEREAD,
        type="ENCRYPT",
        tags=["PII"],
        params=RuleParams({"encrypt.kek.name": "k"}),
        expr=None,
        on_success=None,
        on_failure="ERROR,NONE",
        disabled=False,
    )
    metadata = Metadata(None, MetadataProperties({"owner": "stock"}), ["owner"])
    schema = Schema(V1.schema_str, "AVRO", metadata=metadata, rule_set=RuleSet(None, [rule]))
    client.register_schema(subject, schema)
    kept = fresh.get_latest_version(subject).schema
    assert kept.metadata == metadata
    assert kept.rule_set is not None and kept.rule_set.domain_rules == [rule]
    assert client.register_schema(subject + "2", V1) != client.lookup_schema(subject, schema).schema_id


def test_soft_then_hard_deletion_of_a_version(
    client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str
) -> None:
    first, second = client.register_schema(subject, V1), client.register_schema(subject, V2)
    with refused(404, 40407):
        client.delete_version(subject, 1, permanent=True)
    assert client.delete_version(subject, 1) == 1
    with refused(404, 40406):
        client.delete_version(subject, 1)
    assert client.get_versions(subject) == [2]
    assert client.get_versions(subject, deleted=True) == [1, 2]
    assert client.get_version(subject, 1, deleted=True).schema_id == first
    assert fresh.get_schema(first).schema_str is not None
    assert client.delete_version(subject, 1, permanent=True) == 1
    assert client.get_versions(subject, deleted=True) == [2]
    assert client.get_latest_version(subject).schema_id == second


def test_soft_then_hard_deletion_of_a_subject(
    client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str
) -> None:
    first = client.register_schema(subject, V1)
    client.register_schema(subject, V2)
    client.set_compatibility(subject, "NONE")
    with refused(404, 40405):
        client.delete_subject(subject, permanent=True)
    assert client.delete_subject(subject) == [1, 2]
    with refused(404, 40404):
        client.delete_subject(subject)
    assert client.get_compatibility(subject) == "NONE"
    assert subject not in client.get_subjects()
    assert subject in client.get_subjects(deleted=True)
    assert client.lookup_schema(subject, V1, deleted=True).version == 1

    assert fresh.register_schema(subject, V1) == first
    assert fresh.get_versions(subject, deleted=True) == [2, 3]
    fresh.delete_subject(subject)
    assert fresh.delete_subject(subject, permanent=True) == [2, 3]
    with refused(404, 40401):
        fresh.delete_subject(subject)
    with refused(404, 40408):
        client.get_compatibility(subject)


def test_ids_are_never_given_out_twice(client: SchemaRegistryClient, subject: str) -> None:
    schema = Schema(record(ID, name=f"once{next(_numbers)}"), "AVRO")
    first = client.register_schema(subject, schema)
    client.delete_subject(subject)
    client.delete_subject(subject, permanent=True)
    other = Schema(record(ID, name=f"other{next(_numbers)}"), "AVRO")
    assert client.register_schema(subject, other) > first


def test_references(client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str) -> None:
    address = Schema(record(("street", "string"), name="Address"), "AVRO")
    client.register_schema(f"{subject}-address", address)
    reference = SchemaReference("Address", f"{subject}-address", 1)
    customer = Schema(record(ID, ("home", "Address")), "AVRO", [reference])
    schema_id = client.register_schema(subject, customer)
    assert client.get_referenced_by(f"{subject}-address", 1) == [schema_id]
    assert client.get_version(subject, 1).schema.references == [reference]
    resolved = fresh.get_schema(schema_id, fmt="resolved")
    assert json.loads(resolved.schema_str or "")["fields"][1]["type"]["fields"][0]["name"] == "street"
    assert client.lookup_schema(subject, Schema(resolved.schema_str, "AVRO")).schema_id == schema_id
    with refused(422, 42206):
        client.delete_version(f"{subject}-address", 1)
    with refused(422, 42206):
        client.delete_subject(f"{subject}-address")
    with refused(422, 42201):
        client.register_schema(subject, Schema(record(ID, ("home", "Nowhere")), "AVRO"))
    missing = SchemaReference("Address", f"{subject}-nowhere", 1)
    with refused(422, 42201):
        client.register_schema(subject, Schema(record(ID, ("home", "Address")), "AVRO", [missing]))


def test_modes(client: SchemaRegistryClient, subject: str) -> None:
    assert client.get_global_mode() == "READWRITE"
    with refused(404, 40409):
        client.get_mode(subject)
    client.register_schema(subject, V1)
    assert client.update_mode(subject, "READONLY") == "READONLY"
    with refused(422, 42205):
        client.register_schema(subject, V2)
    with refused(422, 42205):
        client.delete_subject(subject)
    with refused(422, 42205):
        client.update_mode(subject, "IMPORT")
    with refused(422, 42204):
        client.update_mode(subject, "SLEEPING")
    assert client.delete_mode(subject) == "READONLY"
    client.register_schema(subject, V2)


def test_global_mode(client: SchemaRegistryClient, subject: str) -> None:
    assert client.update_global_mode("READONLY") == "READONLY"
    try:
        assert client.get_global_mode() == "READONLY"
        with refused(422, 42205):
            client.register_schema(subject, V1)
    finally:
        client.update_global_mode("READWRITE")


def test_import_keeps_ids_and_versions(client: SchemaRegistryClient, subject: str) -> None:
    client.update_mode(subject, "IMPORT")
    body = {"schema": record(ID, name="imported"), "id": 5_000 + next(_numbers), "version": 7}
    path = f"subjects/{client_path(subject)}/versions"
    assert client._rest_client.post(path, body)["id"] == body["id"]
    assert client.get_version(subject, 7).schema_id == body["id"]
    with refused(422, 42205):  # an id means one schema for ever
        client._rest_client.post(path, {**body, "schema": record(ID, name="another"), "version": 8})
    with refused(422, 42205):  # and an import without an id is none
        client.register_schema(subject, V2)
    client.delete_mode(subject)
    assert client.register_schema(f"{subject}2", Schema(record(ID, name=f"n{next(_numbers)}"), "AVRO")) > body["id"]  # type: ignore[operator]
    with refused(422, 42205):
        client._rest_client.post(path, {**body, "id": 9_999, "version": 8})


def client_path(subject: str) -> str:
    return quote(subject, safe="")


def test_contexts_are_apart(client: SchemaRegistryClient, subject: str, registry: str) -> None:
    context = f".staging{next(_numbers)}"
    inside = f":{context}:{subject}"
    schema = Schema(record(ID, name=f"ctx{next(_numbers)}"), "AVRO")
    client.register_schema(subject, schema)
    assert client.register_schema(inside, schema) == 1  # ids start again in each context
    assert context in client.get_contexts() and "." in client.get_contexts()
    assert inside in client.get_subjects()
    assert subject not in client.get_subjects(subject_prefix=f":{context}:")
    with SchemaRegistryClient({"url": f"{registry}/contexts/{context}"}) as within:
        assert within.get_latest_version(subject).subject == inside
        assert within.get_subjects() == [inside]
        assert within.get_schema(1).schema_str == schema_text(client, inside)


def schema_text(client: SchemaRegistryClient, subject: str) -> str | None:
    return client.get_latest_version(subject).schema.schema_str


def test_pages(client: SchemaRegistryClient, subject: str) -> None:
    for number in range(3):
        client.register_schema(f"page{subject}{number}", V1)
    names = client.get_subjects(subject_prefix=f"page{subject}")
    assert len(names) == 3
    assert client.get_subjects(subject_prefix=f"page{subject}", offset=1, limit=1) == names[1:2]


def test_serializer_and_deserializer(client: SchemaRegistryClient, fresh: SchemaRegistryClient, subject: str) -> None:
    text = record(ID, ("name", ["null", "string"], None))
    serialize = AvroSerializer(client, text)
    context = SerializationContext(f"topic{next(_numbers)}", MessageField.VALUE)
    data = serialize({"id": 7, "name": "crate"}, context)
    assert data is not None and data[0] == 0
    assert int.from_bytes(data[1:5], "big") == client.get_latest_version(f"{context.topic}-value").schema_id
    assert AvroDeserializer(fresh, record(ID))(data, context) == {"id": 7}
    assert AvroDeserializer(fresh)(data, context) == {"id": 7, "name": "crate"}


async def test_asynchronous_serializer_and_deserializer(registry: str, subject: str) -> None:
    text = record(ID, ("name", ["null", "string"], None))
    context = SerializationContext(f"topic{next(_numbers)}", MessageField.VALUE)
    async with AsyncSchemaRegistryClient({"url": registry}) as client:
        serialize = await AsyncAvroSerializer(client, text)
        data = await serialize({"id": 7, "name": "crate"}, context)
        assert data is not None
        latest = await client.get_latest_version(f"{context.topic}-value")
        assert int.from_bytes(data[1:5], "big") == latest.schema_id
        narrow, whole = await AsyncAvroDeserializer(client, record(ID)), await AsyncAvroDeserializer(client)
        assert await narrow(data, context) == {"id": 7}
        assert await whole(data, context) == {"id": 7, "name": "crate"}
