"""The whole path on real parts: capture has filled the topics, the worker process makes flow topics of them."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import psycopg
from psycopg import Connection

from benchmarks.capture import meters
from benchmarks.capture.bed import Bed, instep, open_bed, project
from benchmarks.flows.engine import Figures, Sizes, percentiles
from benchmarks.flows.state import running_state
from benchmarks.flows.workload import CARD, TABLES, Change, World
from instep.topics import flow_topic, journal_topic
from instep_ops.embedded import Postgres
from instep_ops.embedded.server import Server
from instep_schemas.records import decode_journal, unframe

_SOURCE, _FLOW = "shop", "card"
_PATIENCE_S = 900.0
_RATE = 500
_TRANSACTION = 10
_OTHERS, _OTHERS_S = 100, 8
"""Changes a second beside a rename, and for how long; the rename comes after the first second."""


class _Arrival(NamedTuple):
    """A record that a reader of committed records has got; `key`: the product of a document, None for the journal."""

    at: float
    position: bytes
    key: int | None = None

    @property
    def document(self) -> bool:
        return self.key is not None


class PathBench:
    """A store that is captured, and a worker with its own state server.

    Args:
        bed: store, broker, registry.
        state: the state server.
        world: the shop.
    """

    def __init__(self, bed: Bed, state: Postgres, world: World) -> None:
        self._bed, self._state, self._world = bed, state, world
        self._dsn, state_dsn = bed.postgres.create_database("shop"), state.create_database("state")
        folder = self._folder = bed.folder / "project"
        project(folder, bed.kafka.bootstrap, bed.registry_url, "127.0.0.1:0", _SOURCE, self._dsn, 4)
        file = folder / "instep.toml"
        settings = file.read_text(encoding="utf-8")
        at = settings.index("[state]")
        file.write_text(f'{settings[:at]}[state]\ndsn = "{state_dsn}"\n', encoding="utf-8")
        (folder / "flows").mkdir()
        (folder / "flows" / f"{_FLOW}.sql").write_text(f'/* instep\nkey = "product_id"\n*/\n{CARD}\n', encoding="utf-8")
        self._servers = {
            name: (Server(name, self._log(name), folder / f"{name}.pid"),
                   instep(name, _SOURCE, "--project", str(folder)))
            for name in ("capture", "worker")
        }  # fmt: skip
        self._store = psycopg.connect(self._dsn, autocommit=True)
        self._progress = psycopg.connect(state_dsn, autocommit=True)

    def close(self) -> None:
        """End both processes and all sessions."""
        for name in self._servers:
            self.stop(name)
        self._store.close()
        self._progress.close()

    def start(self, name: str) -> None:
        """Start capture or the worker."""
        server, command = self._servers[name]
        server.start(command, lambda: True, 5)

    def stop(self, name: str) -> None:
        """Stop it in order."""
        self._servers[name][0].stop(signal.SIGTERM, 60)

    def seed(self) -> Figures:
        """Snapshot rows from the topics into the replica, then every document into the flow topic."""
        rows = self._fill()
        self.start("capture")
        self._captured()
        started = time.perf_counter()
        self.start("worker")
        self._worked("worker")
        return {"rows": rows, "documents": self._documents(), "total_s": time.perf_counter() - started}

    def _fill(self) -> int:
        """The shop's rows into the store; gives their number."""
        rows = 0
        for name, all_rows in self._world.rows():
            table = TABLES[name]
            columns = ", ".join(f"{c.name} {c.sql_type}" for c in table.columns)
            self._store.execute(f"CREATE TABLE {name} ({columns}, PRIMARY KEY (id))".encode())
            with self._store.cursor().copy(f"COPY {name} FROM STDIN".encode()) as copy:
                for row in all_rows:
                    copy.write_row([row[c.name] for c in table.columns])
                    rows += 1
        return rows

    def drain(self, count: int, *, rename: bool) -> Figures:
        """The worker is stopped, changes are captured, the worker starts and works them off.

        Its start is told apart: a worker starts once, and imports cost as much as tens of thousands of changes.
        """
        self.stop("worker")
        changes = self._world.changes(count, rename=rename)
        for at in range(0, count, _TRANSACTION):
            self._write(self._store, changes[at : at + _TRANSACTION])
        self._captured()
        documents = self._documents()
        started = time.perf_counter()
        self.start("worker")
        self._until(self._begun, "worker")
        ready, before = time.perf_counter(), self._cpu()
        self._worked("worker")
        wall, after = time.perf_counter() - ready, self._cpu()
        worker, state = (last - first for first, last in zip(before, after, strict=True))
        return {
            "changes": count, "documents": self._documents() - documents,
            "changes_per_core_s": count / (worker + state), "changes_per_s": count / wall,
            "worker_cpu_s": worker, "state_cpu_s": state,
            "start_s": ready - started, "start_cpu_s": before[0],
        }  # fmt: skip

    def _cpu(self) -> tuple[float, float]:
        """CPU seconds of the worker's process and of its state server."""
        return meters.cpu_s(self._servers["worker"][0].pid), meters.cpu_s(self._state.pid)

    def _begun(self) -> bool:
        """Whether the worker has told that it is ready: what it used until then is its start, not its work."""
        return "ready: source" in self._log("worker").read_text(encoding="utf-8")

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def steady(self, seconds: int) -> Figures:
        """One change per transaction at a steady rate: from the journal's record to the documents, by a reader."""
        with self._listening() as arrivals:
            self._pace(seconds)
            self._captured()
            self._worked("worker")
        return percentiles(_latencies(arrivals)) | {"changes_per_s": _RATE}

    def fan_out(self, products: int) -> Figures:
        """A supplier of many products is renamed while other products change, each once, a hundred a second."""
        supplier = self._world.suppliers
        moved = self._world.gather(supplier, products)
        for at in range(0, len(moved), 1_000):
            self._write(self._store, moved[at : at + 1_000])
        self._captured()
        self._worked("worker")
        others = self._world.prices(range(products + 1, self._world.products + 1), _OTHERS * _OTHERS_S)
        begun, committed = time.perf_counter(), dict[int, float]()
        renamed = 0.0
        with self._listening() as arrivals:
            for number, change in enumerate(others):
                time.sleep(max(0.0, begun + number / _OTHERS - time.perf_counter()))
                if number == _OTHERS:
                    renamed = time.perf_counter() * 1e3
                    self._write(self._store, [self._world.rename(supplier)])
                self._write(self._store, [change])
                committed[int(change.row["id"])] = time.perf_counter() * 1e3
            self._captured()
            self._worked("worker")
        came = {each.key: each.at for each in reversed(arrivals) if each.document}
        last = [each.at for each in arrivals if each.key is not None and each.key <= products]
        waits = [came[key] - at for key, at in committed.items() if key in came and at > renamed and at < max(last)]
        told = {f"others_{name}": each for name, each in percentiles(waits).items()}
        return {"documents": len(last), "total_s": (max(last) - renamed) / 1e3} | told

    def _pace(self, seconds: int) -> None:
        changes = self._world.changes(seconds * _RATE, rename=False)
        started = time.perf_counter()
        for number, change in enumerate(changes):
            ahead = started + number / _RATE - time.perf_counter()
            if ahead > 0:
                time.sleep(ahead)
            self._write(self._store, [change])

    def _write(self, conn: Connection[Any], changes: Sequence[Change]) -> None:
        with conn.transaction(), conn.pipeline():
            for change in changes:
                names = [name for name in change.row if name != "id"]
                values = [*(change.row[name] for name in names), change.row["id"]]
                conn.execute(_statement(change, names).encode(), values, prepare=True)

    def _lsn(self) -> int:
        row = self._store.execute("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").fetchone()
        self._store.execute("SELECT pg_logical_emit_message(true, 'instep', 'bench')")
        return int(row[0]) if row else 0

    def _captured(self) -> None:
        """Wait until capture has confirmed all that is committed: it is in the topics then."""
        self._aim = self._lsn()
        sql = "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint > %s FROM pg_replication_slots WHERE slot_name = %s"
        self._until(lambda: self._store.execute(sql, (self._aim, f"instep_{_SOURCE}")).fetchone() == (True,), "capture")

    def _worked(self, name: str) -> None:
        """Wait until the worker has come to where capture was, with no key left."""
        sql = "SELECT lsn >= %s AND settled = entry FROM instep.progress WHERE source = %s"
        self._until(lambda: self._ask(sql, (self._aim, _SOURCE)) is True, name)

    def _entry(self) -> int:
        return self._ask("SELECT entry FROM instep.progress WHERE source = %s", (_SOURCE,)) or 0

    def _ask(self, sql: str, values: tuple[Any, ...]) -> Any:
        try:
            row = self._progress.execute(sql.encode(), values).fetchone()
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            return None  # the worker has not made it yet
        return None if row is None else row[0]

    def _until(self, there: Callable[[], bool], name: str) -> None:
        server, deadline = self._servers[name][0], time.monotonic() + _PATIENCE_S
        while not there():
            if not server.alive() or time.monotonic() > deadline:
                raise RuntimeError(f"{name} does not come to its end: {server.last_words()}")
            time.sleep(0.02)

    def _documents(self) -> int:
        row = self._ask("SELECT emitted FROM instep.flows WHERE name = %s", (_FLOW,))
        return int(row or 0)

    @contextmanager
    def _listening(self) -> Iterator[list[_Arrival]]:
        """What arrives in the journal and in the flow topic."""
        topics, stop = self._bed.topics, threading.Event()
        found: list[_Arrival] = []
        consumer = topics.consumer(topics.ends([journal_topic(_SOURCE), flow_topic(_FLOW)]))

        def listen() -> None:
            while not stop.is_set():
                message = consumer.poll(0.1)
                if message is None or message.error():
                    continue
                now, headers = time.perf_counter() * 1e3, dict(message.headers() or [])
                if message.topic() == journal_topic(_SOURCE):
                    entry = decode_journal(unframe(message.value() or b"")[1])
                    if entry.changes:
                        found.append(_Arrival(now, entry.last.pack()))
                else:
                    position = bytes(headers["instep.position"])  # type: ignore[arg-type]  # stubs say str
                    found.append(_Arrival(now, position, _product(message.key())))

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield found
        finally:
            stop.set()
            thread.join()
            consumer.close()


def _statement(change: Change, names: Sequence[str]) -> str:
    if change.op == "d":
        return f"DELETE FROM {change.table} WHERE id = %s"
    if change.op == "c":
        return f"INSERT INTO {change.table} ({', '.join(names)}, id) VALUES ({', '.join(['%s'] * (len(names) + 1))})"
    return f"UPDATE {change.table} SET {', '.join(f'{name} = %s' for name in names)} WHERE id = %s"


def _product(key: Any) -> int:
    """A record of one long is written as the long alone."""
    number: Any = fastavro.schemaless_reader(io.BytesIO(unframe(key or b"")[1]), "long", None)
    return int(number)


def _latencies(arrivals: Sequence[_Arrival]) -> list[float]:
    """Per journal entry: until the first document of it or of a later one, milliseconds."""
    times = []
    documents = sorted((each.position, each.at) for each in arrivals if each.document)
    at = 0
    entries = [each for each in arrivals if not each.document]
    for came, position, _ in sorted(entries, key=lambda each: each.position):
        while at < len(documents) and documents[at][0] < position:
            at += 1
        if at < len(documents):
            times.append(documents[at][1] - came)
    return times


def measure(folder: Path, sizes: Sizes) -> Iterator[tuple[str, Figures]]:
    """Everything the whole path is measured for, one trial after the other."""
    with ExitStack() as stack:
        bed = stack.enter_context(open_bed(folder / "bed", lambda *_: None))
        state = stack.enter_context(running_state(folder / "state-of-path"))
        bench = PathBench(bed, state, World(sizes.products))
        stack.callback(bench.close)
        yield "seed", bench.seed()
        yield "mix", bench.drain(sizes.changes, rename=True)
        yield "mix without renames", bench.drain(sizes.changes, rename=False)
        yield "one change", bench.steady(sizes.seconds)
        yield "fan-out", bench.fan_out(sizes.products // 2)
