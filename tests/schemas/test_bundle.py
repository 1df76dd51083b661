"""The exported file: what it keeps, what it refuses, in which order it is brought back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from instep.errors import RegistryError
from instep_schemas.bundle import Bundle, SubjectVersion, guid_of, read, version_of

A = '{"type":"record","name":"A","namespace":"t","fields":[{"name":"id","type":"long"}]}'
B = '{"type":"record","name":"B","namespace":"t","fields":[{"name":"a","type":"t.A"}]}'


def version(subject: str, number: int, schema_id: int, schema: str = A, **more: object) -> SubjectVersion:
    return version_of(subject, {"version": number, "id": schema_id, "schema": schema, **more})


WHOLE = Bundle(
    (
        version("b-value", 1, 1, B, references=[{"name": "t.A", "subject": "a-value", "version": 2}]),
        version("a-value", 1, 2, metadata={"properties": {"owner": "Zoë"}}, deleted=True),
        version("a-value", 2, 3),
        version(":.other:a-value", 1, 3, '"string"', ruleSet={"domainRules": [{"name": "r", "type": "CEL"}]}),
    ),
    {"": {"compatibilityLevel": "FULL"}, "a-value": {"compatibilityLevel": "NONE", "normalize": True}},
    {"a-value": "READONLY"},
)


def test_a_file_holds_everything() -> None:
    again = read(WHOLE.text(), "x")
    assert set(map(repr, again.versions)) == set(map(repr, WHOLE.versions))
    assert (again.configs, again.modes) == (WHOLE.configs, WHOLE.modes)
    assert read(again.text(), "x").text() == WHOLE.text()


def test_an_empty_registry_is_a_file_too() -> None:
    assert read(Bundle().text(), "x") == Bundle()


def test_each_version_is_one_line() -> None:
    lines = [line for line in WHOLE.text().splitlines() if '"guid"' in line]
    assert len(lines) == len(WHOLE.versions)


def test_levels_and_newest_versions() -> None:
    assert [WHOLE.level(s) for s in ("a-value", "b-value")] == ["NONE", "FULL"]
    assert Bundle().level("x") == "BACKWARD"
    newest = WHOLE.latest("a-value")
    assert newest is not None and newest.version == 2
    only_deleted = Bundle((version("a", 1, 1, deleted=True),))
    assert only_deleted.latest("a") is None


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda text: text.replace('\\"long\\"', '\\"string\\"', 1), "does not fit its GUID"),
        (lambda text: text.replace('"id": 3', '"id": 2'), "two different schemas have the id 2"),
        (lambda text: text.replace('"version": 2, "id": 3', '"version": 1, "id": 3'), "stands twice"),
        (lambda text: text.replace('"format": 1', '"format": 9'), "has format 9"),
        (lambda text: text[:-9], "holds no exported schemas"),
        (lambda text: "[]", "holds no exported schemas"),
        (lambda text: "{}", "holds no exported schemas"),
    ],
)
def test_a_damaged_file_is_refused(edit: object, told: str) -> None:
    changed = edit(WHOLE.text())  # type: ignore[operator]  # a function
    assert changed != WHOLE.text()
    with pytest.raises(RegistryError, match=told) as raised:
        read(changed, "schemas.lock")
    assert "schemas.lock" in raised.value.cause


def test_what_is_referenced_comes_first() -> None:
    assert [each.place for each in WHOLE.missing([])].index(("a-value", 2)) < [
        each.place for each in WHOLE.missing([])
    ].index(("b-value", 1))


def test_a_loop_of_references_ends() -> None:
    loop = Bundle(
        (
            version("a", 1, 1, A, references=[{"name": "t.B", "subject": "b", "version": 1}]),
            version("b", 1, 2, B, references=[{"name": "t.A", "subject": "a", "version": 1}]),
        )
    )
    assert sorted(each.subject for each in loop.missing([])) == ["a", "b"]


def test_a_long_chain_of_references() -> None:
    count = 3_000
    chain = [
        version(f"s{n}", 1, n + 1, f'{{"type":"fixed","name":"F{n}","size":{n + 1}}}')
        if n == count - 1
        else version(f"s{n}", 1, n + 1, B, references=[{"name": "x", "subject": f"s{n + 1}", "version": 1}], metadata={
            "properties": {"n": str(n)}
        })
        for n in range(count)
    ]  # fmt: skip
    order = [each.subject for each in Bundle(tuple(chain)).missing([])]
    assert order == [f"s{n}" for n in reversed(range(count))]


def test_what_is_there_already_is_no_conflict() -> None:
    assert WHOLE.conflicts(WHOLE.versions) == []
    assert WHOLE.missing(WHOLE.versions) == []
    # softly deleted there meanwhile: it comes back
    gone = [replace(each, deleted=True) for each in WHOLE.versions]
    assert {each.place for each in WHOLE.missing(gone)} == {each.place for each in WHOLE.versions if not each.deleted}


@pytest.mark.parametrize(
    "other",
    [
        version("a-value", 2, 3, B),  # another schema in the same place
        version("a-value", 2, 9),  # the same schema in the same place, under another id
        version("c-value", 1, 3, B),  # the id is taken
    ],
)
def test_conflicts(other: SubjectVersion) -> None:
    assert len(WHOLE.conflicts([other])) == 1
    assert WHOLE.conflicts([replace(other, subject=f":.third:{other.subject}")]) == []


def test_a_guid_is_made_of_the_content() -> None:
    plain, described = version("a", 1, 1), version("a", 1, 1, metadata={"properties": {"k": "v"}})
    assert guid_of(plain) == plain.guid != described.guid
    assert json.loads(json.dumps(described.to_dict()))["guid"] == described.guid
