"""A captured database for tests: settings, capture in this process or as a process to kill, waiting with a deadline."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from instep.failpoints import VARIABLE
from instep.journal import JournalEntry
from instep.settings import KafkaSettings, Settings, parse
from instep.topics import data_topic
from instep_connectors.kafka import Record, read_topic
from instep_schemas.client import RegistryClient
from instep_schemas.decode import Envelope
from instep_streams.capture import audit as audits
from instep_streams.capture import control, process
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.commands import Kind
from instep_streams.capture.folding import Schemas
from instep_streams.capture.kafka import last_entry

Answer = TypeVar("Answer")
_numbers = itertools.count(1)

_MAIN = """
import asyncio, logging, pathlib, signal, sys
from instep.settings import Settings
from instep_streams.capture import process

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await process.run(Settings.model_validate_json(sys.argv[1]), "shop", stop)

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
logging.getLogger("httpx").setLevel(logging.WARNING)
asyncio.run(main())
"""


def until(condition: Callable[[], Answer], seconds: float = 60.0, what: str = "") -> Answer:
    """Wait until the condition gives something true, and give it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what or condition}")
        time.sleep(0.05)


class Shop:
    """One source under test; topics, slot and database are its own.

    Args:
        dsn: of its database.
        kafka: brokers.
        registry: address.
        options: further settings of the source.
    """

    def __init__(self, dsn: str, kafka: KafkaSettings, registry: str, **options: Any) -> None:
        self.name = f"shop{os.getpid()}x{next(_numbers)}"
        self.dsn = dsn
        own = {"dsn": dsn, "slot": f"slot_{self.name}", "heartbeat_s": 60.0, "partitions": 3, **options}
        self.settings: Settings = parse(
            {
                "sources": {self.name: own},
                "kafka": {"bootstrap": kafka.bootstrap},
                "registry": {"url": registry},
            },
            Path("."),
        )

    @property
    def slot(self) -> str:
        return self.settings.sources[self.name].slot

    def store(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn, autocommit=True)

    def execute(self, *statements: str) -> None:
        with self.store() as conn:
            for statement in statements:
                conn.execute(statement)

    def value(self, query: str) -> Any:
        with self.store() as conn:
            row = conn.execute(query).fetchone()
            return row and row[0]

    @contextmanager
    def capturing(self, *, ready: bool = True, seconds: float = 60.0) -> Iterator[Running]:
        """Capture in a thread of this process; what it failed with is raised at the end.

        With `ready`, begins when everything committed so far is in the journal.
        """
        running = Running(self)
        try:
            if ready:
                self.await_captured(running, seconds)
            yield running
        finally:
            running.stop()
        running.check()

    def fails(self, seconds: float = 60.0) -> BaseException:
        """Run capture until it ends by itself and give what it ended with."""
        running = Running(self)
        try:
            until(lambda: not running.alive, seconds, "capture ends")
        finally:
            running.stop()
        assert running.failure is not None
        return running.failure

    def await_captured(self, running: Running | None = None, seconds: float = 60.0) -> JournalEntry:
        """Wait until everything that is committed now is in the journal."""
        lsn = int(self.value("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
        self.execute("SELECT pg_logical_emit_message(true, 'instep', 'test')")

        def there() -> JournalEntry | None:
            if running is not None:
                running.check()
            entry = self.last()
            return entry if entry and not entry.more and captured_lsn(entry) >= lsn else None

        entry = until(there, seconds, f"captured up to {lsn}")
        assert entry is not None
        return entry

    def last(self) -> JournalEntry | None:
        return last_entry(self.settings.kafka, self.name)

    def journal(self) -> list[JournalEntry]:
        return audits.read_journal(self.settings, self.name)

    def records(self, table: str) -> list[Record]:
        return list(read_topic(self.settings.kafka, data_topic(self.name, *table.split("."))))

    def changes(self, table: str) -> list[tuple[Record, Envelope | None]]:
        """Records of a table with their envelopes (None: tombstone), in offset order per partition."""
        registry = RegistryClient(self.settings.registry.url)
        schemas = Schemas(registry)
        try:
            records = schemas.prefixed(self.records(table))
            return [(r, None if r.value is None else schemas.envelope(r)) for r in records]
        finally:
            schemas.close()

    def ask(self, kind: Kind, *tables: str, where: str = "") -> None:
        """Ask capture for copies."""
        control.ask(self.settings, self.name, kind, tables, where)

    def audit(self) -> audits.Audit:
        return audits.audit(self.settings, self.name)

    def drop_slot(self) -> None:
        self.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            f" WHERE slot_name = '{self.slot}' AND NOT active"
        )


class Running:
    """Capture in a thread of this process."""

    def __init__(self, shop: Shop) -> None:
        self.failure: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(shop,))
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def check(self) -> None:
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "capture did not stop"
        self._loop.close()

    def _run(self, shop: Shop) -> None:
        try:
            self._loop.run_until_complete(process.run(shop.settings, shop.name, self._stop))
        except BaseException as exc:
            self.failure = exc
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())


class Killable:
    """Capture as a process of its own."""

    def __init__(self, shop: Shop, failpoints: str = "") -> None:
        text = shop.settings.model_dump_json()
        environment = {**os.environ, VARIABLE: failpoints}
        self._stderr = tempfile.TemporaryFile()  # a pipe that nobody reads would stop a talkative capture
        self._process = subprocess.Popen(
            [sys.executable, "-c", _MAIN.replace('"shop"', repr(shop.name)), text],
            env=environment, stdout=subprocess.DEVNULL, stderr=self._stderr,
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def dies(self, seconds: float = 40.0) -> None:
        """Wait until its failpoint kills it."""
        try:
            until(lambda: not self.alive, seconds, "the failpoint kills")
        except AssertionError:
            self.kill()
            raise AssertionError(self.log) from None
        assert self.close() == -signal.SIGKILL, self.log

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self.close()

    def terminate(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self.close()

    def close(self) -> int:
        code = self._process.wait(30)
        self._stderr.seek(0)
        self.log = self._stderr.read().decode(errors="replace")
        self._stderr.close()
        return code
