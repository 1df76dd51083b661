"""The state server of a trial."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from instep_ops.embedded import Postgres, state_server


@contextmanager
def running_state(folder: Path, name: str = "state") -> Iterator[Postgres]:
    """A server with memory and log for a replica, stopped at the end."""
    server = state_server(folder, name)
    server.ensure()
    server.start()
    try:
        yield server
    finally:
        server.stop()
