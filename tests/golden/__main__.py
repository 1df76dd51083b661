"""`python -m tests.golden [DIR] [CASE …]`: replay recorded cases on servers of our own, one line per case."""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fixtures.registry import running_registry
from tests.golden.cases import FOLDER, load, names
from tests.golden.compare import compare
from tests.golden.replay import Replay, Store

from instep.settings import KafkaSettings
from instep_ops.embedded import Kafka, Postgres


@contextmanager
def servers() -> Iterator[tuple[Store, KafkaSettings, str]]:
    """A store, brokers and a registry, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        settings = {"max_prepared_transactions": "10"}
        store = Postgres(Path(folder) / "postgres", "golden", durable=False, settings=settings)
        kafka = Kafka(Path(folder) / "kafka")
        try:
            for server in (store, kafka):
                server.ensure()
                server.start()
            with running_registry(kafka.settings) as registry:
                yield store, kafka.settings, registry
        finally:
            kafka.stop()
            store.stop()


def verdict(folder: Path, name: str, parts: tuple[Store, KafkaSettings, str]) -> str:
    """Replay and compare one case."""
    case = load(folder, name)
    replay = Replay(case, *parts)
    try:
        return str(compare(case, replay.run()))
    finally:
        replay.close()


def main(arguments: list[str]) -> int:
    """Replay a folder (or some of its cases); 1 when one is different."""
    folder = Path(arguments[0]) if arguments else FOLDER
    wanted = arguments[1:] or names(folder)
    different = 0
    with servers() as parts:
        for name in wanted:
            started = time.monotonic()
            try:
                line = verdict(folder, name, parts)
            except Exception as exc:
                traceback.print_exc()
                line = f"different: {type(exc).__name__}: {exc}"
            different += line.startswith("different")
            print(f"{name}: {line} ({time.monotonic() - started:.1f} s)", flush=True)
    print(f"{len(wanted)} cases, {different} different")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
