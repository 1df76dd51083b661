"""A proxy in front of a real CRM that has bad days on request: away, refusing a record, failing on a record."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit

PAGE = b"<html><body><h1>Internal Server Error</h1><p>The server met an error.</p></body></html>"
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


class CrmBetween:
    """Passes every call on to the CRM, unless told otherwise.

    Attributes:
        refuse: calls whose body holds this text are answered 400.
        fail: calls whose body holds this text are answered 500, with a web page.
    """

    def __init__(self, crm: str) -> None:
        self.refuse = self.fail = b""
        self._crm = urlsplit(crm)
        self._port = 0
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}{self._crm.path}"

    def __enter__(self) -> CrmBetween:
        self.back()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.away()

    def away(self) -> None:
        """Nobody listens any more."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def back(self) -> None:
        """Listen, at the same port as before."""
        outer = self

        class Call(BaseHTTPRequestHandler):
            """One call. Without keep-alive: `away` must be felt by the next one."""

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

            def answer(self) -> None:
                outer._answer(self)

            do_GET = do_POST = do_PUT = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Call)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _answer(self, call: BaseHTTPRequestHandler) -> None:
        body = call.rfile.read(int(call.headers.get("Content-Length") or 0))
        if self.refuse and self.refuse in body:
            _send(call, 400, {"Content-Type": "application/json"}, b'{"message": "This record is refused."}')
        elif self.fail and self.fail in body:
            _send(call, 500, {"Content-Type": "text/html"}, PAGE)
        else:
            self._pass_on(call, body)

    def _pass_on(self, call: BaseHTTPRequestHandler, body: bytes) -> None:
        crm = http.client.HTTPConnection(str(self._crm.hostname), self._crm.port, timeout=30)
        try:
            given = {name: value for name, value in call.headers.items() if name.lower() not in HOP_BY_HOP}
            crm.request(call.command, call.path, body or None, given)
            answer = crm.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in HOP_BY_HOP}
            _send(call, answer.status, headers, answer.read())
        finally:
            crm.close()


def _send(call: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
    call.send_response(status)
    for name, value in headers.items():
        call.send_header(name, value)
    call.send_header("Content-Length", str(len(body)))
    call.end_headers()
    if call.command != "HEAD":
        call.wfile.write(body)
