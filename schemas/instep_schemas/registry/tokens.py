"""Bearer tokens: JSON Web Tokens, verified with the keys that their issuer publishes (JWKS)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from instep.errors import ConfigError
from instep.settings import RegistrySettings

log = logging.getLogger("instep.registry")

_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Only those with public keys: with a shared secret, whoever verifies could also issue."""
_LEEWAY_S: Final = 30
_REFRESH_S: Final = 300.0
_RETRY_S: Final = 10.0
_TIMEOUT_S: Final = 10.0


class Tokens:
    """Verifies tokens; the keys are read again every five minutes, and when a token names one that is not there.

    Args:
        source: path or `http(s)://` address of the keys.
        issuer: what `iss` must say; empty: anything.
        audience: what `aud` must hold; empty: anything.

    Raises:
        ConfigError: the file cannot be read, or holds no keys.
    """

    def __init__(self, source: str, issuer: str = "", audience: str = "") -> None:
        self._source = source
        claims: dict[str, Any] = {"exp": {"essential": True}, "sub": {"essential": True}}
        claims |= {"iss": {"essential": True, "value": issuer}} if issuer else {}
        claims |= {"aud": {"essential": True, "value": audience}} if audience else {}
        self._claims = jwt.JWTClaimsRegistry(leeway=_LEEWAY_S, **claims)
        self._keys: KeySet | None = None
        self._stale = asyncio.Event()
        if not self._remote:
            try:
                self._take(Path(source).read_bytes())
            except (OSError, ValueError, KeyError, TypeError, JoseError) as exc:
                raise ConfigError(f"registry.jwks: {source} holds no keys that can be used: {exc}.") from exc

    @property
    def _remote(self) -> bool:
        return self._source.startswith(("http://", "https://"))

    def _take(self, content: bytes) -> None:
        self._keys = KeySet.import_key_set(orjson.loads(content))

    def subject(self, token: str) -> str | None:
        """The account that a token is for (`sub`); None when it is not valid."""
        if self._keys is None:
            return None
        try:
            found = jwt.decode(token, self._keys, algorithms=_ALGORITHMS)
            self._claims.validate(found.claims)
        except (JoseError, ValueError, TypeError) as exc:
            self._stale.set()  # perhaps signed with a key that is newer than ours
            log.info("a bearer token is refused: %s", exc)
            return None
        return str(found.claims["sub"])

    async def keep(self, session: aiohttp.ClientSession) -> None:
        """Read the keys from their address, again and again."""
        told = False
        while self._remote:
            self._stale.clear()
            try:
                timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
                async with session.get(self._source, timeout=timeout, raise_for_status=True) as response:
                    self._take(await response.read())
                told = False
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError, JoseError) as exc:
                if not told:
                    log.warning("the keys of bearer tokens cannot be read from %s: %s", self._source, exc)
                told = True
            await asyncio.sleep(_RETRY_S)  # however many bad tokens come
            if self._keys is not None:
                await _either(self._stale, _REFRESH_S)


async def _either(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def tokens_of(settings: RegistrySettings) -> Tokens | None:
    """What verifies tokens; None when none are taken.

    Raises:
        ConfigError: the keys cannot be read, or there are no accounts for the tokens.
    """
    if not settings.jwks:
        return None
    if not settings.accounts:
        raise ConfigError("registry.jwks needs registry.accounts.", "Name an account for each `sub` of a token.")
    return Tokens(settings.jwks, settings.issuer, settings.audience)
