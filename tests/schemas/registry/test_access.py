"""Accounts with roles, hidden subjects, certificates, and the trail of every write."""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.fixtures.registry import health, running_registry, until
from tests.schemas.registry.ledger import row

from instep.errors import ConfigError, RegistryError
from instep.settings import KafkaSettings, RegistrySettings, parse
from instep_schemas.client import RegistryClient
from instep_schemas.registry.access import Account, Role
from instep_schemas.registry.secured import accounts_of, anchored, tls

ACCOUNTS = {
    "clerk": {"password": "c", "roles": {"shop.": "write", "shop.secret": "none", "common": "read"}},
    "viewer": {"password": "v", "roles": {"*": "read", "hr.": "none"}},
    "chief": {"password": "h", "roles": {"shop.": "admin"}},
}
OWN: dict[str, Any] = {"user": "instep", "password": "i", "accounts": ACCOUNTS}


@pytest.fixture(scope="module")
def topic() -> str:
    return f"_schemas_access_{time.time_ns()}"


@pytest.fixture(scope="module")
def trail(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "trail.jsonl"


@pytest.fixture(scope="module")
def url(kafka: KafkaSettings, topic: str, trail: Path) -> Iterator[str]:
    with running_registry(kafka, topic, audit=trail, **OWN) as url:
        with as_user(url, "instep", "i") as http:
            for subject in ("shop.a", "shop.secret.b", "common", "hr.c"):
                assert register(http, subject, row(subject.replace(".", "_"))).status_code == 200
        yield url


def as_user(url: str, user: str, password: str) -> httpx.Client:
    return httpx.Client(base_url=url, auth=(user, password), timeout=30)


def register(http: httpx.Client, subject: str, schema: Any, **more: Any) -> httpx.Response:
    return http.post(f"/subjects/{subject}/versions", json={"schema": json.dumps(schema), **more})


def code(answer: httpx.Response) -> int:
    return int(answer.json().get("error_code", 0)) if answer.status_code >= 400 else 200


def test_what_may_not_be_read_is_not_there(url: str) -> None:
    with as_user(url, "clerk", "c") as http:
        assert http.get("/subjects").json() == ["common", "shop.a"]
        assert {each["subject"] for each in http.get("/schemas").json()} == {"common", "shop.a"}
        assert [code(http.get(f"/schemas/ids/{n}")) for n in (1, 2, 3, 4)] == [200, 40403, 200, 40403]
        for path in ("/subjects/hr.c/versions", "/subjects/hr.c/versions/1", "/config/hr.c", "/mode/shop.secret.b"):
            assert code(http.get(path)) == 40401
        assert code(http.post("/subjects/hr.c", json={"schema": json.dumps(row("hr_c"))})) == 40401
        assert code(register(http, "hr.c", row("x"))) == 40401
    with as_user(url, "viewer", "v") as http:
        assert http.get("/subjects").json() == ["common", "shop.a", "shop.secret.b"]


def test_a_reference_shows_nothing_hidden(url: str) -> None:
    reference = {"name": "hr_c", "subject": "hr.c", "version": 1}
    schema = {"type": "record", "name": "u", "fields": [{"name": "f", "type": "hr_c"}]}
    with as_user(url, "clerk", "c") as http:
        assert code(register(http, "shop.u", schema, references=[reference])) == 42201
        body = {"schema": json.dumps(schema), "references": [reference]}
        assert code(http.post("/compatibility/subjects/shop.a/versions/1", json=body)) == 42201


def test_roles_and_the_trail(url: str, trail: Path) -> None:
    with as_user(url, "clerk", "c") as http:
        assert code(register(http, "shop.d", row("d"))) == 200
        assert code(register(http, "common", row("common", "x"))) == 40301
        assert code(register(http, "shop.d", row("d", "x"), id=77)) == 40301
        assert code(http.put("/config/shop.d", json={"compatibility": "NONE"})) == 40301
        assert code(http.put("/config", json={"compatibility": "NONE"})) == 40301
        assert code(http.delete("/subjects/shop.d")) == 200
        assert code(http.delete("/subjects/shop.d?permanent=true")) == 40301
    with as_user(url, "chief", "h") as http:
        assert code(http.delete("/subjects/shop.d?permanent=true")) == 200
        assert code(http.put("/mode", json={"mode": "READONLY"})) == 40301
        assert code(http.put("/config/shop.a", json={"compatibility": "FULL"})) == 200
    lines = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
    told = [(line["who"], line["what"], line["result"]) for line in lines]
    assert ("clerk", "POST /subjects/shop.d/versions", 200) in told
    assert ("clerk", "DELETE /subjects/shop.d?permanent=true", 40301) in told
    assert ("chief", "DELETE /subjects/shop.d?permanent=true", 200) in told
    assert lines[0]["id"] == 1 and lines[0]["who"] == "instep"


@pytest.mark.parametrize("header", ["", "Basic", "Basic !", "Bearer x", "Basic Y2xlcms6d3Jvbmc=", "Basic Y2xlcms6"])
def test_strangers(url: str, header: str) -> None:
    assert httpx.get(f"{url}/subjects", headers={"Authorization": header}).status_code == 401


def test_a_follower_speaks_for_its_caller(kafka: KafkaSettings, topic: str, url: str, trail: Path) -> None:
    with running_registry(kafka, topic, **OWN) as follower:
        until(lambda: health(follower).get("leader") == url, 60)
        with as_user(follower, "clerk", "c") as http:
            assert code(register(http, "shop.e", row("e"))) == 200
            assert code(register(http, "hr.c", row("e"))) == 40401
        headers = {"X-Instep-For": "somebody"}
        with as_user(url, "clerk", "c") as http:
            assert http.delete("/subjects/shop.e", headers=headers).status_code == 200
    told = [json.loads(line) for line in trail.read_text(encoding="utf-8").splitlines()]
    assert [line["who"] for line in told if "shop.e" in line["what"]] == ["clerk", "clerk"]


def test_the_closest_prefix_holds() -> None:
    roles = {":*:": Role.READ, "s": Role.WRITE, ":.c:": Role.ADMIN, ":.c:hidden": Role.NONE}
    account = Account("a", roles)
    subjects = ("x", "s1", ":.c:x", ":.c:hidden1", ":.d:s1")
    assert [account.role(subject).name for subject in subjects] == ["READ", "WRITE", "ADMIN", "NONE", "READ"]
    assert not account.unlimited and Account("b", {":*:": Role.ADMIN}).unlimited


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"registry\.user"):
        accounts_of(RegistrySettings.model_validate({"accounts": ACCOUNTS}))
    for wrong in ({"client_ca": "x"}, {"certificate": str(tmp_path / "none.pem")}):
        with pytest.raises(ConfigError, match="certificate"):
            tls(RegistrySettings.model_validate(wrong))


def test_paths_start_at_the_projects_folder() -> None:
    settings = RegistrySettings.model_validate({"certificate": "a.pem", "audit": "/var/audit", "jwks": "keys.json"})
    found = anchored(settings, Path("/project"))
    assert found.jwks == "/project/keys.json"
    assert anchored(settings.model_copy(update={"jwks": "https://x/y"}), Path("/project")).jwks == "https://x/y"
    assert parse({"sources": {}, "registry": {"ca": "ca.pem"}}, Path("/project")).registry.ca == Path("/project/ca.pem")
    assert (found.certificate, found.audit, found.client_ca) == (Path("/project/a.pem"), Path("/var/audit"), None)


def settings_of(raw: dict[str, Any]) -> RegistrySettings:
    return RegistrySettings.model_validate(raw)


def certificate(folder: Path, name: str) -> Path:
    """A certificate that vouches for itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1)).add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = folder / f"{name}.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_certificates_on_both_sides(kafka: KafkaSettings, tmp_path: Path) -> None:
    topic = f"_schemas_tls_{time.time_ns()}"
    server, clerk, stranger = (certificate(tmp_path, name) for name in ("server", "clerk", "stranger"))
    secured = {**OWN, "certificate": server, "client_ca": clerk}
    with running_registry(kafka, topic, **secured) as url, running_registry(kafka, topic, **secured) as follower:
        assert url.startswith("https://")
        until(lambda: health(follower).get("leader") == url, 60)
        trust = ssl.create_default_context(cafile=str(server))
        with httpx.Client(base_url=follower, verify=trust, timeout=30) as http:
            assert http.get("/subjects").status_code == 401
            assert http.get("/subjects", auth=("clerk", "c")).status_code == 200
        own = {"url": follower, "user": "clerk", "password": "c"}
        with pytest.raises(ConnectionError, match="certificate"), RegistryClient.of(settings_of(own)) as client:
            client.subjects()
        with RegistryClient.of(settings_of({**own, "ca": server})) as client:
            assert client.subjects() == []
        with pytest.raises(RegistryError, match=r"registry\.ca"):
            RegistryClient.of(settings_of({**own, "ca": tmp_path / "none.pem"}))
        trust = ssl.create_default_context(cafile=str(server))
        trust.load_cert_chain(clerk)
        with httpx.Client(base_url=follower, verify=trust, timeout=30) as http:
            assert code(register(http, "shop.a", row("a"))) == 200
            assert code(register(http, "common", row("a"))) == 40301
        trust = ssl.create_default_context(cafile=str(server))
        trust.load_cert_chain(stranger)
        with httpx.Client(base_url=url, verify=trust) as http, pytest.raises(httpx.TransportError):
            http.get("/subjects")
