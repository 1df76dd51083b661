"""Replay one recorded case end to end: a real store, the real capture, Kafka and registry; gives what was written."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from psycopg import sql
from tests.golden.cases import PREPARE

from instep.settings import KafkaSettings, RegistrySettings
from instep.topics import capture_dead_letter_topic, journal_topic, key_subject, value_subject
from instep_connectors.kafka import RangeReader, Record, delete_topics, end_offsets, start_offsets, topics
from instep_schemas.client import RegistryClient, quoted
from instep_schemas.records import decode, unframe
from instep_streams.capture import process
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.connector import Connector, connector
from instep_streams.capture.control import progress
from instep_streams.capture.kafka import last_entry

_DEADLINE_S = 60.0
_STILL_S = 0.6
"""So long nothing may be written before a `sleep` of the recording counts as over."""


class Store(Protocol):
    """The PostgreSQL server to replay on."""

    @property
    def dsn(self) -> str:
        """Connection string of its superuser."""
        ...

    def database_dsn(self, database: str) -> str:
        """The same for another database."""
        ...


@dataclass
class Replayed:
    """What our capture wrote for a case.

    Attributes:
        subjects: schema texts per subject in order of registration.
        ids: subject and 1-based version by registry id, per subject's own versions.
        records: per topic in offset order.
        dead: decoded dead letters.
        types: PostgreSQL's type name per `schema.table.column`.
        failure: what capture ended with, None when it went on.
    """

    subjects: dict[str, list[str]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    records: dict[str, list[Record]] = field(default_factory=dict)
    dead: list[dict[str, Any]] = field(default_factory=list)
    types: dict[str, str] = field(default_factory=dict)
    failure: BaseException | None = None


class Capture:
    """The capture in a thread of this process, as `instep capture --debezium` runs it."""

    def __init__(self, parsed: Connector) -> None:
        self._parsed = parsed
        self.failure: BaseException | None = None
        self.start()

    def start(self) -> None:
        """Start, or start again."""
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="capture")
        self._thread.start()

    def stop(self) -> None:
        """Stop in order."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive(), "capture did not stop"
        if not self._loop.is_closed():
            self._loop.close()

    @property
    def alive(self) -> bool:
        """Whether it has not ended by itself."""
        return self._thread.is_alive()

    def _run(self) -> None:
        parsed = self._parsed
        work = process.run(parsed.settings, parsed.source, self._stop, parsed.compatible)
        try:
            self._loop.run_until_complete(work)
        except BaseException as exc:
            self.failure = exc
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())


class Replay:
    """One case on one set of servers. Call `run` once; `close` in any case."""

    def __init__(self, case: dict[str, Any], store: Store, kafka: KafkaSettings, registry: str) -> None:
        self._case = case
        self._store = store
        self._kafka = kafka
        self._client = RegistryClient(registry)
        self._dsn = store.database_dsn(case["database"])
        self._parsed = self._configure(registry)
        self._source = self._parsed.source
        self._capture: Capture | None = None
        self.result = Replayed()

    def _configure(self, registry: str) -> Connector:
        case = self._case
        parts = psycopg.conninfo.conninfo_to_dict(self._dsn)
        names = {"host": "hostname", "port": "port", "user": "user", "password": "password", "dbname": "dbname"}
        config = {f"database.{names[name]}": str(parts[name]) for name in names}
        given = {name: str(value) for name, value in case["config"].items()}
        config |= {"topic.prefix": case["topic_prefix"], "slot.name": case["slot"], **given}
        return connector(config, self._kafka, RegistrySettings(url=registry))

    def run(self) -> Replayed:
        """Run it and give what was written."""
        self._make_database()
        self._forget_earlier()
        self._allow_any_schema()
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            for statement in (*self._case["ddl"], *self._case["seed"]):
                conn.execute(statement)
            self._read_types(conn)
            self._capture = Capture(self._parsed)
            if self._sync(conn):
                self._steps(conn)
            self._read_types(conn)
        self._capture.stop()
        self.result.failure = self._capture.failure
        self._collect()
        return self.result

    def close(self) -> None:
        """Stop what runs and free the slot."""
        if self._capture is not None:
            self._capture.stop()
        self._client.close()
        with psycopg.connect(self._store.dsn, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (self._case["slot"],),
            )
            self._drop(conn)

    # ---- the store

    def _drop(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._case["database"]))
        )  # fmt: skip

    def _make_database(self) -> None:
        with psycopg.connect(self._store.dsn, autocommit=True) as conn:
            self._drop(conn)
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._case["database"])))
        with psycopg.connect(self._dsn, autocommit=True) as conn:
            conn.execute(PREPARE)

    def _read_types(self, conn: psycopg.Connection[Any]) -> None:
        rows = conn.execute(
            "SELECT format('%s.%s.%s', n.nspname, c.relname, a.attname), t.typname FROM pg_attribute a"
            " JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
            " JOIN pg_type t ON t.oid = a.atttypid WHERE a.attnum > 0 AND c.relkind IN ('r', 'p')"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
        )
        self.result.types |= dict(rows.fetchall())

    # ---- the steps

    def _steps(self, conn: psycopg.Connection[Any]) -> None:
        assert self._capture is not None
        running = True
        for step in self._case["dml"]:
            if not isinstance(step, dict):
                self._execute(conn, [step] if isinstance(step, str) else step)
            elif step.get("stop"):
                self._capture.stop()
                running = False
            elif step.get("resume"):
                self._capture.start()
                running = True
            elif step.get("sync"):
                running = running and self._sync(conn)
            elif "sleep" in step:
                self._rest(conn, float(step["sleep"]))
            else:
                raise ValueError(f"unknown step {step}")
            if running and not self._capture.alive:
                return
        if running:
            self._sync(conn)

    def _execute(self, conn: psycopg.Connection[Any], statements: list[str]) -> None:
        try:
            if len(statements) == 1:
                conn.execute(statements[0])
                return
            with conn.transaction():
                for statement in statements:
                    conn.execute(statement)
        except psycopg.Error:
            if not self._case.get("sql_errors"):
                raise

    def _sync(self, conn: psycopg.Connection[Any]) -> bool:
        """Wait until all that is committed is in Kafka; false when capture has ended instead."""
        row = conn.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        assert row is not None
        lsn = int(row[0])
        conn.execute("SELECT pg_logical_emit_message(true, 'instep', 'golden')")
        once = self._parsed.compatible.snapshot == "initial_only"

        def there() -> bool:
            entry = last_entry(self._kafka, self._source)
            return entry is not None and not entry.more and (once or captured_lsn(entry) >= lsn)

        return self._until(there, f"captured up to {lsn}")

    def _until(self, condition: Callable[[], bool], what: str) -> bool:
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            if self._capture is None or not self._capture.alive:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {_DEADLINE_S:g} s: {what}")
            time.sleep(0.03)
        return True

    def _rest(self, conn: psycopg.Connection[Any], seconds: float) -> None:
        """The recording slept: until nothing is written any more, so long at most."""
        self._sync(conn)
        deadline = time.monotonic() + seconds
        seen, since = -1, time.monotonic()
        while time.monotonic() < deadline or self._copying():
            entry = last_entry(self._kafka, self._source)
            if entry is not None and entry.batch != seen:
                seen, since = entry.batch, time.monotonic()
            if time.monotonic() - since > _STILL_S and not self._copying():
                return
            if time.monotonic() > deadline + _DEADLINE_S or self._capture is None or not self._capture.alive:
                return
            time.sleep(0.05)

    def _copying(self) -> bool:
        """Whether a copy that was asked for is under way; a machine under load takes longer than the recorded one."""
        entry = last_entry(self._kafka, self._source)
        return entry is not None and any(each.state != "paused" for each in progress(entry.snapshot_state))

    # ---- registry and Kafka

    def _topics(self) -> list[str]:
        """The topics of this case that there are."""
        stem, heartbeat = _stem(journal_topic(self._source)), self._parsed.compatible.heartbeat_topic
        stems = f"{stem}.", f"{stem}{self._parsed.compatible.wire.delimiter}"
        return [name for name in topics(self._kafka) if name.startswith(stems) or name == heartbeat]

    def _forget_earlier(self) -> None:
        """Remove what an earlier replay under the same topic prefix wrote."""
        found = self._topics()
        if not found:
            return
        delete_topics(self._kafka, found)
        for subject in (each(topic) for topic in found for each in (key_subject, value_subject)):
            for query in ({}, {"permanent": "true"}):
                self._client.call("DELETE", f"/subjects/{quoted(subject)}", query=query)
        deadline = time.monotonic() + _DEADLINE_S
        while self._topics() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _allow_any_schema(self) -> None:
        """The recordings were made without compatibility checks."""
        for subject in self._case["subjects"]:
            self._client.call("PUT", f"/config/{quoted(subject)}", body={"compatibility": "NONE"})

    def _collect(self) -> None:
        dead, journal = capture_dead_letter_topic(self._source), journal_topic(self._source)
        for topic, records in self._read(self._topics()).items():
            if topic == dead:
                self.result.dead = [decode("dead_letter", unframe(each.value or b"")[1]) for each in records]
            elif topic != journal and records:
                self.result.records[topic] = records
                self._register(topic)

    def _read(self, found: list[str]) -> dict[str, list[Record]]:
        tps = [(topic, 0) for topic in found]
        starts, ends = start_offsets(self._kafka, tps), end_offsets(self._kafka, tps, committed_only=False)
        records: dict[str, list[Record]] = {topic: [] for topic in found}
        reader = RangeReader(self._kafka)
        for record in reader.read({tp: (starts[tp], ends[tp]) for tp in tps}):
            records[record.topic].append(record)
        reader.close()
        return records

    def _register(self, topic: str) -> None:
        for subject in (key_subject(topic), value_subject(topic)):
            answer = self._client.call("GET", f"/subjects/{quoted(subject)}/versions")
            if answer.status == 404:
                continue
            texts = []
            for version in answer.body:
                path = f"/subjects/{quoted(subject)}/versions/{version}"
                told = self._client.call("GET", path).body
                texts.append(told["schema"])
                self.result.texts[told["id"]] = told["schema"]
            self.result.subjects[subject] = texts


def _stem(journal: str) -> str:
    return journal.removesuffix(".__journal")
