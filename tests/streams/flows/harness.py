"""A store with capture and a worker on real parts: capture runs in this process, the worker here or as a process."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from tests.fixtures.registry import until

from instep.failpoints import VARIABLE
from instep.flowfile import load_all
from instep.protocols import Key
from instep.settings import KafkaSettings, Settings, parse
from instep.topics import flow_topic
from instep_connectors.kafka import Record, read_topic, topics
from instep_schemas.client import RegistryClient
from instep_schemas.documents import decode_document, decode_key
from instep_schemas.records import unframe
from instep_streams.capture import process as capture
from instep_streams.flows import process as worker
from instep_streams.flows.releases import CLOCK, Clock
from instep_streams.flows.session import pin
from instep_streams.flows.status import status

_numbers = itertools.count(1)

_MAIN = """
import asyncio, logging, pathlib, signal, sys
from instep.settings import Settings
from instep_streams.flows import process

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = Settings.model_validate_json(sys.argv[1]).model_copy(update={"root": pathlib.Path(sys.argv[3])})
    await process.run(settings, sys.argv[2], stop)

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
asyncio.run(main())
"""


class InThread:
    """A process function running in a thread of its own with its own event loop."""

    def __init__(self, run: Any, settings: Settings, source: str) -> None:
        self.failure: BaseException | None = None
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._main, args=(run, settings, source), daemon=True)
        self._thread.start()

    def _main(self, run: Any, settings: Settings, source: str) -> None:
        try:
            self._loop.run_until_complete(run(settings, source, self._stop))
        except BaseException as exc:
            self.failure = exc
        finally:
            self._loop.close()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        if self.alive:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self.alive


class Shop:
    """One source with its flows; topics, slot, databases and folders are its own."""

    def __init__(self, folder: Path, dsn: str, state: str, kafka: KafkaSettings, registry: str) -> None:
        self.name = f"flows{os.getpid()}x{next(_numbers)}"
        self.dsn, self.state = dsn, state
        self.folder = folder
        (folder / "flows").mkdir()
        own = {"dsn": dsn, "slot": f"slot_{self.name}", "heartbeat_s": 60.0, "partitions": 3}
        self.settings = parse(
            {
                "name": self.name,
                "sources": {self.name: own},
                "kafka": {"bootstrap": kafka.bootstrap},
                "registry": {"url": registry},
                "state": {"dsn": state},
            },
            folder,
        )
        self.registry = RegistryClient(registry)

    def flow(self, name: str, key: str, sql: str, more: str = "") -> None:
        """Write a flow file, with more settings in its header; its name gets this shop's, as topics are shared."""
        file = self.folder / "flows" / f"{self.named(name)}.sql"
        file.write_text(f'/* instep\nkey = "{key}"\n{more}\n*/\n{sql}\n', encoding="utf-8")

    def named(self, flow: str) -> str:
        return f"{flow}_{self.name}"

    def execute(self, *statements: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())

    @contextmanager
    def capturing(self) -> Iterator[InThread]:
        running = InThread(capture.run, self.settings, self.name)
        try:
            yield running
        finally:
            running.stop()
        running.check()

    @contextmanager
    def working(self, clock: Clock = CLOCK) -> Iterator[InThread]:
        running = InThread(partial(worker.run, clock=clock), self.settings, self.name)
        try:
            yield running
        finally:
            running.stop()
        running.check()

    def process(self, failpoints: str = "") -> subprocess.Popen[str]:
        """The worker as a process of its own, to be killed."""
        text = self.settings.model_dump_json()
        command = [sys.executable, "-c", _MAIN, text, self.name, str(self.folder)]
        return subprocess.Popen(
            command, env=os.environ | {VARIABLE: failpoints}, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def fails(self) -> BaseException:
        """Run the worker until it ends by itself, and give what it ended with."""
        running = InThread(worker.run, self.settings, self.name)
        try:
            until(lambda: not running.alive, 60, "the worker ends")
        finally:
            running.stop()
        assert running.failure is not None
        return running.failure

    def status(self) -> dict[str, Any]:
        return status(self.settings, self.name)

    def settle(self, *checked: InThread) -> None:
        """Wait until every committed change of the store is in the flow topics."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            (lsn,) = conn.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").fetchone() or (0,)
            conn.execute("SELECT pg_logical_emit_message(true, 'instep', 'test')")

        def there() -> bool:
            for each in checked:
                each.check()
            now = self.status()
            position = now["position"]
            if position is None or now["more"] or now["emitted_journal_batch"] < now["batch"]:
                return False
            high, low = position.split(":")[1].split("/")
            return bool((int(high, 16) << 32) + int(low, 16) + 1 >= lsn)

        until(there, 60, f"documents up to {lsn}")

    def records(self, flow: str) -> list[Record]:
        topic = flow_topic(self.named(flow))
        return list(read_topic(self.settings.kafka, topic)) if topic in topics(self.settings.kafka) else []

    def folded(self, flow: str) -> dict[Key, dict[str, Any]]:
        """The flow topic by key, decoded."""
        found: dict[Key, dict[str, Any]] = {}
        for record in self.records(flow):
            key_id, body = unframe(record.key or b"")
            key = decode_key(self.registry.schema(key_id), body)
            if record.value is None:
                found.pop(key, None)
            else:
                value_id, body = unframe(record.value)
                found[key] = dict(decode_document(self.registry.schema(value_id), body))
        return found

    def expected(self, flow: str) -> dict[Key, dict[str, Any]]:
        """The same SELECT on the store, through the topic's own codec."""
        from instep_schemas.documents import DocumentCodec

        wanted = load_all(self.folder / "flows")[self.named(flow)]
        latest = self.registry.latest(f"{flow_topic(wanted.name)}-value")
        assert latest is not None
        codec = DocumentCodec(latest[2])
        keys = ", ".join(f'(q."{name}")::text' for name in wanted.key)
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            pin(conn)
            named = " AND ".join(f'q."{name}" IS NOT NULL' for name in wanted.key)  # without a key it is no document
            sql = f"SELECT {keys}, row_to_json(q)::text FROM (\n{wanted.sql}\n) q WHERE {named}"
            rows = conn.execute(sql.encode()).fetchall()
        return {tuple(row[:-1]): dict(codec.decode(codec.encode(row[-1]))) for row in rows}

    def close(self) -> None:
        self.registry.close()
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            rows = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE slot_name = %s"
            for slot, _ in conn.execute(rows, (self.settings.sources[self.name].slot,)).fetchall():
                conn.execute("SELECT pg_drop_replication_slot(%s)", (slot,))


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL and reap."""
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
