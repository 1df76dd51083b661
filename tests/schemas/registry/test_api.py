"""The HTTP face, as any program sees it: statuses, bodies, content types, extremes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from tests.fixtures.registry import health, running_registry, until
from tests.schemas.registry.ledger import row

from instep.settings import KafkaSettings

_numbers = count()
KIND = "application/vnd.schemaregistry.v1+json"


@pytest.fixture
def http(registry: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=registry, timeout=30) as http:
        yield http


@pytest.fixture
def subject() -> str:
    return f"api{next(_numbers)}"


def body(schema: Any, **more: Any) -> dict[str, Any]:
    return {"schema": json.dumps(schema), **more}


def test_every_answer_is_json_of_the_registry_kind(http: httpx.Client, subject: str) -> None:
    for method, path, status in (
        ("GET", "/", 200),
        ("GET", "/subjects", 200),
        ("GET", "/subjects/none/versions", 404),
        ("GET", "/nowhere", 404),
        ("PATCH", "/subjects", 405),
        ("GET", "/subjects?limit=x", 400),
        ("GET", "/v1/metadata/id", 200),
        ("GET", "/v1/metadata/version", 200),
        ("GET", "/v1/metadata/deployment", 200),
    ):
        answer = http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, KIND)
        if status >= 400:
            assert set(answer.json()) == {"error_code", "message"}
            assert str(answer.json()["error_code"]).startswith(str(status))


@pytest.mark.parametrize("kind", [KIND, "application/json", "application/octet-stream", "text/plain"])
def test_any_content_type_is_taken(http: httpx.Client, subject: str, kind: str) -> None:
    data = json.dumps(body(row()))
    answer = http.post(f"/subjects/{subject}/versions", content=data, headers={"Content-Type": kind})
    assert answer.status_code == 200
    assert set(answer.json()) == {"id", "version", "guid", "schema", "schemaType"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_body(http: httpx.Client, subject: str, content: bytes) -> None:
    assert http.post(f"/subjects/{subject}/versions", content=content).status_code == 400


@pytest.mark.parametrize("name", ['"', "{", ":", "}", "'", "{x}", "ü/ä", "%", "a b", "*"])
def test_subjects_have_any_characters(http: httpx.Client, subject: str, name: str) -> None:
    quoted = quote(subject + name, safe="")
    assert http.post(f"/subjects/{quoted}/versions", json=body(row())).status_code == 200
    assert http.get(f"/subjects/{quoted}/versions/latest").json()["subject"] == subject + name


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, KIND), ("*/*", KIND), ("*", KIND), ("application/*", KIND), ("*/nonsense", KIND),
        ("application/json", "application/json"), ("text/html, */*; q=.2", KIND),
        ("application/vnd.schemaregistry.v2+json; q=0.1, application/vnd.schemaregistry+json; q=0.9",
         "application/vnd.schemaregistry+json"),
        (f"application/json; q=0.5, {KIND}", KIND),
        ("text/*", None), ("application/octet-stream", None), ("application/vnd.schemaregistry.v2+json", None),
    ],
)  # fmt: skip
def test_the_kind_that_is_asked_for(http: httpx.Client, accept: str | None, kind: str | None) -> None:
    del http.headers["Accept"]
    answer = http.get("/subjects", headers={} if accept is None else {"Accept": accept})
    assert answer.headers["content-type"] == kind if kind else answer.status_code == 406
    assert answer.headers["cache-control"] == "no-cache, no-store, must-revalidate"


def test_bodies_in_another_unicode_encoding(http: httpx.Client, subject: str) -> None:
    data = json.dumps(body(row())).encode("utf-16")
    assert http.post(f"/subjects/{subject}/versions", content=data).status_code == 200


def test_an_id_is_a_number(http: httpx.Client) -> None:
    assert http.get("/schemas/ids/invalid").json() == {"error_code": 404, "message": "HTTP 404 Not Found"}


def test_raw_schemas(http: httpx.Client, subject: str) -> None:
    schema_id = http.post(f"/subjects/{subject}/versions", json=body(row("raw", "x"))).json()["id"]
    for path in (f"/subjects/{subject}/versions/1/schema", f"/schemas/ids/{schema_id}/schema"):
        assert http.get(path).json() == row("raw", "x")
    assert http.get(f"/schemas/ids/{schema_id}?fetchMaxId=true").json()["maxId"] >= schema_id


def test_wide_schemas(http: httpx.Client, subject: str) -> None:
    wide = row("wide", *(f"column_{number}" for number in range(1_000)))
    schema_id = http.post(f"/subjects/{subject}/versions", json=body(wide)).json()["id"]
    assert http.get(f"/schemas/ids/{schema_id}/schema").json() == wide
    wider = row("wide", *(f"column_{number}" for number in range(1_001)))
    assert http.post(f"/compatibility/subjects/{subject}/versions/1", json=body(wider)).json()["is_compatible"]


def test_a_schema_that_kafka_does_not_take(http: httpx.Client, subject: str) -> None:
    answer = http.post(f"/subjects/{subject}/versions", json=body({**row("big"), "doc": "x" * 2_000_000}))
    assert (answer.status_code, answer.json()["error_code"]) == (422, 42209)
    assert http.post(f"/subjects/{subject}/versions", json=body(row("small"))).status_code == 200


def test_deeply_nested_schemas_are_refused(http: httpx.Client, subject: str) -> None:
    deep = '{"type":"array","items":' * 5_000 + '"int"' + "}" * 5_000
    answer = http.post(f"/subjects/{subject}/versions", json={"schema": deep})
    assert (answer.status_code, answer.json()["error_code"]) == (422, 42201)


def test_recursive_schemas(http: httpx.Client, subject: str) -> None:
    fields: list[Any] = [{"name": "head", "type": "int"}, {"name": "tail", "type": ["null", "list"], "default": None}]
    linked = {"type": "record", "name": "list", "fields": fields}
    assert http.post(f"/subjects/{subject}/versions", json=body(linked)).status_code == 200
    fields[0]["type"] = "string"
    answer = http.post(f"/subjects/{subject}/versions", json=body(linked))
    assert answer.status_code == 409 and answer.json()["message"].count("list.head: int → string") == 1


def test_listing_of_schemas(http: httpx.Client, subject: str) -> None:
    for fields in ("x", "xy"):
        http.post(f"/subjects/{subject}/versions", json=body(row("r", *fields)))
    http.delete(f"/subjects/{subject}/versions/2")
    path = f"/schemas?subjectPrefix={subject}"
    assert [each["version"] for each in http.get(path).json()] == [1]
    assert [each.get("deleted") for each in http.get(f"{path}&deleted=true").json()] == [None, True]
    assert [each["version"] for each in http.get(f"{path}&deleted=true&latestOnly=true").json()] == [2]
    assert http.get(f"/subjects/{subject}/versions?deletedAsNegative=true").json() == [1, -2]
    assert http.get(f"/subjects/{subject}/versions?deletedOnly=true").json() == [2]


def test_guid_leads_to_the_id_of_each_context(http: httpx.Client, subject: str) -> None:
    schema = row(f"guid_{subject}")
    guid = http.post(f"/subjects/{subject}/versions", json=body(schema)).json()["guid"]
    http.post(f"/contexts/.{subject}/subjects/a/versions", json=body(schema))
    ids = http.get(f"/schemas/guids/{guid}/ids").json()
    assert {each["context"] for each in ids} == {".", f".{subject}"}
    assert http.get(f"/schemas/guids/{guid}").json()["schema"] == json.dumps(schema, separators=(",", ":"))
    assert http.get(f"/schemas/ids/1?subject=:.{subject}:a").json()["guid"] == guid
    assert http.delete(f"/contexts/.{subject}").json()["error_code"] == 42211


def test_an_alias_is_read_as_its_subject(http: httpx.Client, subject: str) -> None:
    http.post(f"/subjects/{subject}/versions", json=body(row("r")))
    http.put(f"/config/{subject}-short", json={"alias": subject})
    assert http.get(f"/subjects/{subject}-short/versions/latest").json()["subject"] == subject


def test_a_forwarded_write_is_not_forwarded_again(kafka: KafkaSettings) -> None:
    topic = f"_schemas_forward_{next(_numbers)}"
    with running_registry(kafka, topic) as leader, running_registry(kafka, topic) as follower:
        until(lambda: health(follower).get("leader") == leader, 60)
        headers = {"X-Forward": "false"}
        answer = httpx.post(f"{follower}/subjects/a/versions", json=body(row()), headers=headers, timeout=30)
        assert (answer.status_code, answer.json()["error_code"]) == (500, 50004)
        assert httpx.post(f"{leader}/subjects/a/versions", json=body(row()), headers=headers).status_code == 200
