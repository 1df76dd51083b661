"""The store, and the writes decided on it, without Kafka."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.schemas.registry.ledger import Ledger, compacted, load, row, seen

from instep_schemas.registry import writes
from instep_schemas.registry.refusals import Refusal
from instep_schemas.registry.requests import config_request, rule_set, schema_request


def refused(code: int) -> Any:
    return pytest.raises(Refusal, check=lambda refusal: refusal.code == code)


def test_ids_go_up_per_context_and_versions_per_subject() -> None:
    ledger = Ledger()
    assert [ledger.register("a", row("r", *"xyz"[:n])) for n in (1, 2)] == [1, 2]
    assert ledger.register("b", row("r", "x")) == 1
    assert ledger.register(":.other:b", row("r", *"xyz")) == 1
    assert ledger.register("b", row("r", *"xyz")) == 3
    assert [v.version for v in ledger.store.versions("b")] == [1, 2]
    assert ledger.store.contexts() == [".", ".other"]


def test_a_deleted_schema_comes_back_with_its_id_under_a_new_version() -> None:
    ledger = Ledger()
    schema_id = ledger.register("a", row())
    ledger.carry_out(writes.delete_subject(ledger.store, "a", permanent=False))
    assert ledger.register("a", row()) == schema_id
    assert [v.version for v in ledger.store.versions("a", deleted=True)] == [2]


def test_the_old_version_stays_when_it_is_referenced() -> None:
    ledger = Ledger()
    ledger.register("a", row("A"))
    reference = {"name": "A", "subject": "a", "version": -1}
    user = {"type": "record", "name": "U", "fields": [{"name": "a", "type": "A"}]}
    ledger.register("u", user, references=[reference])
    with refused(42206):
        writes.delete_version(ledger.store, "a", 1, permanent=False)
    assert ledger.store.versions("u")[0].content.references[0].version == 1


def test_highest_ids_survive_compaction() -> None:
    ledger = Ledger()
    ledger.register("a", row("a"))
    last = ledger.register("b", row("b"))
    ledger.carry_out(writes.delete_subject(ledger.store, "b", permanent=False))
    ledger.carry_out(writes.delete_subject(ledger.store, "b", permanent=True))
    again = Ledger(compacted(ledger.records))
    assert again.register("c", row("c")) == last + 1


def test_metadata_and_rules_are_inherited_and_merged() -> None:
    ledger = Ledger()
    update = {
        "defaultMetadata": {"properties": {"team": "stock", "tier": "1"}},
        "overrideMetadata": {"properties": {"tier": "9"}},
        "defaultRuleSet": {"domainRules": [{"name": "d", "type": "CEL", "expr": "a"}]},
        "overrideRuleSet": {"domainRules": [{"name": "d", "type": "CEL", "expr": "b"}]},
    }
    ledger.carry_out(writes.set_config(ledger.store, "a", config_request(update)))
    ledger.register("a", row("r", "x"), metadata={"properties": {"team": "sales", "own": "yes"}})
    ledger.register("a", row("r", "x", "y"))
    for version in ledger.store.versions("a"):
        assert version.content.metadata == {"properties": {"team": "sales", "tier": "9", "own": "yes"}}
        assert version.content.rule_set is not None
        assert [rule["expr"] for rule in version.content.rule_set["domainRules"]] == ["b"]


def test_the_nearest_setting_holds() -> None:
    ledger = Ledger()
    store = ledger.store

    def level(subject: str) -> str:
        return str(store.effective_config(subject)["compatibilityLevel"])

    for scope, name in ((None, "FULL"), (":.c:", "FORWARD"), (":.c:a", "NONE")):
        ledger.carry_out(writes.set_config(store, scope, {"compatibilityLevel": name}))
    for scope, mode in ((":.c:", "READWRITE"), (None, "READONLY")):
        ledger.carry_out(writes.set_mode(store, scope, mode, force=False))
    assert [level("a"), level(":.c:b"), level(":.c:a")] == ["FULL", "FORWARD", "NONE"]
    assert [store.effective_mode(s) for s in ("a", ":.c:b")] == ["READONLY", "READWRITE"]
    with refused(42205):
        writes.set_config(store, "a", {"compatibilityLevel": "NONE"})
    ledger.carry_out(writes.delete_config(store, ":.c:", recursive=True))
    assert [level(":.c:b"), level(":.c:a")] == ["FULL", "FULL"]
    ledger.carry_out(writes.set_mode(store, None, "READONLY_OVERRIDE", force=False))
    assert store.effective_mode(":.c:a") == "READONLY_OVERRIDE"
    with refused(42205):
        writes.delete_config(store, None)


def test_a_field_is_changed_alone_and_cleared_by_null() -> None:
    ledger = Ledger()
    for update in ({"compatibility": "full"}, {"compatibilityGroup": "major"}, {"compatibilityGroup": None}):
        ledger.carry_out(writes.set_config(ledger.store, "a", config_request(update)))
    assert ledger.store.config("a") == {"compatibilityLevel": "FULL"}


def test_reserved_fields() -> None:
    ledger = Ledger()
    ledger.register("a", row("r", "old"), metadata={"properties": {"confluent:reserved": "old"}})  # off by default
    ledger.carry_out(writes.set_config(ledger.store, "a", config_request({"validateFields": True})))
    with refused(409):
        ledger.register("a", row("r", "old", "new"), metadata={"properties": {"confluent:reserved": "other, old"}})
    with refused(409):
        ledger.register("a", row("r", "new"), metadata={"properties": {"confluent:reserved": "other"}})
    ledger.register("a", row("r", "new"), metadata={"properties": {"confluent:reserved": "other, old"}})


def test_an_import_needs_an_empty_place_or_force() -> None:
    ledger = Ledger()
    ledger.register("a", row())
    with refused(42205):
        writes.set_mode(ledger.store, None, "IMPORT", force=False)
    ledger.carry_out(writes.delete_subject(ledger.store, "a", permanent=False))
    ledger.carry_out(writes.set_mode(ledger.store, None, "IMPORT", force=False))
    assert ledger.store.versions("a", deleted=True) == []
    assert ledger.register("a", row("r", "x"), id=9, version=4) == 9
    assert ledger.register("a", row("r", "y"), id=7) == 7
    assert [v.version for v in ledger.store.versions("a")] == [4, 5]
    with refused(42205):
        ledger.register("b", row("other"), id=9)
    with refused(42205):
        ledger.register("a", row("r", "z"), id=11, version=4)


def test_contexts_are_deleted_when_empty() -> None:
    ledger = Ledger()
    ledger.register(":.c:a", row())
    with refused(42211):
        writes.delete_context(ledger.store, ".c")
    for permanent in (False, True):
        ledger.carry_out(writes.delete_subject(ledger.store, ":.c:a", permanent=permanent))
    ledger.carry_out(writes.delete_context(ledger.store, ".c"))
    assert ledger.store.contexts() == ["."]
    with refused(40401):
        writes.delete_context(ledger.store, ".c")


@pytest.mark.parametrize("subject", ["", ":.c:", "__GLOBAL", "a\nb"])
def test_bad_subjects(subject: str) -> None:
    with refused(42208):
        Ledger().register(subject, row())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ([], 400), ({"schema": 5}, 42201), ({"schema": '"int"', "schemaType": "JSON"}, 42201),
        ({"schema": '"int"', "references": [{"name": "x"}]}, 42201), ({"schema": '"int"', "version": "x"}, 400),
        ({"schema": '"int"', "ruleSet": {"domainRules": [{"type": "CEL"}]}}, 42210),
        ({"schema": '"int"', "ruleSet": {"domainRules": [{"name": "a", "type": "CEL", "mode": "UPGRADE"}]}}, 42210),
    ],
)  # fmt: skip
def test_bad_bodies(body: Any, code: int) -> None:
    with refused(code):
        schema_request(body)


def test_lenient_bodies() -> None:
    request = schema_request({"schema": '"int"', "references": None, "version": "2", "id": None, "extra": 1})
    assert (request.references, request.version, request.schema_id) == ((), 2, -1)
    rules = rule_set({"migrationRules": [{"name": "a", "type": "JSONATA"}], "domainRules": None})
    assert rules == {"migrationRules": [{"kind": "TRANSFORM", "mode": "UPDOWN", "name": "a", "type": "JSONATA"}]}


def test_a_reference_loop_in_the_topic_is_no_endless_loop() -> None:
    def value(subject: str, other: str, schema_id: int) -> dict[str, Any]:
        text = json.dumps({"type": "record", "name": subject, "fields": [{"name": "f", "type": ["null", other]}]})
        reference = {"name": other, "subject": other, "version": 1}
        return {"subject": subject, "version": 1, "id": schema_id, "schema": text, "references": [reference]}

    def key(subject: str) -> bytes:
        return f'{{"keytype":"SCHEMA","subject":"{subject}","version":1,"magic":1}}'.encode()

    store = load(
        [(key("A"), json.dumps(value("A", "B", 1)).encode()), (key("B"), json.dumps(value("B", "A", 2)).encode())]
    )
    version = store.versions("A")[0]
    assert '"name":"B"' in store.resolved_text(version.content, "A")


subjects = st.sampled_from(["a", "b", ":.c:a"])
schemas = st.sets(st.sampled_from("xyz"), max_size=3).map(lambda fields: row("row", *sorted(fields)))
scopes = st.one_of(st.none(), subjects, st.just(":.c:"))
steps = st.one_of(
    st.tuples(st.just("register"), subjects, schemas),
    st.tuples(st.just("import"), subjects, schemas, st.integers(1, 9), st.integers(0, 4)),
    st.tuples(st.just("delete_subject"), subjects, st.booleans()),
    st.tuples(st.just("delete_version"), subjects, st.sampled_from([-1, 1, 2, 3]), st.booleans()),
    st.tuples(st.just("set_config"), scopes, st.sampled_from(["NONE", "FULL"])),
    st.tuples(st.just("delete_config"), scopes, st.booleans()),
    st.tuples(st.just("set_mode"), scopes, st.sampled_from(["READWRITE", "READONLY", "IMPORT"]), st.booleans()),
    st.tuples(st.just("delete_mode"), scopes, st.booleans()),
    st.tuples(st.just("delete_context"), st.just(".c")),
)


def take(ledger: Ledger, step: tuple[Any, ...]) -> None:
    name, subject, *rest = step
    store = ledger.store
    if name == "register":
        ledger.register(subject, rest[0])
    elif name == "import":
        ledger.register(subject, rest[0], id=rest[1], version=rest[2])
    elif name == "delete_subject":
        ledger.carry_out(writes.delete_subject(store, subject, permanent=rest[0]))
    elif name == "delete_version":
        ledger.carry_out(writes.delete_version(store, subject, rest[0], permanent=rest[1]))
    elif name == "set_config":
        ledger.carry_out(writes.set_config(store, subject, {"compatibilityLevel": rest[0]}))
    elif name == "delete_config":
        ledger.carry_out(writes.delete_config(store, subject, recursive=rest[0]))
    elif name == "set_mode":
        ledger.carry_out(writes.set_mode(store, subject, rest[0], force=rest[1]))
    elif name == "delete_mode":
        ledger.carry_out(writes.delete_mode(store, subject, recursive=rest[0]))
    else:
        ledger.carry_out(writes.delete_context(store, subject))


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=25))
def test_any_history_reads_the_same_after_a_restart_and_after_compaction(history: list[tuple[Any, ...]]) -> None:
    ledger = Ledger()
    meaning: dict[tuple[str, int], str] = {}
    for step in history:
        before = len(ledger.records)
        try:
            take(ledger, step)
        except Refusal:
            assert len(ledger.records) == before
        for version in ledger.store.every_version():
            context = version.subject.rpartition(":")[0]
            known = meaning.setdefault((context, version.schema_id), version.content.guid)
            assert known == version.content.guid or any(s[0] == "import" for s in history)
    assert seen(load(ledger.records)) == seen(ledger.store)
    assert seen(load(compacted(ledger.records))) == seen(ledger.store)
