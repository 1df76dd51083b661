"""A registry process on an embedded broker: load, cached reads, registering from several writers."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from confluent_kafka import Producer

from instep.settings import KafkaSettings
from instep_ops.embedded import Kafka, Progress
from instep_ops.embedded.ports import LOOPBACK, free_port
from instep_ops.embedded.server import Server
from instep_schemas.registry.log import TOPIC, ensure_topic

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def open_broker(folder: Path, progress: Progress) -> Iterator[KafkaSettings]:
    """An embedded broker."""
    kafka = Kafka(folder)
    kafka.ensure(progress)
    kafka.start()
    try:
        yield kafka.settings
    finally:
        kafka.stop()


def fill(kafka: KafkaSettings, subjects: int) -> None:
    """Write subjects of 12 columns into the topic, as a registry does."""
    ensure_topic(kafka)
    producer = Producer(kafka.client())
    columns = [{"name": f"c{number}", "type": ["null", "string"], "default": None} for number in range(12)]
    for number in range(subjects):
        text = json.dumps({"type": "record", "name": "Value", "namespace": f"shop.t{number}", "fields": columns})
        value = {"subject": f"s{number}", "version": 1, "id": number + 1, "schema": text, "deleted": False}
        key = f'{{"keytype":"SCHEMA","subject":"s{number}","version":1,"magic":1}}'
        producer.produce(TOPIC, json.dumps(value, separators=(",", ":")), key)
        producer.poll(0)
    if producer.flush(60):
        raise RuntimeError("the broker did not take the schemas")


@contextmanager
def running(folder: Path, kafka: KafkaSettings) -> Iterator[tuple[str, float, Server]]:
    """A registry; gives its address, and the seconds from its start until it had read everything and could write."""
    listen = f"{LOOPBACK}:{free_port()}"
    folder.mkdir(parents=True, exist_ok=True)
    dsn = "postgresql://nobody@127.0.0.1/none"
    (folder / "instep.toml").write_text(
        f'[sources.none]\ndsn = "{dsn}"\n[kafka]\nbootstrap = "{kafka.bootstrap}"\n'
        f'[registry]\nurl = "http://{listen}"\nlisten = "{listen}"\n[state]\ndsn = "{dsn}"\n',
        encoding="utf-8",
    )
    server = Server("registry", folder / "server.log", folder / "pid")

    def leads() -> bool:
        try:
            with urlopen(f"http://{listen}/health", timeout=2) as answer:
                return bool(json.load(answer)["leading"])
        except OSError:
            return False

    start = time.perf_counter()
    server.start([sys.executable, "-m", "instep_ops.cli", "registry", "--project", str(folder)], leads, 60)
    try:
        yield f"http://{listen}", time.perf_counter() - start, server
    finally:
        server.stop()


def cpu_seconds(pid: int) -> float:
    """CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def reads(url: str, server: Server, subjects: int, seconds: float) -> dict[str, float]:
    """GET /schemas/ids/{id} over one kept connection: per second as seen, and per second of the registry's CPU."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    pid = server.pid
    if pid is None:
        raise RuntimeError(f"the registry has ended: {server.last_words()}")
    cpu, start, count = cpu_seconds(pid), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        connection.request("GET", f"/schemas/ids/{count * 7919 % subjects + 1}")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}")
        count += 1
    connection.close()
    return {
        "reads_per_s": count / (time.perf_counter() - start),
        "reads_per_cpu_s": count / (cpu_seconds(pid) - cpu),
    }


def _write(arguments: tuple[str, int, int]) -> list[float]:
    """One writer: new subjects with schemas of their own; the time of each."""
    url, writer, count = arguments
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    times = []
    for number in range(count):
        schema = {"type": "record", "name": f"w{writer}_{number}", "fields": [{"name": "x", "type": "int"}]}
        start = time.perf_counter()
        body = json.dumps({"schema": json.dumps(schema)})
        connection.request("POST", f"/subjects/w{writer}-{number}/versions", body)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"HTTP {answer.status}")
        times.append(time.perf_counter() - start)
    connection.close()
    return times


def registering(url: str, writers: int, count: int) -> dict[str, float]:
    """Each writer registers `count` new schemas, one after another, all writers at once, each a process of its own."""
    with multiprocessing.get_context("spawn").Pool(writers) as pool:
        pool.map(_write, [(url, writers + writer, 1) for writer in range(writers)], chunksize=1)  # everybody is there
        start = time.perf_counter()
        each = pool.map(_write, [(url, writer, count) for writer in range(writers)], chunksize=1)
        took = time.perf_counter() - start
    times = sorted(seconds for writer in each for seconds in writer)
    return {
        "register_p50_ms": quantile(times, 0.5) * 1000,
        "register_p99_ms": quantile(times, 0.99) * 1000,
        "register_max_ms": times[-1] * 1000,
        "registers_per_s": len(times) / took,
    }


def quantile(ordered: Sequence[float], part: float) -> float:
    """Of sorted values."""
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
