"""What Confluent's own registry does on the finer points of registering, as its newest release's tests tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.schemas.registry.ledger import Ledger, row

from instep_schemas.registry import reads
from instep_schemas.registry.ask import Ask
from instep_schemas.registry.refusals import Refusal
from instep_schemas.registry.registration import check_request, modify_tags, register
from instep_schemas.registry.requests import schema_request, tag_request
from instep_schemas.registry.writes import delete_mode, delete_subject, delete_version, set_config, set_mode

F1 = {"type": "record", "name": "myrecord", "fields": [{"name": "f1", "type": "string"}]}
TEXT = json.dumps(F1, separators=(",", ":"))


def refused(code: int) -> Any:
    return pytest.raises(Refusal, check=lambda refusal: refusal.code == code)


class Registry(Ledger):
    """A ledger with the reads."""

    def full(self, subject: str = "s", **body: Any) -> Any:
        return self.carry_out(register(self.store, subject, schema_request(body)))

    def look_up(self, subject: str = "s", **body: Any) -> Any:
        return reads.look_up(self.store, Ask({"subject": subject}, {}, json.dumps(body).encode()))

    def version(self, subject: str = "s", version: str = "latest", **query: str) -> Any:
        asked = {name: [value] for name, value in query.items()}
        return reads.version(self.store, Ask({"subject": subject, "version": version}, asked))

    def tag(self, version: int = -1, **body: Any) -> Any:
        return self.carry_out(modify_tags(self.store, "s", version, tag_request(body)))

    def gone(self, subject: str, version: int, *, permanent: bool = False) -> None:
        self.carry_out(delete_version(self.store, subject, version, permanent=permanent))


@pytest.fixture
def registry() -> Registry:
    return Registry()


def numbered(version: Any) -> dict[str, Any]:
    return {"properties": {"confluent:version": str(version)}}


def test_a_version_that_is_asked_for_stands_in_the_metadata(registry: Registry) -> None:
    def registers(version: Any, metadata: Any, expected: int) -> None:
        assert registry.full(schema=TEXT, version=version, metadata=metadata)["id"] == expected, (version, metadata)

    registers(None, None, 1)
    registers(-1, None, 1)
    registers(2, None, 2)
    registers(-1, None, 2)
    assert registry.version()["metadata"] == numbered(2)
    assert "metadata" not in registry.look_up(schema=TEXT)
    assert registry.look_up(schema=TEXT, metadata=numbered(1))["version"] == 1
    assert registry.look_up(schema=TEXT, metadata=numbered(2))["metadata"] == numbered(2)
    registry.gone("s", 1)
    assert registry.look_up(schema=TEXT)["version"] == 2
    registers(None, None, 2)
    registers(3, None, 3)
    registers(-1, None, 3)
    with refused(42201):
        registers(3, None, 3)
    registers(4, None, 4)
    assert registry.look_up(schema=TEXT)["version"] == 4
    registers(None, numbered(-1), 5)
    assert registry.version()["metadata"] == numbered(5)
    registers(None, numbered(2), 2)
    registers(None, numbered(3), 3)
    registers(None, numbered(0), 6)
    registers(None, {"properties": {}}, 6)
    mine = {"properties": {"mykey": "myvalue"}}
    registers(None, mine, 7)
    assert registry.version()["metadata"] == mine
    registers(-1, None, 8)
    assert registry.look_up(schema=TEXT, metadata=mine)["version"] == 7
    registry.gone("s", 7)
    assert registry.look_up(schema=TEXT, metadata=mine)["version"] == 8
    with refused(40403):
        registry.look_up(schema=json.dumps({**F1, "doc": "d"}), version=-1)


def test_metadata_or_rules_alone_are_for_the_newest_schema(registry: Registry) -> None:
    with refused(42201):
        registry.full(metadata={"properties": {"a": "b"}})
    registry.full(schema=TEXT)
    assert registry.full(metadata={"properties": {"a": "b"}})["schema"] == TEXT
    rules = {"migrationRules": [{"name": "foo", "kind": "TRANSFORM", "mode": "UPGRADE", "type": "IGNORE"}]}
    third = registry.full(ruleSet=rules)
    assert (third["version"], third["ruleSet"], third["metadata"]) == (3, rules, {"properties": {"a": "b"}})
    assert registry.look_up(schema=TEXT)["version"] == 1


def test_tags(registry: Registry) -> None:
    def tags(path: str, *names: str) -> list[dict[str, Any]]:
        kind = "sr_field" if "." in path[1:] else "sr_record"
        return [{"schemaEntity": {"entityPath": path, "entityType": kind}, "tags": list(names)}]

    registry.full(schema=TEXT)
    second = registry.full(schema=TEXT, schemaTagsToAdd=tags("myrecord", "A", "B"))
    assert second["schema"] == TEXT[:-1] + ',"confluent:tags":["A","B"]}'
    assert (second["version"], second["metadata"]) == (2, numbered(2))
    assert registry.version(findTags="*")["schemaTags"] == tags("myrecord", "A", "B")
    assert registry.version(findTags="C")["schemaTags"] == []
    third = registry.tag(tagsToRemove=tags(".myrecord", "B"), tagsToAdd=tags("myrecord.f1", "PII"), newVersion=3)
    assert third["version"] == 3
    assert registry.version(findTags="PII")["schemaTags"] == tags("myrecord.f1", "PII")
    evolved = {**F1, "fields": [*F1["fields"], {"name": "f2", "type": "string", "default": "hi"}]}
    fourth = registry.full(schema=json.dumps(evolved), propagateSchemaTags=True)
    assert fourth["version"] == 4
    assert registry.version(findTags="*")["schemaTags"] == [*tags("myrecord", "A"), *tags("myrecord.f1", "PII")]
    with refused(42201):
        registry.tag(tagsToAdd=tags("does.not.exist", "A"))
    with refused(42201):
        registry.tag(tagsToAdd=tags("myrecord", "Z"), newVersion=1)
    with refused(40402):
        registry.tag(9, tagsToAdd=tags("myrecord", "Z"))


def test_rules_are_merged_into_the_newest_ones(registry: Registry) -> None:
    def rule(name: str, mode: str, tag: str = "PII") -> dict[str, Any]:
        return {"name": name, "kind": "TRANSFORM", "mode": mode, "type": "foo", "tags": [tag]}

    registry.full(schema=TEXT)
    rules = {
        "migrationRules": [rule("m1", "UPGRADE"), rule("m2", "UPGRADE")],
        "domainRules": [rule("d1", "WRITEREAD"), rule("d2", "WRITEREAD"), rule("d3", "WRITEREAD")],
    }
    assert registry.tag(newVersion=2, rulesToMerge=rules, rulesToRemove=["d4"])["ruleSet"] == rules
    more = {
        "migrationRules": [rule("m3", "UPGRADE", "X")],
        "domainRules": [rule("d5", "WRITEREAD", "X"), rule("d2", "WRITEREAD", "X")],
    }
    merged = registry.tag(newVersion=3, rulesToMerge=more, rulesToRemove=["d1", "m2"])
    assert merged["version"] == 3
    assert [each["name"] for each in merged["ruleSet"]["migrationRules"]] == ["m1", "m3"]
    assert [each["name"] for each in merged["ruleSet"]["domainRules"]] == ["d3", "d5", "d2"]


def test_new_schemas_need_not_be_valid_when_it_is_switched_off(registry: Registry) -> None:
    bad_default = json.dumps({**F1, "fields": [{"name": "f", "type": "int", "default": "foo"}]})
    bad_space = json.dumps({**F1, "namespace": "a-bad.namespace"})
    for bad in (bad_default, bad_space):
        with refused(42201):
            registry.full(schema=bad)
    told = check_request(
        registry.store, "s", schema_request({"schema": bad_default}), -1, normalize=False, verbose=True
    )
    assert told["is_compatible"] is False and "Invalid schema" in told["messages"][0]
    registry.carry_out(set_config(registry.store, None, {"validateNewSchemas": False}))
    assert registry.full("one", schema=bad_default)["id"] == 1
    assert registry.full("two", schema=bad_space)["id"] == 2


def test_imports_are_taken_as_they_are(registry: Registry) -> None:
    raw = '{"type":"record","name":"r","fields":[{"name":"f","type":"string","zprop":"z","aprop":"a"}]}'
    registry.carry_out(set_config(registry.store, "s", {"normalize": True}))
    registry.carry_out(set_mode(registry.store, None, "IMPORT", force=False))
    with refused(42205):
        registry.full(schema=raw)
    assert registry.full(schema=raw, version=1, id=100)["schema"] == raw
    assert registry.full(schema=raw, version=2, id=200)["id"] == 200
    assert registry.full("t", schema=raw, version=1, id=100)["id"] == 100
    assert registry.full("t", schema=raw)["id"] == 100
    with refused(42205):
        registry.full("u", schema=TEXT, version=1, id=100)
    registry.carry_out(delete_subject(registry.store, "t", permanent=False))
    assert registry.full("t", schema=raw, version=1, id=100, metadata=None)["version"] == 1


def test_a_registered_schema_is_found_in_any_mode(registry: Registry) -> None:
    registry.full(schema=TEXT)
    registry.carry_out(set_mode(registry.store, None, "READONLY", force=False))
    assert registry.full(schema=f" {TEXT} ")["version"] == 1
    with refused(42205):
        registry.full("t", schema=TEXT)


def test_references_must_be_live(registry: Registry) -> None:
    reference = [{"name": "myrecord", "subject": "ref", "version": 1}]
    base = json.dumps({"type": "record", "name": "base", "fields": [{"name": "x", "type": "myrecord"}]})
    registry.full("ref", schema=TEXT)
    registry.full("base", schema=base, references=reference)
    registry.gone("base", 1)
    registry.gone("ref", 1)
    with refused(42201):
        registry.full("base", schema=base, references=reference)
    by = Ask({"subject": "ref", "version": "1"}, {"deleted": ["true"]})
    assert reads.referenced_by(registry.store, by) == [2]
    assert reads.referenced_by(registry.store, Ask(by.path, {})) == []


def test_references_in_any_order_are_the_same_when_normalized(registry: Registry) -> None:
    for name in ("a", "b"):
        registry.full(f"ref-{name}", schema=json.dumps({**F1, "name": name}))
    fields = [{"name": name, "type": name} for name in ("a", "b")]
    schema = json.dumps({"type": "record", "name": "base", "fields": fields})
    pair = [{"name": name, "subject": f"ref-{name}", "version": 1} for name in ("a", "b")]
    registry.carry_out(set_config(registry.store, "s", {"normalize": True}))
    registry.full(schema=schema, references=pair)
    assert registry.look_up(schema=schema, references=pair[::-1])["version"] == 1
    qualified = {"referenceFormat": "qualified"}
    assert registry.version(**qualified)["references"][0]["subject"] == "ref-a"
    registry.full(":.c:x", schema=TEXT)
    only = json.dumps({"type": "record", "name": "base", "fields": [{"name": "x", "type": "myrecord"}]})
    registry.full(":.c:y", schema=only, references=[{"name": "myrecord", "subject": "x", "version": 1}])
    assert registry.version(":.c:y")["references"][0]["subject"] == "x"
    assert registry.version(":.c:y", **qualified)["references"][0]["subject"] == ":.c:x"


def test_a_subject_without_context_may_be_meant_in_another_one(registry: Registry) -> None:
    registry.full(":.c:only", schema=TEXT)
    assert registry.version("only")["subject"] == ":.c:only"
    assert registry.look_up("only", schema=TEXT)["subject"] == ":.c:only"
    with refused(40401):
        registry.version("never")


def test_listing_by_rule_type_and_with_aliases(registry: Registry) -> None:
    rules = {"domainRules": [{"name": "foo", "type": "type1"}]}
    registry.full("one", schema=TEXT, ruleSet=rules)
    registry.full("two", schema=TEXT)
    for alias in ("onAlias", "another"):
        registry.carry_out(set_config(registry.store, alias, {"alias": "one"}))

    def listed(**query: str) -> Any:
        asked = {name: [value] for name, value in query.items()}
        return [(each["subject"], each.get("aliases")) for each in reads.schemas(registry.store, Ask({}, asked))]

    assert listed(ruleType="type1") == [("one", None)]
    assert listed(aliases="true") == [("one", ["another", "onAlias"]), ("two", None)]
    assert listed(aliases="true", subjectPrefix="an") == [("one", ["another"])]
    assert listed(subjectPrefix="an") == []


def test_an_alias_stands_for_its_subject(registry: Registry) -> None:
    registry.carry_out(set_config(registry.store, "short", {"alias": "one"}))
    ask = Ask({"subject": "short"}, {})
    assert ask.aliased(registry.store.config).subject == "one"
    by_id = Ask({"id": "1"}, {"subject": ["short"]})
    assert by_id.aliased(registry.store.config).text("subject") == "one"
    registry.carry_out(set_config(registry.store, None, {"alias": "nobody"}))
    assert Ask({"subject": "other"}, {}).aliased(registry.store.config).subject == "other"


def test_a_mode_is_deleted_with_those_below(registry: Registry) -> None:
    for scope in (":.c:a", ":.c:b"):
        registry.carry_out(set_mode(registry.store, scope, "READONLY", force=False))
    with refused(40401):
        delete_mode(registry.store, ":.c:")
    assert registry.carry_out(delete_mode(registry.store, ":.c:", recursive=True)) == {"mode": None}
    assert registry.store.mode(":.c:a") is None


def test_the_answer_to_a_new_configuration_is_all_of_it(registry: Registry) -> None:
    registry.carry_out(set_config(registry.store, None, {"compatibilityGroup": "v", "validateFields": True}))
    assert registry.carry_out(set_config(registry.store, None, {"compatibilityGroup": None})) == {
        "validateFields": True
    }


def test_a_refusal_shows_the_old_schema(registry: Registry) -> None:
    registry.register("s", row("r"))
    with pytest.raises(Refusal) as refusal:
        registry.full(schema='{"type":"record","name":"r","fields":[{"name":"x","type":"int"}]}')
    told = refusal.value.message
    assert "errorType:'READER_FIELD_MISSING_DEFAULT_VALUE'" in told
    assert "{oldSchemaVersion: 1}, {oldSchema: '" in told and "compatibility: 'BACKWARD'}]" in told
