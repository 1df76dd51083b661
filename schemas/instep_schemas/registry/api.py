"""The HTTP routes: reads answered from the store, writes decided by the leader.

Every path also exists under `/contexts/{context}`. A follower sends a write on to the leader and answers once it has
read the outcome itself, so that a client sees its own writes at whichever instance it asks.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import aiohttp
from aiohttp import web

import instep
from instep_schemas.registry import reads, refusals, registration, writes
from instep_schemas.registry.access import Account, Accounts, Role, View, check
from instep_schemas.registry.ask import Ask
from instep_schemas.registry.audit import Audit
from instep_schemas.registry.election import HEALTH, Election
from instep_schemas.registry.entries import Decision
from instep_schemas.registry.instance import Instance, NotLeading
from instep_schemas.registry.kinds import CONTENT_TYPE, accepted
from instep_schemas.registry.refusals import Refusal
from instep_schemas.registry.requests import config_request, mode_request, schema_request, tag_request
from instep_schemas.registry.store import Store
from instep_schemas.registry.subjects import context_name

log = logging.getLogger("instep.registry")

_MAX_BODY: Final = 16 * 2**20
_FORWARD: Final = "X-Forward"
_POSITION: Final = "X-Instep-Position"
_LEADER_WAIT_S: Final = 5.0
_LEADER_POLL_S: Final = 0.1
_FORWARD_TIMEOUT_S: Final = 20.0
_SPEAKER: Final = "X-Instep-For"
_HEADERS: Final = {"Cache-Control": "no-cache, no-store, must-revalidate", "X-XSS-Protection": "1; mode=block"}
_KEPT_HEADERS: Final = ("Authorization", "Content-Type", "Accept")

Read = Callable[[Store, Ask], Any]
Decide = Callable[[Store, Ask], Decision]

_READS: Final[Sequence[tuple[str, str, Read]]] = (
    ("GET", "/schemas/types", reads.schema_types),
    ("GET", "/schemas", reads.schemas),
    ("GET", "/schemas/ids/{id}", reads.schema_by_id),
    ("GET", "/schemas/ids/{id}/schema", reads.text_by_id),
    ("GET", "/schemas/ids/{id}/subjects", reads.subjects_by_id),
    ("GET", "/schemas/ids/{id}/versions", reads.versions_by_id),
    ("GET", "/schemas/guids/{guid}", reads.schema_by_guid),
    ("GET", "/schemas/guids/{guid}/ids", reads.ids_by_guid),
    ("GET", "/subjects", reads.subjects),
    ("POST", "/subjects/{subject}", reads.look_up),
    ("GET", "/subjects/{subject}/versions", reads.versions),
    ("GET", "/subjects/{subject}/versions/{version}", reads.version),
    ("GET", "/subjects/{subject}/versions/{version}/schema", reads.version_text),
    ("GET", "/subjects/{subject}/versions/{version}/referencedby", reads.referenced_by),
    ("GET", "/subjects/{subject}/metadata", reads.latest_with_metadata),
    ("POST", "/compatibility/subjects/{subject}/versions", reads.compatibility),
    ("POST", "/compatibility/subjects/{subject}/versions/{version}", reads.compatibility),
    ("GET", "/config", reads.config),
    ("GET", "/config/{subject}", reads.config),
    ("GET", "/mode", reads.mode),
    ("GET", "/mode/{subject}", reads.mode),
    ("GET", "/contexts", reads.contexts),
)


def _register(store: Store, ask: Ask) -> Decision:
    flags = {"normalize": ask.flag("normalize"), "force": ask.flag("force")}
    return registration.register(store, ask.subject, schema_request(ask.body), **flags)


def _modify_tags(store: Store, ask: Ask) -> Decision:
    return registration.modify_tags(store, ask.subject, ask.version, tag_request(ask.body))


def _delete_subject(store: Store, ask: Ask) -> Decision:
    return writes.delete_subject(store, ask.subject, permanent=ask.flag("permanent"))


def _delete_version(store: Store, ask: Ask) -> Decision:
    return writes.delete_version(store, ask.subject, ask.version, permanent=ask.flag("permanent"))


def _set_config(store: Store, ask: Ask) -> Decision:
    return writes.set_config(store, ask.scope, config_request(ask.body))


def _delete_config(store: Store, ask: Ask) -> Decision:
    return writes.delete_config(store, ask.scope, recursive=ask.flag("recursive"))


def _set_mode(store: Store, ask: Ask) -> Decision:
    return writes.set_mode(store, ask.scope, mode_request(ask.body, ask.scope), force=ask.flag("force"))


def _delete_mode(store: Store, ask: Ask) -> Decision:
    return writes.delete_mode(store, ask.scope, recursive=ask.flag("recursive"))


def _delete_context(store: Store, ask: Ask) -> Decision:
    return writes.delete_context(store, context_name(ask.path["name"]))


_WRITES: Final[Sequence[tuple[str, str, Decide]]] = (
    ("POST", "/subjects/{subject}/versions", _register),
    ("POST", "/subjects/{subject}/versions/{version}/tags", _modify_tags),
    ("DELETE", "/subjects/{subject}", _delete_subject),
    ("DELETE", "/subjects/{subject}/versions/{version}", _delete_version),
    ("PUT", "/config", _set_config),
    ("PUT", "/config/{subject}", _set_config),
    ("DELETE", "/config", _delete_config),
    ("DELETE", "/config/{subject}", _delete_config),
    ("PUT", "/mode", _set_mode),
    ("PUT", "/mode/{subject}", _set_mode),
    ("DELETE", "/mode", _delete_mode),
    ("DELETE", "/mode/{subject}", _delete_mode),
    ("DELETE", "/contexts/{name}", _delete_context),
)


def _route(path: str) -> str:
    """The path as aiohttp takes it: by itself it lets no part have braces."""
    return path.replace("}", ":[^/]+}")


class Api:
    """The routes of one instance."""

    def __init__(
        self,
        instance: Instance,
        election: Election,
        session: aiohttp.ClientSession,
        accounts: Accounts,
        audit: Audit,
        own: str = "",
        incompatible_code: int = 409,
    ) -> None:
        self._instance, self._election, self._session = instance, election, session
        self._accounts, self._audit = accounts, audit
        self._own, self._incompatible_code = own, incompatible_code

    def application(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._guard])
        app.router.add_get("/", self._root)
        app.router.add_get(HEALTH, self._health)
        app.router.add_get("/v1/metadata/id", self._cluster)
        app.router.add_get("/v1/metadata/version", self._version)
        app.router.add_get("/v1/metadata/deployment", self._deployment)
        for prefix in ("", "/contexts/{context}"):
            for method, path, read in _READS:
                app.router.add_route(method, prefix + _route(path), self._reading(read, path))
            for method, path, decide in _WRITES:
                app.router.add_route(method, prefix + _route(path), self._writing(decide, path))
        return app

    # ---- around every call ------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        kind = accepted(request.headers.getall("Accept", ()))
        if kind is None:
            return _answer({"error_code": 406, "message": "HTTP 406 Not Acceptable"}, 406)
        response = await self._guarded(request, handler)
        response.content_type = kind
        return response

    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            if request.path not in (HEALTH, "/"):
                self._caller(request)
                if not self._instance.loaded.is_set():
                    raise refusals.store_failed("the schemas have not been read from Kafka yet")
            return await handler(request)
        except Refusal as refusal:
            headers = {"WWW-Authenticate": "Basic"} if refusal.status == 401 else None
            body = refusal.body()
            if refusal.code == 409:
                body["error_code"] = self._incompatible_code
            return _answer(body, refusal.status, headers)
        except web.HTTPException as exc:
            return _answer({"error_code": exc.status, "message": f"HTTP {exc.status} {exc.reason}"}, exc.status)
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return _answer(Refusal(500, 500, "Internal Server Error").body(), 500)

    def _caller(self, request: web.Request) -> Account:
        return self._accounts.caller(request.headers.get("Authorization", ""), _certificate(request))

    def _reading(self, read: Read, path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            ask, account = await self._ask(request, path), self._caller(request)
            if account.unlimited:
                return _answer(read(self._instance.store, ask))
            if "subject" in ask.path:
                check(account, ask, Role.READ)
            return _answer(read(View(self._instance.store, account), ask))

        return answer

    def _writing(self, decide: Decide, path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            ask, account = await self._ask(request, path), self._caller(request)
            who = _speaker(request, account)
            try:
                check(account, ask, _least(decide, ask))
            except Refusal as refusal:
                self._audit.note(who, request.method, request.path_qs, refusal.code)
                raise
            if decide is _register and (known := self._known(ask)) is not None:
                return _answer(known.answer)
            try:
                return await self._write(request, ask, decide, who)
            except Refusal as refusal:
                self._audit.note(who, request.method, request.path_qs, refusal.code)
                raise

        return answer

    async def _ask(self, request: web.Request, path: str) -> Ask:
        query = {name: request.query.getall(name) for name in request.query}
        ask = Ask(request.match_info, query, await request.read() if request.can_read_body else b"")
        # configuration and mode are the alias's own
        return ask.aliased(self._instance.store.config) if "/subjects/{" in path or "/ids/" in path else ask

    def _known(self, ask: Ask) -> Decision | None:
        """A schema that is already registered needs no leader, and no Kafka."""
        try:
            decision = _register(self._instance.store, ask)
        except Refusal:  # perhaps only from here, a moment behind the leader
            return None
        return None if decision.entries else decision

    # ---- writes -----------------------------------------------------------------------------------------------------

    async def _write(self, request: web.Request, ask: Ask, decide: Decide, who: str) -> web.Response:
        deadline = asyncio.get_running_loop().time() + _LEADER_WAIT_S
        while True:
            try:
                answer = await self._instance.write(lambda store: decide(store, ask))
                status = 204 if answer is None else 200
                self._audit.note(who, request.method, request.path_qs, status, answer)
                return _answer(answer, status, {_POSITION: str(self._instance.position)})
            except NotLeading:
                if request.headers.get(_FORWARD, "").lower() == "false":
                    raise refusals.leader_unknown() from None
            forwarded = await self._forward(request, ask, who)
            if forwarded is not None:
                return forwarded
            if asyncio.get_running_loop().time() > deadline:
                raise refusals.leader_unknown()
            await asyncio.sleep(_LEADER_POLL_S)

    async def _forward(self, request: web.Request, ask: Ask, who: str) -> web.Response | None:
        """Let the leader answer; None when there is none that could."""
        leader = self._instance.announced
        if leader is None or leader.instance == self._instance.name:
            return None
        headers = {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
        if self._own:  # what was allowed here is allowed there
            headers |= {"Authorization": self._own, _SPEAKER: who}
        timeout = aiohttp.ClientTimeout(total=_FORWARD_TIMEOUT_S)
        url = leader.url + request.raw_path
        try:
            async with self._session.request(
                request.method, url, data=ask.raw, headers={**headers, _FORWARD: "false"}, timeout=timeout
            ) as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as exc:
            self._election.suspect.set()
            if request.method == "DELETE" and not isinstance(exc, aiohttp.ClientConnectorError):
                # it may have happened, and asked for again it would be refused: the client must look
                raise refusals.forwarding_failed(leader.url) from exc
            return None
        await self._follow(response.headers.get(_POSITION))
        return web.Response(body=body, status=response.status, content_type=CONTENT_TYPE)

    async def _follow(self, position: str | None) -> None:
        if position is not None:
            try:
                await self._instance.reach(int(position) - 1)
            except TimeoutError:
                log.warning("answered a forwarded write that has not been read here yet")

    # ---- about the registry -----------------------------------------------------------------------------------------

    async def _root(self, request: web.Request) -> web.Response:
        return _answer({})

    async def _health(self, request: web.Request) -> web.Response:
        instance, leader = self._instance, self._instance.announced
        body = {
            "instance": instance.name,
            "loaded": instance.loaded.is_set(),
            "leading": instance.leading,
            "leader": leader.url if leader else None,
            "position": instance.position,
        }
        return _answer(body, 200 if instance.loaded.is_set() else 503)

    async def _cluster(self, request: web.Request) -> web.Response:
        clusters = {"kafka-cluster": "", "schema-registry-cluster": "schema-registry"}
        return _answer({"id": "", "scope": {"path": [], "clusters": clusters}})

    async def _version(self, request: web.Request) -> web.Response:
        return _answer({"version": instep.__version__, "commitId": ""})

    async def _deployment(self, request: web.Request) -> web.Response:
        return _answer({"attributes": []})


def _least(decide: Decide, ask: Ask) -> Role:
    """The role that a write needs: what cannot be undone, or is checked less, is for administrators."""
    if decide is _modify_tags:
        return Role.WRITE
    if decide is _register:
        body = ask.body if ask.raw else None
        given = isinstance(body, dict) and body.get("id") not in (None, -1, "-1")
        return Role.ADMIN if given or ask.flag("force") else Role.WRITE
    if decide in (_delete_subject, _delete_version):
        return Role.ADMIN if ask.flag("permanent") else Role.WRITE
    return Role.ADMIN


def _speaker(request: web.Request, account: Account) -> str:
    """Whom a request is from; another instance says for whom it is."""
    return request.headers.get(_SPEAKER, account.name) if account.own else account.name


def _certificate(request: web.Request) -> str:
    """The common name of the client's certificate, which TLS has verified."""
    shown = request.get_extra_info("peercert") or {}
    return next((value for part in shown.get("subject", ()) for name, value in part if name == "commonName"), "")


def _answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    if isinstance(body, reads.Text):
        text = str(body)
    else:
        text = "" if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    headers = _HEADERS | (headers or {})
    return web.Response(body=text.encode(), status=status, content_type=CONTENT_TYPE, headers=headers)
