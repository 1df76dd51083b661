"""The server that holds Instep's own state: of the replica, what changes often should stay in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from instep_ops.embedded.postgres import Postgres

_MB: Final = 2**20
_CACHE_SHARE: Final = 8
"""Others work on this machine too: Kafka, Instep's processes, and the store as well in the demo."""
LEAST_CACHE_MB, _MOST_CACHE_MB = 64, 1024
LEAST_WAL_MB: Final = 2048
"""Between two checkpoints each page goes into the log as a whole once; a batch of changes touches many pages."""
_CHECKPOINT: Final = "15min"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def state_server(folder: Path, name: str = "state", *, durable: bool = True) -> Postgres:
    """A server with memory and log for a replica; arguments as of `Postgres`."""
    return Postgres(folder, name, durable=durable, settings=state_settings(memory()))


def state_settings(memory: int) -> dict[str, str]:
    """What a state server has beyond any embedded server.

    Args:
        memory: bytes that processes on this machine may use.
    """
    cache = min(max(memory // _CACHE_SHARE // _MB, LEAST_CACHE_MB), _MOST_CACHE_MB)
    return {
        "shared_buffers": f"{cache}MB",
        "max_wal_size": f"{LEAST_WAL_MB}MB",
        "checkpoint_timeout": _CHECKPOINT,
        # nobody replicates it: what fills a table emptied in the same transaction need not go through the log
        "wal_level": "minimal",
        "max_wal_senders": "0",
    }


def memory(root: Path = _CGROUPS, own: Path = _OWN_CGROUP) -> int:
    """Bytes of memory that processes here may use: the machine's, or less where a control group limits it.

    Args:
        root: where the control groups are.
        own: the file that names this process's.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits(root, own)])


def _limits(root: Path, own: Path) -> list[int]:
    """Limits of this process's control group and of those around it, versions 2 and 1; "max" is none."""
    texts = [_text(root / "memory" / "memory.limit_in_bytes")]
    named = next((line[3:] for line in _text(own).splitlines() if line.startswith("0::")), "/")
    group = root / named.strip("/")
    texts += [_text(each / "memory.max") for each in (group, *group.parents) if each.is_relative_to(root)]
    return [int(text) for text in texts if text.strip().isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except OSError:
        return ""
