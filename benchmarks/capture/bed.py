"""The parts every subject works on: one PostgreSQL, one Kafka, one schema registry, in the folder of the run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from benchmarks.capture.topics import Topics
from instep_ops.embedded import Kafka, Postgres, Progress
from instep_ops.embedded.ports import LOOPBACK, free_port
from instep_ops.embedded.server import Server

_POSTGRES = {
    "max_slot_wal_keep_size": "-1",  # subjects take turns: each slot holds the backlog until its turn
    "autovacuum": "off",  # its turns would fall on one subject or another
    "max_locks_per_transaction": "512",
}


@dataclass(frozen=True, slots=True)
class Bed:
    """The running parts."""

    folder: Path
    postgres: Postgres
    kafka: Kafka
    registry: Server
    registry_url: str
    topics: Topics


@contextmanager
def open_bed(folder: Path, progress: Progress, broker: dict[str, str] | None = None) -> Iterator[Bed]:
    """Start the parts, the broker with these further settings; stop them at the end."""
    with ExitStack() as stack:
        postgres = Postgres(folder / "postgres", "store", settings=_POSTGRES)
        postgres.ensure(progress)
        stack.callback(postgres.stop)
        postgres.start()
        kafka = Kafka(folder / "kafka", settings=broker)
        kafka.ensure(progress)
        stack.callback(kafka.stop)
        kafka.start()
        registry, url = _registry(folder / "registry", postgres, kafka)
        stack.callback(registry.stop)
        yield Bed(folder, postgres, kafka, registry, url, Topics(kafka.bootstrap, url))


def project(folder: Path, bootstrap: str, registry: str, listen: str, source: str, dsn: str, partitions: int) -> None:
    """Write an instep.toml: one source with its default settings, all addresses real."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "instep.toml"
    file.touch(mode=0o600)
    file.write_text(
        f'[sources.{source}]\ndsn = "{dsn}"\npublication = "{source}"\npartitions = {partitions}\n'
        f'[kafka]\nbootstrap = "{bootstrap}"\n[registry]\nurl = "{registry}"\nlisten = "{listen}"\n'
        f'[state]\ndsn = "{dsn}"\n',
        encoding="utf-8",
    )


def instep(*words: str) -> list[str]:
    """The command line of an Instep process."""
    return [sys.executable, "-m", "instep_ops.cli", *words]


def _registry(folder: Path, postgres: Postgres, kafka: Kafka) -> tuple[Server, str]:
    listen = f"{LOOPBACK}:{free_port()}"
    url = f"http://{listen}"
    project(folder, kafka.bootstrap, url, listen, "none", postgres.dsn, 1)
    server = Server("registry", folder / "server.log", folder / "pid")

    def answers() -> bool:
        try:
            with urlopen(f"{url}/subjects", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    server.start(instep("registry", "--project", str(folder)), answers, 60)
    return server, url


def until(deadline: float, what: str, server: Server) -> None:
    """Guard of a waiting loop.

    Raises:
        RuntimeError: the deadline has passed, or the process that is waited for has ended; quotes its log.
    """
    if not server.alive():
        raise RuntimeError(f"{server.name} ended: {server.last_words()}")
    if time.monotonic() > deadline:
        raise RuntimeError(f"{server.name}: {what} did not happen in time. Its log says: {server.last_words()}")
