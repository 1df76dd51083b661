"""A client of any Confluent-compatible schema registry, for Instep's own processes.

Synchronous and thread-safe. Ids never change their meaning, so ids and registrations are cached for the life of the
client; "latest" is asked for each time. Two kinds of failure, as everywhere: `RegistryError` is for a person,
`ConnectionError` and `TimeoutError` pass by themselves.
"""

from __future__ import annotations

import re
import ssl
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from instep.errors import RegistryError
from instep.settings import RegistrySettings

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_DESCRIPTION: Final = re.compile(r"description:'(.*)', additionalInfo:", re.DOTALL)
_PASSING: Final = (408, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and parsed JSON body of one call that the registry did not fail on.

    Attributes:
        status: of HTTP.
        body: parsed JSON; None for an empty one.
    """

    status: int
    body: Any

    @property
    def code(self) -> int:
        """The registry's own error code (40401, …), or the HTTP status where it gives none."""
        code = self.body.get("error_code") if isinstance(self.body, dict) else None
        return code if isinstance(code, int) else self.status

    @property
    def words(self) -> str:
        """The registry's own message."""
        message = self.body.get("message") if isinstance(self.body, dict) else None
        return str(message or f"HTTP {self.status}")


class RegistryClient:
    """Registers and looks up Avro schemas.

    Args:
        url: address of the registry; several instances as a comma list, tried in order.
        user: for basic authentication; empty: none.
        password: for basic authentication, already resolved.
        timeout: seconds one call may take.
        ca: PEM file of the issuers to trust; None: the system's.

    Raises:
        RegistryError: there is no address, or the PEM file cannot be read.
    """

    def __init__(
        self, url: str, user: str = "", password: str = "", *, timeout: float = 10.0, ca: Path | None = None
    ) -> None:
        self._urls = [part.strip().rstrip("/") for part in url.split(",") if part.strip()]
        if not self._urls:
            raise RegistryError("No address of a schema registry is given.", "Set registry.url in instep.toml.")
        self._http = httpx.Client(
            verify=_trusting(ca),
            auth=(user, password) if user else None,
            timeout=timeout,
            headers={"Accept": CONTENT_TYPE, "Content-Type": CONTENT_TYPE},
        )
        self._lock = Lock()
        self._texts: dict[int, str] = {}
        self._ids: dict[tuple[str, str], int] = {}

    @classmethod
    def of(cls, settings: RegistrySettings) -> Self:
        """The client that a project's own processes use; raises as the class itself."""
        password = settings.password.reveal() if settings.password else ""
        return cls(settings.url, settings.user, password, ca=settings.ca)

    def register(self, subject: str, text: str) -> int:
        """Register a schema under a subject, or find it there, and give its id.

        Raises:
            RegistryError: not Avro, incompatible, or the subject may not be written.
            ConnectionError, TimeoutError: no instance answers.
        """
        with self._lock:
            known = self._ids.get((subject, text))
        if known is not None:
            return known
        answer = self.call("POST", f"/subjects/{quoted(subject)}/versions", body={"schema": text})
        if answer.status != 200:
            raise refusal(f"The schema of {subject} is refused", answer)
        schema_id = int(answer.body["id"])
        with self._lock:
            self._ids[subject, text] = schema_id
        return schema_id

    def schema(self, schema_id: int) -> str:
        """The text of a schema, referenced schemas included.

        Raises:
            RegistryError: the registry has no schema with this id.
            ConnectionError, TimeoutError: no instance answers.
        """
        with self._lock:
            known = self._texts.get(schema_id)
        if known is not None:
            return known
        answer = self.call("GET", f"/schemas/ids/{schema_id}")
        if answer.status == 200 and answer.body.get("references"):
            answer = self.call("GET", f"/schemas/ids/{schema_id}", query={"format": "resolved"})
        if answer.status != 200:
            raise refusal(f"The schema with id {schema_id} cannot be read", answer)
        text = str(answer.body["schema"])
        with self._lock:
            self._texts[schema_id] = text
        return text

    def guid(self, schema_id: int) -> bytes:
        """The GUID of a schema, 16 bytes.

        Raises:
            RegistryError: the registry has no schema with this id, or gives no GUIDs.
            ConnectionError, TimeoutError: no instance answers.
        """
        answer = self.call("GET", f"/schemas/ids/{schema_id}")
        if answer.status != 200:
            raise refusal(f"The schema with id {schema_id} cannot be read", answer)
        if not answer.body.get("guid"):
            raise RegistryError("This registry gives schemas no GUIDs.", 'Set schema_ids = "prefix" for the source.')
        return uuid.UUID(str(answer.body["guid"])).bytes

    def id_of(self, guid: bytes) -> int:
        """The id of the schema with this GUID; the default context's, where several have it.

        Raises:
            RegistryError: the registry has no such schema.
            ConnectionError, TimeoutError: no instance answers.
        """
        answer = self.call("GET", f"/schemas/guids/{uuid.UUID(bytes=guid)}/ids")
        if answer.status != 200:
            raise refusal(f"The schema with the GUID {uuid.UUID(bytes=guid)} cannot be read", answer)
        return int(answer.body[0]["id"])

    def latest(self, subject: str) -> tuple[int, int, str] | None:
        """Id, version and text of the newest schema of a subject; None when the subject has none.

        Raises:
            RegistryError: the registry refuses to tell.
            ConnectionError, TimeoutError: no instance answers.
        """
        answer = self.call("GET", f"/subjects/{quoted(subject)}/versions/latest")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise refusal(f"The newest schema of {subject} cannot be read", answer)
        return int(answer.body["id"]), int(answer.body["version"]), str(answer.body["schema"])

    def check(self, subject: str, text: str) -> list[str]:
        """Say what makes a schema incompatible under the subject's level; empty when it may be registered.

        Raises:
            RegistryError: not Avro, or the registry refuses to tell.
            ConnectionError, TimeoutError: no instance answers.
        """
        path, query = f"/compatibility/subjects/{quoted(subject)}/versions", {"verbose": "true"}
        answer = self.call("POST", path, query=query, body={"schema": text})
        if answer.status in (404, 405):  # some registries only know the check against one version
            answer = self.call("POST", f"{path}/latest", query=query, body={"schema": text})
        if answer.status == 404:
            return []
        if answer.status != 200:
            raise refusal(f"The schema of {subject} cannot be checked", answer)
        if answer.body["is_compatible"]:
            return []
        told = [_description(str(message)) for message in answer.body.get("messages") or ()]
        return [text for text in told if text] or ["incompatible; the registry gives no reason"]

    def subjects(self) -> list[str]:
        """Every subject that is not deleted.

        Raises:
            RegistryError: the registry refuses to tell.
            ConnectionError, TimeoutError: no instance answers.
        """
        answer = self.call("GET", "/subjects")
        if answer.status != 200:
            raise refusal("The subjects cannot be listed", answer)
        return [str(subject) for subject in answer.body]

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: Any = None) -> Answer:
        """Ask the first instance that answers; what is refused is an answer too.

        Raises:
            ConnectionError, TimeoutError: no instance answers.
        """
        failure: Exception | None = None
        for url in self._urls:
            try:
                response = self._http.request(method, f"{url}{path}", params=query, json=body)
                answer = Answer(response.status_code, response.json() if response.content else None)
            except httpx.TimeoutException:
                failure = TimeoutError(f"The schema registry at {url} does not answer in time.")
                continue
            except (httpx.TransportError, ValueError) as exc:  # ValueError: something that is no registry answered
                failure = ConnectionError(f"The schema registry at {url} cannot be reached: {exc}.")
                continue
            if answer.status not in _PASSING:
                return answer
            failure = ConnectionError(f"The schema registry at {url} cannot answer now: {answer.words}")
        assert failure is not None
        raise failure


def _trusting(ca: Path | None) -> ssl.SSLContext | bool:
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as exc:
        raise RegistryError(
            f"registry.ca: {ca} cannot be used: {exc}.", "Give the issuers' certificates as PEM."
        ) from exc


def quoted(subject: str) -> str:
    """A subject as part of a path."""
    return quote(subject, safe="")


def _description(message: str) -> str:
    """The part of a registry's message that is for people; empty for what only repeats schema and settings."""
    if found := _DESCRIPTION.search(message):
        return found[1]
    return "" if message.startswith(("{oldSchema", "{validateFields")) else message


def refusal(what: str, answer: Answer) -> RegistryError:
    """The error to raise for an answer that refuses, with the remedy."""
    words = answer.words.rstrip(".")
    if answer.status in (401, 403):
        remedy = "Set registry.user and registry.password in instep.toml to an account that may do this."
    elif answer.status == 409:
        remedy = "Make the change in compatible steps, or lower the subject's compatibility level."
    elif answer.code == 42205:
        remedy = "Set the subject's mode to READWRITE."
    elif answer.status == 404:
        remedy = "Check that registry.url names the registry these topics were written with."
    else:
        remedy = "See docs/reference/registry.md."
    return RegistryError(f"{what}: {words} (code {answer.code}).", remedy)
