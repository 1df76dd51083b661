"""A CRM of our own on loopback, for faults that a real one cannot be made to show on demand, and a sink for it.

The server keeps records by key and a log of what it committed. Each write takes the next fault of the schedule.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from instep.protocols import (
    Capabilities,
    Document,
    Fields,
    Key,
    Outcome,
    Rejected,
    Unchanged,
    Written,
)
from instep_connectors.crm.http import MISSING, Answer, CrmHttp

FAULTS = (
    "http 500",
    "http 500 after commit",
    "http 503",
    "http 429",
    "lost before",
    "lost after",
    "cut off",
    "slow",
)
"""What the schedule may hold; anything else is no fault."""


class Contract:
    """The server's state and switches."""

    def __init__(self) -> None:
        self.url = ""
        self.records: dict[str, Mapping[str, Any]] = {}
        self.committed: list[tuple[str, int | None]] = []
        """Key and `v` field of every write that took effect, None for a removal."""
        self.calls = self.reads = 0
        self.schedule: deque[str] = deque()
        self.refused: set[str] = set()
        """Keys that get 400."""
        self.poisoned: set[str] = set()
        """Keys that get a 500 page."""
        self.down = False
        self.locked_out = False

    async def read(self, request: web.Request) -> web.StreamResponse:
        self.reads += 1
        keys = (await request.json())["keys"]
        if self.down:
            return web.Response(status=503)
        return web.json_response({key: self.records[key] for key in keys if key in self.records})

    async def write(self, request: web.Request) -> web.StreamResponse:
        """Take a batch, all or none: `{"records": {key: fields or null}}`."""
        self.calls += 1
        records: dict[str, Any] = (await request.json())["records"]
        if self.locked_out:
            return web.Response(status=401, text="<h1>Unauthorized</h1>", content_type="text/html")
        if self.down:
            return web.Response(status=503)
        fault = self.schedule.popleft() if self.schedule else "none"
        if (answer := self._before(fault, records, request)) is not None:
            return answer
        for key, fields in records.items():
            if fields is None:
                self.records.pop(key, None)
            else:
                self.records[key] = fields
            self.committed.append((key, fields and fields.get("v")))
        return await self._after(fault, records, request)

    def _before(self, fault: str, records: Mapping[str, Any], request: web.Request) -> web.Response | None:
        if fault == "lost before":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if fault in ("http 500", "http 503"):
            return web.Response(status=int(fault[5:]), text="<h1>Oops</h1><p>No &amp; no</p>", content_type="text/html")
        if fault == "http 429":
            return web.Response(status=429, headers={"Retry-After": "0.01"})
        if self.poisoned & records.keys():
            return web.Response(status=500, text="<p>'NoneType' object</p>", content_type="text/html")
        if bad := self.refused & records.keys():
            return web.json_response({"status": 400, "message": f"{len(bad)} bad", "description": ""}, status=400)
        return None

    async def _after(self, fault: str, records: Mapping[str, Any], request: web.Request) -> web.StreamResponse:
        if fault == "http 500 after commit":
            return web.Response(status=500, text="<p>lost ack</p>", content_type="text/html")
        if fault == "lost after":
            assert request.transport is not None
            request.transport.close()
        if fault == "slow":
            await asyncio.sleep(0.4)
        if fault == "cut off":
            return web.Response(text='{"ids": [', content_type="application/json")
        return web.json_response({"ids": list(records)})


@asynccontextmanager
async def contract() -> AsyncIterator[Contract]:
    """Run the server."""
    state = Contract()
    app = web.Application()
    app.router.add_post("/read", state.read)
    app.router.add_post("/write", state.write)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    state.url = f"http://{host}:{port}"
    try:
        yield state
    finally:
        await runner.cleanup()


class ContractSink:
    """Compares before it writes; writes a batch all or none."""

    def __init__(self, url: str, *, batch_size: int = 4, concurrency: int = 2, timeout: float = 0.2) -> None:
        self._http = CrmHttp(f"The contract server at {url}", url, {"Authorization": "bearer k"}, timeout=timeout)
        self._capabilities = Capabilities(batch_size=batch_size, concurrency=concurrency)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        held = await self._http.read("POST", "read", {"keys": [document.key[0] for document in batch]})
        if not isinstance(held, Answer):
            return [held] * len(batch)
        wanted = {document.key[0]: document.fields and dict(document.fields) for document in batch}
        changed = {key: fields for key, fields in wanted.items() if held.body.get(key) != fields}
        result: Outcome = Unchanged()
        if changed:
            answer = await self._http.write("POST", "write", {"records": changed})
            result = Written("x") if isinstance(answer, Answer) else answer
        return [self._outcome(document, changed, held.body, result) for document in batch]

    @staticmethod
    def _outcome(document: Document, changed: Mapping[str, Any], held: Mapping[str, Any], result: Outcome) -> Outcome:
        key = document.key[0]
        if key not in changed:
            return Unchanged(key)
        if isinstance(result, Written):
            return Written(key, key not in held)
        assert not (isinstance(result, Rejected) and result.code == MISSING)
        return result

    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        held = await self._http.read("POST", "read", {"keys": [key[0] for key in keys]})
        if not isinstance(held, Answer):
            raise ConnectionError(str(held))
        return {(key,): fields for key, fields in held.body.items()}

    async def aclose(self) -> None:
        await self._http.aclose()
