"""The engine alone: changes from memory, documents into nothing, everything durable; and PostgreSQL without Instep."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection

from benchmarks.capture import meters
from benchmarks.flows.workload import CARD, OTHERS, TABLES, Change, Row, World
from instep.change import Op, Position
from instep.flowfile import Flow
from instep.journal import JournalEntry
from instep_ops.embedded import Postgres
from instep_streams.flows.batch import Batch
from instep_streams.flows.engine import Engine
from instep_streams.flows.rows import Entry, RowChange
from instep_streams.flows.session import open_state

Figures = dict[str, float]

BATCH = 1_000
_SEED_BATCH = 5_000
_OPS = {"c": Op.CREATE, "u": Op.UPDATE, "d": Op.DELETE}


class EngineBench:
    """One engine on one state database.

    Args:
        server: the state server.
        database: to make.
        world: the shop.
    """

    def __init__(self, server: Postgres, database: str, world: World) -> None:
        self._server, self._world = server, world
        self._dsn = server.create_database(database)
        self._entry = 0
        self.engine = Engine(open_state(self._dsn), "bench")
        self.engine.ensure_tables(TABLES.values())

    def close(self) -> None:
        """End the session."""
        self.engine.close()

    def seed(self) -> Figures:
        """Rows into the replica, then every document of one flow."""
        started = time.perf_counter()
        rows = 0
        for table, all_rows in self._world.rows():
            while part := list(itertools.islice(all_rows, _SEED_BATCH)):
                self._entry += 1
                self.engine.process([_snapshot(self._entry, table, part)])
                rows += len(part)
        loaded = time.perf_counter()
        self.deploy(1)
        documents = self.drain()
        done = time.perf_counter()
        return {
            "rows": rows, "documents": documents, "rows_s": loaded - started, "documents_s": done - loaded,
            "total_s": done - started,
        }  # fmt: skip

    def deploy(self, flows: int) -> None:
        """So many flows over the same tables: the product card first."""
        texts = [CARD, *OTHERS][:flows]
        named = {f"flow{i}": Flow(name=f"flow{i}", sql=sql, key=("product_id",)) for i, sql in enumerate(texts)}
        self.engine.deploy(named)

    def throughput(self, count: int, *, rename: bool) -> Figures:
        """Changes in batches of a thousand."""
        changes = self._world.changes(count, rename=rename)
        before, wall = self._cpu(), time.perf_counter()
        documents = 0
        for at in range(0, count, BATCH):
            documents += self._process(changes[at : at + BATCH])
            documents += self.drain()
        cpu, wall = self._cpu() - before, time.perf_counter() - wall
        return {
            "changes": count, "documents": documents, "changes_per_core_s": count / cpu, "changes_per_s": count / wall,
            "us_per_change": cpu / count * 1e6,
        }  # fmt: skip

    def single(self, count: int) -> Figures:
        """One change after the other, each in a durable transaction of its own."""
        times = []
        for change in self._world.changes(count, rename=False):
            started = time.perf_counter()
            self._process([change])
            times.append((time.perf_counter() - started) * 1e3)
        return percentiles(times)

    def fan_out(self, products: int) -> Figures:
        """A supplier of many products is renamed: how long it takes, and the longest step others wait for."""
        supplier = self._world.suppliers
        moved = self._world.gather(supplier, products)
        for at in range(0, len(moved), BATCH):
            self._process(moved[at : at + BATCH])
            self.drain()
        started = time.perf_counter()
        documents, steps = self._process([self._world.rename(supplier)]), [time.perf_counter() - started]
        while self.engine.waiting:
            step = time.perf_counter()
            documents += self._finish(self.engine.slice())
            steps.append(time.perf_counter() - step)
        return {
            "documents": documents, "total_s": time.perf_counter() - started, "longest_step_ms": max(steps) * 1e3,
            "steps": len(steps),
        }  # fmt: skip

    def restart(self) -> Figures:
        """A new session on the state as it is, until the first document of a new change."""
        self.engine.close()
        started = time.perf_counter()
        self.engine = Engine(open_state(self._dsn), "bench")
        self.engine.ensure_tables(TABLES.values())
        self.deploy(1)
        ready = time.perf_counter()
        self._process(self._world.changes(1, rename=False))
        return {"ready_s": ready - started, "first_document_s": time.perf_counter() - started}

    def limit(self, count: int) -> Figures:
        """PostgreSQL alone: each change in a transaction, then the SELECT once for each product it concerns."""
        changes = self._world.changes(count, rename=True)
        with open_state(self._dsn) as conn:
            before, wall = self._cpu(), time.perf_counter()
            documents = 0
            for change in changes:
                with conn.transaction():
                    keys = _apply(conn, change)
                    for key in keys:
                        sql = f"SELECT row_to_json(q)::text FROM ({CARD}) q WHERE q.product_id = %s"
                        conn.execute(sql.encode(), (key,), prepare=True).fetchall()
                documents += len(keys)
            cpu, wall = self._cpu() - before, time.perf_counter() - wall
        return {
            "changes": count, "documents": documents, "changes_per_core_s": count / cpu, "changes_per_s": count / wall,
            "us_per_change": cpu / count * 1e6,
        }  # fmt: skip

    def _process(self, changes: Sequence[Change]) -> int:
        self._entry += 1
        batch = self.engine.process([_entry(self._entry, changes)])
        self.engine.sent(batch.progress.batch)
        return len(batch.documents)

    def _finish(self, batch: Batch) -> int:
        self.engine.sent(batch.progress.batch)
        return len(batch.documents)

    def drain(self) -> int:
        """Work off what was put off; gives the documents."""
        documents = 0
        while self.engine.waiting:
            documents += self._finish(self.engine.slice())
        return documents

    def _cpu(self) -> float:
        return sum(os.times()[:2]) + meters.cpu_s(self._server.pid)


def _entry(number: int, changes: Sequence[Change]) -> Entry:
    at = Position(1, number, 0)
    journal = JournalEntry("bench", number, 1, "1", 1, at, at, number, number, {}, {})
    rows = [RowChange(f"public.{c.table}", _OPS[c.op], (c.row["id"],), None if c.op == "d" else c.row) for c in changes]
    return journal, rows


def _snapshot(number: int, table: str, rows: Sequence[Row]) -> Entry:
    journal, _ = _entry(number, [])
    return journal, [RowChange(f"public.{table}", Op.READ, (row["id"],), row) for row in rows]


def _apply(conn: Connection[Any], change: Change) -> list[str]:
    """Write a change and find the products it concerns by the obvious way."""
    types = TABLES[change.table]
    names = [name for name in change.row if name != "id"]
    key = "product_id" if change.table in ("stock_levels", "order_lines") else "id"
    if change.op == "d":
        sql = f"DELETE FROM {change.table} WHERE id = %s RETURNING old.{key}::text, old.{key}::text"
    elif change.op == "c":
        given = ", ".join(f"%s::{types.type_of(name)}" for name in names)
        sql = (
            f'INSERT INTO {change.table} ({", ".join(names)}, id, "_instep_pos") VALUES ({given}, %s, 0)'
            f" RETURNING {key}::text, {key}::text"
        )
    else:
        sets = ", ".join(f"{name} = %s::{types.type_of(name)}" for name in names)
        sql = f"UPDATE {change.table} SET {sets} WHERE id = %s RETURNING old.{key}::text, new.{key}::text"
    values = [*(change.row[name] for name in names), change.row["id"]]
    found = {each for row in conn.execute(sql.encode(), values, prepare=True).fetchall() for each in row}
    if change.table == "suppliers":
        sql = "SELECT id::text FROM products WHERE supplier_id = %s"
        return [each for (each,) in conn.execute(sql, (change.row["id"],), prepare=True).fetchall()]
    return sorted(found)


def percentiles(times_ms: Sequence[float]) -> Figures:
    """p50, p99 and the worst, milliseconds."""
    cuts = statistics.quantiles(times_ms, n=100)
    return {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(times_ms), "samples": len(times_ms)}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        products: rows of the shop's products; eighteen times as many in all.
        changes: of the mix.
        singles: changes one by one.
        seconds: of steady load.
    """

    products: int
    changes: int
    singles: int
    seconds: int


def measure(server: Postgres, options: Sizes) -> Iterator[tuple[str, Figures]]:
    """Everything the engine is measured for, one trial after the other."""
    bench = EngineBench(server, "engine", World(options.products))
    try:
        yield "seed", bench.seed()
        yield "restart", bench.restart()
        yield "one change", bench.single(options.singles)
        yield "mix", bench.throughput(options.changes, rename=True)
        yield "mix without renames", bench.throughput(options.changes, rename=False)
        yield "PostgreSQL alone", bench.limit(options.changes // 10)
        yield "fan-out", bench.fan_out(options.products // 2)
        bench.deploy(10)
        bench.drain()
        yield "mix, ten flows", bench.throughput(options.changes // 2, rename=True)
    finally:
        bench.close()


def sweep(server: Postgres, products: Sequence[int], changes: int) -> Iterator[tuple[str, Figures]]:
    """What a change costs in shops of different sizes: it should be the same."""
    for count in products:
        bench = EngineBench(server, f"sweep_{count}", World(count))
        try:
            seed = bench.seed()
            bench.throughput(changes // 5, rename=False)  # the first changes find nothing in memory
            plain, mix = bench.throughput(changes, rename=False), bench.throughput(changes, rename=True)
        finally:
            bench.close()
        yield f"{count:,} products", {
            "rows": seed["rows"], "seed_s": seed["total_s"],
            "us_per_change": mix["us_per_change"], "us_per_change_without_renames": plain["us_per_change"],
        }  # fmt: skip
