"""Bearer tokens: from a file, from an address, and those that are none."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from tests.fixtures.registry import running_registry
from tests.schemas.registry.ledger import row

from instep.errors import ConfigError
from instep.settings import KafkaSettings, RegistrySettings
from instep_schemas.registry import tokens as module
from instep_schemas.registry.secured import accounts_of
from instep_schemas.registry.tokens import Tokens, tokens_of

RSA = RSAKey.generate_key(2048, {"kid": "one"})
EC = ECKey.generate_key("P-256", {"kid": "two"})
KEYS = KeySet([RSA, EC])
ACCOUNTS = {"clerk": {"roles": {"shop.": "write"}}}
OWN: dict[str, Any] = {"user": "instep", "password": "i", "accounts": ACCOUNTS}


def public(*keys: Any) -> str:
    return json.dumps(KeySet(list(keys)).as_dict(private=False))


def token(key: Any = RSA, alg: str = "RS256", **claims: Any) -> str:
    said = {"sub": "clerk", "iss": "us", "aud": ["registry"], "exp": int(time.time()) + 600, **claims}
    return jwt.encode({"alg": alg, "kid": key.kid}, {k: v for k, v in said.items() if v is not None}, key)


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    (tmp_path / "keys.json").write_text(public(RSA, EC))
    return Tokens(str(tmp_path / "keys.json"), "us", "registry")


def test_who_a_token_is_for(tokens: Tokens) -> None:
    assert tokens.subject(token()) == "clerk"
    assert tokens.subject(token(EC, "ES256", sub="other")) == "other"


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": int(time.time()) - 60}, {"exp": None}, {"iss": "them"}, {"iss": None}, {"aud": "else"}, {"aud": None},
        {"sub": None}, {"nbf": int(time.time()) + 100_000},
    ],
)  # fmt: skip
def test_claims_that_do_not_hold(tokens: Tokens, wrong: dict[str, Any]) -> None:
    assert tokens.subject(token(**wrong)) is None


def test_tokens_that_somebody_else_made(tokens: Tokens) -> None:
    assert tokens.subject(token(RSAKey.generate_key(2048, {"kid": "one"}))) is None
    assert tokens.subject(token(RSAKey.generate_key(2048, {"kid": "three"}))) is None
    # the public key taken for a shared secret
    head = encoded(b'{"alg":"HS256","kid":"one"}')
    signed = f"{head}.{token().split('.')[1]}"
    mac = hmac.new(RSA.as_pem(private=False), signed.encode(), "sha256").digest()
    assert tokens.subject(f"{signed}.{encoded(mac)}") is None
    head = token().partition(".")[0]
    for text in ("", "x", "a.b.c", f"{head}.e30.", token()[:-4], "eyJhbGciOiJub25lIn0.e30."):
        assert tokens.subject(text) is None


@pytest.fixture(scope="module")
def url(kafka: KafkaSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = tmp_path_factory.mktemp("jwks") / "keys.json"
    keys.write_text(public(*KEYS.keys))
    topic = f"_schemas_tokens_{time.time_ns()}"
    more: dict[str, Any] = {**OWN, "issuer": "us", "incompatible_code": 40901}
    with running_registry(kafka, topic, jwks=str(keys), **more) as url:
        yield url


def test_a_token_has_the_roles_of_its_account(url: str) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
        body = {"schema": json.dumps(row("a"))}
        assert http.post("/subjects/shop.a/versions", json=body).status_code == 200
        assert http.post("/subjects/hr.a/versions", json=body).json()["error_code"] == 40401
    for text in (token(iss="them"), token(sub="nobody"), token(sub="instep")):
        assert httpx.get(f"{url}/subjects", headers={"Authorization": f"Bearer {text}"}).status_code == 401
    assert httpx.get(f"{url}/subjects", auth=("instep", "i")).json() == ["shop.a"]


def test_the_code_of_an_incompatible_schema_may_be_the_newer_one(url: str) -> None:
    with httpx.Client(base_url=url, auth=("instep", "i"), timeout=30) as http:
        http.post("/subjects/i/versions", json={"schema": json.dumps(row("a"))})
        changed = {"type": "record", "name": "a", "fields": [{"name": "x", "type": "int"}]}
        answer = http.post("/subjects/i/versions", json={"schema": json.dumps(changed)})
        assert (answer.status_code, answer.json()["error_code"]) == (409, 40901)


async def test_keys_come_from_an_address_also_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    served: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=served[-1]) if served else web.Response(status=503)

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    tokens = Tokens(f"http://127.0.0.1:{runner.addresses[0][1]}/keys")

    async def accepted(text: str) -> None:
        async with asyncio.timeout(30):
            while tokens.subject(text) != "clerk":  # noqa: ASYNC110  # nobody tells when keys were read
                await asyncio.sleep(0.01)

    try:
        async with aiohttp.ClientSession() as session:
            keeping = asyncio.create_task(tokens.keep(session))
            assert tokens.subject(token()) is None
            served.append(public(RSA))
            await accepted(token())
            assert tokens.subject(token(EC, "ES256")) is None
            served.append(public(EC))  # rotated: the next token that it signs makes us look
            await accepted(token(EC, "ES256"))
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
    finally:
        await runner.cleanup()


def test_keys_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"keys": [{"kty": "none"}]}')
    for name in ("bad.json", "missing.json"):
        with pytest.raises(ConfigError, match=r"registry\.jwks"):
            Tokens(str(tmp_path / name))
    with pytest.raises(ConfigError, match=r"registry\.accounts"):
        tokens_of(RegistrySettings.model_validate({"jwks": "x"}))
    assert tokens_of(RegistrySettings()) is None
    assert accounts_of(RegistrySettings()).tokens is None
