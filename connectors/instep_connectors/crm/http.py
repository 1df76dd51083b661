"""One HTTP layer for every CRM: a call gives an answer or a fault the engine knows; it never logs secrets or values.

What happened decides what is known about the write:

| what happened                                    | a read  | a write  |
|--------------------------------------------------|---------|----------|
| no connection (nothing was sent)                 | Retry   | Retry    |
| connection lost or time out after sending        | Retry   | Unknown  |
| 500, 502, 504 (may have failed after the commit) | Retry   | Unknown  |
| 503, 408, 425                                    | Retry   | Retry    |
| 429                                              | Throttled by Retry-After   |
| 400, 404, 409, 413, 422, …                       | Rejected with the target's own words |
| 401, 403, a redirect, a web page instead of JSON | TargetError: a person must mend it   |
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from instep.errors import TargetError
from instep.protocols import Rejected, Retry, Throttled, Unknown

DEFAULT_PAUSE: Final = 1.0
"""Seconds a 429 without Retry-After pauses the account."""

MISSING: Final = "http 404"
"""Code of the `Rejected` that stands for "no such record"."""

_MAX_WORDS: Final = 500
_AFTER_COMMIT: Final = (500, 502, 504)
_PASSING: Final = (408, 425, 503)
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_TAGS = re.compile(r"<[^>]+>")
_PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """The parsed JSON body of a call that went well (None when the body is empty)."""

    body: Any


Fault = Retry | Throttled | Rejected | Unknown


class CrmHttp:
    """Calls one CRM account.

    Args:
        name: what people call this target, for errors (`Tryton at http://…`).
        base: address every path is relative to.
        headers: sent with each call; holds the secret.
        scope: the account, as `Throttled.scope`.
        timeout: seconds to wait for an answer; connecting may take 5.
        connections: how many may be open at once.
    """

    def __init__(
        self,
        name: str,
        base: str,
        headers: Mapping[str, str],
        *,
        scope: str = "account",
        timeout: float = 30.0,
        connections: int = 8,
    ) -> None:
        self._name, self._scope = name, scope
        self._client = httpx.AsyncClient(
            base_url=base.rstrip("/") + "/",
            headers=dict(headers),
            timeout=httpx.Timeout(timeout, connect=5.0),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
        )

    async def read(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> Answer | Fault:
        """Make a call that changes nothing.

        Raises:
            TargetError: the account as a whole is refused, or the address is not the CRM's.
        """
        return await self._call(method, path, body, headers, writes=False)

    async def write(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> Answer | Fault:
        """Make a call that may change a record.

        Raises:
            TargetError: the account as a whole is refused, or the address is not the CRM's.
        """
        return await self._call(method, path, body, headers, writes=True)

    async def aclose(self) -> None:
        """Close the connections. Safe to call twice."""
        await self._client.aclose()

    async def _call(
        self, method: str, path: str, body: Any, headers: Mapping[str, str], *, writes: bool
    ) -> Answer | Fault:
        try:
            response = await self._client.request(method, path, json=body, headers=headers)
        except _NOT_SENT as exc:
            return Retry(f"{self._name} cannot be reached ({type(exc).__name__})")
        except (httpx.TransportError, httpx.DecodingError) as exc:
            lost = f"{self._name}: no answer came ({type(exc).__name__})"
            return Unknown(lost) if writes else Retry(lost)
        return self._classify(response, writes=writes)

    def _classify(self, response: httpx.Response, *, writes: bool) -> Answer | Fault:
        status = response.status_code
        if response.is_success:
            return self._answer(response, writes=writes)
        if status in (401, 403):
            raise TargetError(
                f"{self._name} refuses the key (HTTP {status}).",
                "Check the target's `key` in instep.toml and that the key is valid for this API.",
            )
        if response.is_redirect:
            raise TargetError(f"{self._name} answers with a redirect.", "Set the target's `url` to its final address.")
        said = f"http {status}: {words(response)}"
        if status == 429:
            return Throttled(self._scope, retry_after(response.headers.get("Retry-After")) or DEFAULT_PAUSE)
        if status in _AFTER_COMMIT and writes:
            return Unknown(said)
        if status >= 500 or status in _PASSING:
            return Retry(said, retry_after(response.headers.get("Retry-After")))
        return Rejected(f"http {status}", words(response))

    def _answer(self, response: httpx.Response, *, writes: bool) -> Answer | Fault:
        if not response.content:
            return Answer(None)
        try:
            return Answer(response.json())
        except ValueError:
            if "html" in response.headers.get("Content-Type", ""):
                raise TargetError(
                    f"{self._name} answers with a web page, not with its API.", "Check the target's `url`."
                ) from None
            broken = f"{self._name}: the answer is cut off or no JSON"
            return Unknown(broken) if writes else Retry(broken)


def words(response: httpx.Response) -> str:
    """What the target says about a refusal: its JSON message, else the text of its page, at most 500 characters."""
    try:
        body = json.loads(response.content)
    except ValueError:
        text = response.text
        paragraphs = _PARAGRAPH.findall(text)
        said = html.unescape(_TAGS.sub(" ", " ".join(paragraphs) or text))
    else:
        said = _message(body)
    return " ".join(said.split())[:_MAX_WORDS] or response.reason_phrase


def _message(body: Any) -> str:
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return str(body)
    parts = [str(body[name]) for name in ("message", "description", "error", "detail") if body.get(name)]
    return " ".join(parts) or json.dumps(body)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as an HTTP date; None without one."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - (now or datetime.now(UTC))).total_seconds())
