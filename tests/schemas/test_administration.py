"""What a person does with a real registry: deletes, levels, and a lost registry restored from its export."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from tests.fixtures.registry import running_registry

from instep.errors import RegistryError
from instep.settings import KafkaSettings
from instep_schemas.administration import RegistryAdmin
from instep_schemas.bundle import read

_numbers = count()


def record(*fields: str, name: str = "R") -> str:
    shown = [{"name": field, "type": ["null", "long"], "default": None} for field in fields]
    return json.dumps({"type": "record", "name": name, "namespace": "t", "fields": shown}, separators=(",", ":"))


@pytest.fixture(scope="module")
def source(kafka: KafkaSettings) -> Iterator[RegistryAdmin]:
    with running_registry(kafka, "_schemas_administration") as url, RegistryAdmin(url) as admin:
        yield admin


@pytest.fixture
def subject() -> str:
    return f"administration/{next(_numbers)}-value"


def test_versions_levels_and_modes(source: RegistryAdmin, subject: str) -> None:
    assert source.versions(subject) == []
    source.register(subject, record("a"))
    source.register(subject, record("a", "b"))
    first, second = source.versions(subject)
    assert (first.version, second.version) == (1, 2)
    assert source.version(subject) == second
    assert source.version(subject, 1).schema == record("a")
    assert (source.level(subject), source.config(subject)) == ("BACKWARD", {})
    source.configure(subject, {"compatibilityLevel": "FULL_TRANSITIVE"})
    assert source.level(subject) == "FULL_TRANSITIVE"
    assert source.mode(subject) is None
    source.set_mode(subject, "READONLY")
    with pytest.raises(RegistryError, match="42205"):
        source.register(subject, record("c"))
    source.set_mode(subject, None)
    assert source.mode(subject) is None


def test_deleting(source: RegistryAdmin, subject: str) -> None:
    source.register(subject, record("x"))
    source.register(subject, record("x", "y"))
    with pytest.raises(RegistryError, match="40407"):
        source.delete(subject, 1, permanent=True)
    assert source.delete(subject, 1) == [1]
    assert [each.version for each in source.versions(subject)] == [2]
    assert [(each.version, each.deleted) for each in source.versions(subject, deleted=True)] == [(1, True), (2, False)]
    assert source.delete(subject) == [2]
    assert source.delete(subject, permanent=True) == [1, 2]
    with pytest.raises(RegistryError, match=r"40401.*schema ls"):
        source.version(subject)


def fill(admin: RegistryAdmin) -> None:
    """All that an export must keep: references, deletions, gaps, contexts, metadata, rules, levels, modes."""
    for number in range(4):
        admin.register("fill-a", record(*(f"f{n}" for n in range(number + 1)), name="A"))
    body = {
        "schema": '{"type":"record","name":"B","namespace":"t","fields":[{"name":"a","type":"t.A"}]}',
        "references": [{"name": "t.A", "subject": "fill-a", "version": 3}],
        "metadata": {"properties": {"owner": "stock"}},
        "ruleSet": {
            "domainRules": [{"name": "r", "kind": "CONDITION", "type": "CEL", "mode": "WRITE", "expr": "true"}]
        },
    }
    assert admin.call("POST", "/subjects/fill-b/versions", body=body).status == 200
    admin.register(":.side:fill-a", record("other"))
    admin.delete("fill-a", 1)
    admin.delete("fill-a", 2)
    admin.delete("fill-a", 2, permanent=True)
    admin.configure("fill-a", {"compatibilityLevel": "FULL", "normalize": True})
    admin.configure("", {"compatibilityLevel": "FORWARD"})
    admin.set_mode("fill-b", "READONLY")


def by_id(admin: RegistryAdmin, schema_id: int) -> dict[str, Any]:
    """All but when it was written."""
    found: dict[str, Any] = httpx.get(f"{admin._urls[0]}/schemas/ids/{schema_id}").json()
    return {name: value for name, value in found.items() if name != "ts"}


def test_a_lost_registry_comes_back_from_its_export(source: RegistryAdmin, kafka: KafkaSettings) -> None:
    fill(source)
    bundle = source.export()
    with running_registry(kafka, "_schemas_restored") as url, RegistryAdmin(url) as lost:
        told: list[tuple[int, int]] = []
        new = lost.restore(read(bundle.text(), "x"), lambda done, total: told.append((done, total)))
        assert len(new) == len(bundle.versions) == len(told)
        assert lost.export() == bundle
        assert all(
            by_id(lost, each.id) == by_id(source, each.id) for each in bundle.versions if ":" not in each.subject
        )
        # what was deleted for good leaves a gap, and no id comes twice
        assert [each.version for each in lost.versions("fill-a", deleted=True)] == [1, 3, 4]
        highest = max(each.id for each in bundle.versions)
        assert lost.register("fill-new", record("new", name="New")) > highest
        # again: nothing to do
        assert lost.restore(bundle) == []
    source.set_mode("fill-b", None)


def test_an_interrupted_import_goes_on(source: RegistryAdmin, kafka: KafkaSettings) -> None:
    subject = "interrupted"
    for number in range(3):
        source.register(subject, record(*(f"i{n}" for n in range(number + 1)), name="I"))
    bundle = source.export(subject)
    assert bundle.subjects() == [subject]

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with running_registry(kafka, "_schemas_interrupted") as url, RegistryAdmin(url) as lost:
        with pytest.raises(KeyboardInterrupt):
            lost.restore(bundle, stop)
        assert [each.version for each in lost.versions(subject)] == [1, 2]
        assert [each.version for each in lost.restore(bundle)] == [3]
        assert lost.export(subject) == bundle
        assert lost.mode(subject) is None


def test_nothing_is_written_when_an_id_means_something_else(source: RegistryAdmin, kafka: KafkaSettings) -> None:
    source.register("conflict-1", record("c1", name="C1"))
    source.register("conflict-2", record("c2", name="C2"))
    bundle = source.export("conflict-")
    with running_registry(kafka, "_schemas_conflict") as url, RegistryAdmin(url) as other:
        taken = other.register("elsewhere", record("e", name="E"))
        shifted = bundle.text().replace(f'"id": {bundle.versions[1].id}', f'"id": {taken}')
        with pytest.raises(RegistryError, match=r"conflict.*elsewhere"):
            other.restore(read(shifted, "x"))
        assert other.versions("conflict-1") == []
        assert len(other.restore(bundle)) == 2
