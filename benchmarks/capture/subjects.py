"""What is measured: programs that read the same store. Each is one command line that starts, goes on, and stops."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from benchmarks.capture.bed import Bed, instep, project, until
from benchmarks.capture.peers import connect_jars, connect_plugins
from benchmarks.capture.workload import Workload
from instep_ops.embedded import silent
from instep_ops.embedded.kafka import java
from instep_ops.embedded.ports import LOOPBACK, free_port
from instep_ops.embedded.postgres import SUPERUSER, binary
from instep_ops.embedded.server import Server

DEBEZIUM = "debezium"
TUNED = "debezium-tuned"
INSTEP = "instep"
LIMIT = "pg_recvlogical"

_PATIENCE_S = 180.0
_PATIENCE_PER_TABLE_S = 1.0
_CONNECT_JVM = (  # the defaults of Connect's own start script
    "-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-XX:MaxInlineLevel=15",
    "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)  # fmt: skip
_TUNED = {
    "poll.interval.ms": "10",
    "max.batch.size": "16384",
    "max.queue.size": "65536",
    "producer.override.linger.ms": "5",
    "producer.override.batch.size": "262144",
    "producer.override.compression.type": "lz4",
    "producer.override.buffer.memory": "67108864",
}


@dataclass(slots=True)
class Subject:
    """One program on one database.

    Attributes:
        name: which program.
        prefix: of its topics; empty: it writes none.
        slot: its replication slot.
        server: its process.
    """

    name: str
    prefix: str
    slot: str
    server: Server
    bed: Bed
    workload: Workload
    command: Sequence[str]
    end: signal.Signals = signal.SIGTERM

    def __post_init__(self) -> None:
        self.workload.sentinel(self._sentinel)

    @property
    def publishes(self) -> bool:
        """Whether it writes to Kafka."""
        return bool(self.prefix)

    def topic(self, table: str) -> str:
        """Where the changes of a table go."""
        return f"{self.prefix}.public.{table}"

    @property
    def data_topics(self) -> list[str]:
        """Where the changes of the load go."""
        return [self.topic(table) for table in self.workload.names]

    @property
    def _sentinel(self) -> str:
        return f"finish_{self.slot}"

    def finish(self) -> None:
        """Write its sentinel, behind everything that was written so far."""
        self.workload.finish(self._sentinel)

    def finished(self) -> int:
        """How much of the sentinel's topic a reader can see: grows when the last sentinel is through."""
        return sum(self.bed.topics.ends([self.topic(self._sentinel)]).values())

    def start(self) -> None:
        """Start it; it need not be ready."""
        self.server.start(self.command, lambda: True, 5)

    def stop(self) -> None:
        """Stop it in order, and wait until the store has let its slot go."""
        self.server.stop(self.end, 60)
        deadline = time.monotonic() + 30
        with psycopg.connect(self.workload.dsn, autocommit=True) as conn:
            query = "SELECT FROM pg_replication_slots WHERE slot_name = %s AND active"
            while conn.execute(query, (self.slot,)).fetchone() and time.monotonic() < deadline:
                time.sleep(0.05)

    def catch_up(self) -> None:
        """Wait until what was written so far is through, by writing the sentinel and waiting for it."""
        before = self.finished()
        self.finish()
        deadline = time.monotonic() + _PATIENCE_S + _PATIENCE_PER_TABLE_S * self.workload.tables
        while self.finished() <= before:
            until(deadline, "the sentinel", self.server)
            time.sleep(0.02)

    def prepare(self) -> None:
        """Let it make slot, topics and schemas and take what is there; then stop it."""
        if not self.publishes:
            return
        self.start()
        try:
            self.catch_up()  # by the snapshot, or by the stream
            self.catch_up()
        finally:
            self.stop()

    def drop(self) -> None:
        """Drop its slot."""
        with psycopg.connect(self.workload.dsn, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s",
                (self.slot,),
            )


Make = Callable[[Bed, Workload, str, int], Subject]
"""Makes a subject: parts, load, a name for slot and topics, partitions per topic."""


def make_instep(bed: Bed, workload: Workload, name: str, partitions: int) -> Subject:
    """`instep capture` with its default settings."""
    name = f"ours_{name}"
    folder = bed.folder / name
    project(folder, bed.kafka.bootstrap, bed.registry_url, "127.0.0.1:0", name, workload.dsn, partitions)
    command = instep("capture", name, "--project", str(folder))
    return Subject(INSTEP, name, f"instep_{name}", _server(INSTEP, folder), bed, workload, command)


def make_debezium(bed: Bed, workload: Workload, name: str, partitions: int) -> Subject:
    """Debezium in Connect standalone, defaults."""
    return _debezium(DEBEZIUM, bed, workload, f"dbz_{name}", partitions, {})


def make_tuned(bed: Bed, workload: Workload, name: str, partitions: int) -> Subject:
    """Debezium tuned for latency and throughput."""
    return _debezium(TUNED, bed, workload, f"tuned_{name}", partitions, _TUNED)


def make_limit(bed: Bed, workload: Workload, name: str, partitions: int) -> Subject:
    """PostgreSQL's own `pg_recvlogical`, which reads pgoutput and throws it away: no program can be faster."""
    name = f"limit_{name}"
    folder = bed.folder / name
    folder.mkdir()
    with psycopg.connect(workload.dsn, autocommit=True) as conn:
        conn.execute(f"CREATE PUBLICATION {name} FOR ALL TABLES".encode())
        conn.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    command = [
        binary("pg_recvlogical"), "-d", workload.dsn, "-S", name, "--start", "-f", os.devnull, "-s", "1",
        "-o", "proto_version=1", "-o", f"publication_names={name}",
    ]  # fmt: skip
    return Subject(LIMIT, "", name, _server(LIMIT, folder), bed, workload, command, signal.SIGINT)


SUBJECTS: Mapping[str, Make] = {
    INSTEP: make_instep,
    DEBEZIUM: make_debezium,
    TUNED: make_tuned,
    LIMIT: make_limit,
}


def _server(name: str, folder: Path) -> Server:
    return Server(name, folder / "server.log", folder / "pid")


def _debezium(kind: str, bed: Bed, workload: Workload, name: str, partitions: int, extra: Mapping[str, str]) -> Subject:
    folder = bed.folder / name
    folder.mkdir()
    plugins = bed.folder / "plugins"
    connect_plugins(plugins, silent)
    avro = "io.confluent.connect.avro.AvroConverter"
    _properties(folder / "worker.properties", {
        "bootstrap.servers": bed.kafka.bootstrap,
        "listeners": f"HTTP://{LOOPBACK}:{free_port()}",
        "key.converter": avro, "key.converter.schema.registry.url": bed.registry_url,
        "value.converter": avro, "value.converter.schema.registry.url": bed.registry_url,
        "offset.storage.file.filename": str(folder / "offsets"),
        "plugin.path": str(plugins),
        "connector.client.config.override.policy": "All",
    })  # fmt: skip
    store = conninfo_to_dict(workload.dsn)
    _properties(folder / "connector.properties", {
        "name": name,
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput", "tasks.max": "1",
        "database.hostname": str(store["host"]), "database.port": str(store["port"]),
        "database.user": SUPERUSER, "database.password": str(store["password"]),
        "database.dbname": str(store["dbname"]),
        "topic.prefix": name, "slot.name": name, "publication.name": f"{name}_pub",
        "schema.name.adjustment.mode": "avro",
        "topic.creation.default.replication.factor": "1", "topic.creation.default.partitions": str(partitions),
        **extra,
    })  # fmt: skip
    command = [
        java(), *_CONNECT_JVM, "-cp", ":".join(map(str, connect_jars(silent))),
        "org.apache.kafka.connect.cli.ConnectStandalone",
        str(folder / "worker.properties"), str(folder / "connector.properties"),
    ]  # fmt: skip
    return Subject(kind, name, name, _server(kind, folder), bed, workload, command)


def _properties(file: Path, settings: Mapping[str, str]) -> None:
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()), encoding="utf-8")
