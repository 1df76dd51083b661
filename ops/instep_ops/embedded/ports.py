"""Loopback ports that stay the same over restarts."""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

from instep.errors import EnvironmentFault
from instep_ops.embedded.folder import read_numbers, write_private

LOOPBACK = "127.0.0.1"
_RANGE = range(15_000, 30_000)
"""Below the range the system picks outgoing ports from (32768 up). A server's port inside that range can be taken
while the server restarts: by any connection of another program, even by a client reconnecting to itself."""


def is_free(port: int) -> bool:
    """Whether a server could listen on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Pick a free port.

    Raises:
        EnvironmentFault: none found.
    """
    for port in random.sample(_RANGE, 200):
        if is_free(port):
            return port
    raise EnvironmentFault(f"No free port was found between {_RANGE.start} and {_RANGE.stop}.", "Stop other servers.")


def settle(wanted: dict[str, int], memory: Path, owner: str) -> dict[str, int]:
    """Decide the ports of a server: the asked ones, else those of its last start, else free ones; remembers them.

    Args:
        wanted: port by purpose, 0: any.
        memory: file that keeps them.
        owner: the server, for the error.

    Raises:
        EnvironmentFault: an asked port is in use.
    """
    last = read_numbers(memory)
    chosen: dict[str, int] = {}
    for purpose, port in wanted.items():
        if port and not is_free(port):
            raise EnvironmentFault(
                f"{owner} cannot listen on {LOOPBACK}:{port}: the port is in use.",
                "Stop the program that uses it, or choose another port.",
            )
        known = last.get(purpose, 0)
        chosen[purpose] = port or (known if known and is_free(known) else free_port())
    write_private(memory, json.dumps(chosen))
    return chosen
