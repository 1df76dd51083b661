"""What a process tells about itself: log lines and metrics.

One log line per record, `2026-01-31T12:00:00.123Z INFO capture:shop instep_streams.capture ready`; with
`INSTEP_LOG=json` one JSON object per line. Row values and secrets are never logged; as a second fence, passwords
inside connection strings are cut out of every line.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from typing import Final, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from instep.errors import ConfigError, EnvironmentFault

FORMAT_VARIABLE: Final = "INSTEP_LOG"
LEVEL_VARIABLE: Final = "INSTEP_LOG_LEVEL"

METRICS: Final = CollectorRegistry(auto_describe=True)
"""This process's metrics: served by `serve_metrics`, fed by anyone."""

CHANGES: Final = Counter("instep_changes", "Changes captured from a source.", ["source"], registry=METRICS)
DOCUMENTS: Final = Counter("instep_documents", "Documents emitted by a flow.", ["flow"], registry=METRICS)
OUTCOMES: Final = Counter("instep_outcomes", "Outcomes of documents in a target.", ["target", "kind"], registry=METRICS)
LAG: Final = Histogram(
    "instep_lag_seconds",
    "Seconds from the commit in the store to the end of a stage (topic, flow, target).",
    ["stage"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
    registry=METRICS,
)
POSITION: Final = Gauge("instep_position_lsn", "Commit LSN a stage has reached.", ["stage", "source"], registry=METRICS)

_URI_PASSWORD = re.compile(r"(?<=://)([^\s:/@]*):[^\s@]+@")
_NAMED_PASSWORD = re.compile(r"""(?i)\b(password|passwd|secret)("?\s*[=:]\s*)('[^']*'|"[^"]*"|[^\s,;&]+)""")


def redact(text: str) -> str:
    """Cut passwords out of connection strings and `password=…` settings."""
    return _NAMED_PASSWORD.sub(r"\1\2***", _URI_PASSWORD.sub(r"\1:***@", text))


class _Line(logging.Formatter):
    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def parts(self, record: logging.LogRecord) -> dict[str, str]:
        """What one line says."""
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": redact(text),
        }

    def format(self, record: logging.LogRecord) -> str:
        r"""One line: line breaks (of a traceback) become the two characters `\\n`."""
        return " ".join(self.parts(record).values()).replace("\n", "\\n")


class _Json(_Line):
    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        return json.dumps(self.parts(record), ensure_ascii=False)


def configure(process: str, stream: TextIO | None = None) -> None:
    """Set up logging of this process; the form and the level come from the environment.

    Args:
        process: its name as people know it, `capture:shop`.
        stream: where the lines go; default: standard error.

    Raises:
        ConfigError: the variables hold an unknown form or level.
    """
    form, level = os.environ.get(FORMAT_VARIABLE, "text"), os.environ.get(LEVEL_VARIABLE, "INFO").upper()
    if form not in ("text", "json"):
        raise ConfigError(f"{FORMAT_VARIABLE} is {form!r}.", "Set it to text or json.")
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"{LEVEL_VARIABLE} is {level!r}.", "Set it to DEBUG, INFO, WARNING or ERROR.")
    out = logging.StreamHandler(stream or sys.stderr)
    out.setFormatter(_Json(process) if form == "json" else _Line(process))
    root = logging.getLogger()
    root.handlers[:] = [out]
    root.setLevel(level)
    for chatty in ("httpx", "httpcore", "asyncio", "aiohttp.access", "faust", "mode"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


def serve_metrics(address: str) -> int:
    """Serve this process's metrics as Prometheus text at `http://HOST:PORT/metrics`; gives the port.

    Args:
        address: `HOST:PORT`; port 0: any free one.

    Raises:
        ConfigError: not of that form.
        EnvironmentFault: the port is in use.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"{address!r} is not an address for metrics.", "Give HOST:PORT, for example 127.0.0.1:9100.")
    try:
        server, _ = start_http_server(int(port), host, registry=METRICS)
    except OSError as exc:
        raise EnvironmentFault(
            f"Metrics cannot be served at {address}: {exc.strerror}.", "Choose another port with --metrics."
        ) from exc
    return int(server.server_port)
