"""Our client of a schema registry: what it caches, which failures pass and which a person must mend."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import count

import httpx
import pytest

from instep.errors import Advice, RegistryError, advice
from instep_ops.embedded.ports import free_port
from instep_schemas.client import RegistryClient

_numbers = count()
V1 = '{"type":"record","name":"R","fields":[{"name":"id","type":"long"}]}'
V2 = '{"type":"record","name":"R","fields":[{"name":"id","type":"long"},{"name":"n","type":"int"}]}'


@pytest.fixture
def subject() -> str:
    return f"client/{next(_numbers)}-value"


@pytest.fixture
def client(registry: str) -> Iterator[RegistryClient]:
    with RegistryClient(registry) as client:
        yield client


class _Stand(BaseHTTPRequestHandler):
    """Answers every call with what the server was told."""

    def do_GET(self) -> None:
        self.server.calls += 1  # type: ignore[attr-defined]  # set where the server is made
        status, body = self.server.answer  # type: ignore[attr-defined]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stand() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), _Stand)
    server.calls, server.answer = 0, (200, b"{}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(server: HTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


def test_register_look_up_check(client: RegistryClient, subject: str) -> None:
    assert client.latest(subject) is None
    assert client.check(subject, V2) == []
    schema_id = client.register(subject, V1)
    assert client.latest(subject) == (schema_id, 1, V1)
    assert json.loads(client.schema(schema_id)) == json.loads(V1)
    assert subject in client.subjects()
    assert client.check(subject, V2) == ["R.n: added without a default, cannot read the data of v1"]
    with pytest.raises(RegistryError, match=r"R\.n: added without a default.*lower the subject's compatibility level"):
        client.register(subject, V2)
    with pytest.raises(RegistryError, match=r"42201"):
        client.register(subject, "{")
    with pytest.raises(RegistryError, match=r"999999.*registry\.url"):
        client.schema(999_999)


def test_a_schema_comes_with_what_it_references(client: RegistryClient, registry: str, subject: str) -> None:
    client.register(subject, V1)
    body = {
        "schema": '{"type":"record","name":"U","fields":[{"name":"r","type":"R"}]}',
        "references": [{"name": "R", "subject": subject, "version": 1}],
    }
    schema_id = httpx.post(f"{registry}/subjects/{subject.replace('/', '%2F')}2/versions", json=body).json()["id"]
    assert json.loads(client.schema(schema_id))["fields"][0]["type"]["fields"][0]["name"] == "id"


def test_ids_are_asked_for_once(stand: HTTPServer) -> None:
    with RegistryClient(address(stand)) as client:
        stand.answer = (200, b'{"id":7,"schema":"\\"int\\""}')  # type: ignore[attr-defined]
        assert [client.register("s", '"int"'), client.schema(7)] == [7, '"int"']
        stand.answer = (500, b"{}")  # type: ignore[attr-defined]
        assert [client.register("s", '"int"'), client.schema(7)] == [7, '"int"']
        assert stand.calls == 2  # type: ignore[attr-defined]


def test_the_next_address_is_tried(registry: str, subject: str) -> None:
    with RegistryClient(f"http://127.0.0.1:{free_port()}, {registry}/") as client:
        assert client.register(subject, V1) > 0


def test_an_unreachable_registry_passes() -> None:
    with RegistryClient(f"http://127.0.0.1:{free_port()}") as client, pytest.raises(ConnectionError) as failure:
        client.subjects()
    assert advice(failure.value) is Advice.AGAIN


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>"),
        (502, b"<html>"),
        (503, b'{"error_code":50301,"message":"later"}'),
        (500, b'{"error_code":50004,"message":"Leader not known"}'),
    ],
)
def test_what_is_no_answer_passes(stand: HTTPServer, answer: tuple[int, bytes]) -> None:
    stand.answer = answer  # type: ignore[attr-defined]
    with RegistryClient(address(stand)) as client, pytest.raises(ConnectionError):
        client.subjects()


def test_registries_without_the_check_of_all_versions(stand: HTTPServer) -> None:
    stand.answer = (404, b'{"error_code":404,"message":"HTTP 404 Not Found"}')  # type: ignore[attr-defined]
    with RegistryClient(address(stand)) as client:
        assert client.check("s", V1) == []
        assert stand.calls == 2  # type: ignore[attr-defined]


def test_no_address() -> None:
    with pytest.raises(RegistryError, match=r"registry\.url"):
        RegistryClient(" , ")
