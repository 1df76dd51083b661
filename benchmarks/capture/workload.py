"""The load: tables of seven columns and a deterministic mix of changes.

Of 10 changes of a table 5 are INSERT, 4 UPDATE, 1 DELETE; each hits exactly one row, so N operations are N changes (and
1.1 N Kafka records, since a delete is followed by a tombstone).
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import psycopg
from psycopg.sql import SQL, Literal

_TABLE = """CREATE TABLE b{i} (
  id bigint PRIMARY KEY, account_id int NOT NULL, amount numeric(12,2) NOT NULL, status text NOT NULL, active boolean,
  note text, updated_at timestamptz NOT NULL)"""
_SEED = "INSERT INTO b{i} SELECT {start} + j, 1, 1, 'seed', true, 'seed', now() FROM generate_series(-60, -1) j"
# MAIN: large notes stay in their row, else an UPDATE that leaves the note alone would not carry it
_STORAGE = "ALTER TABLE b{i} ALTER note SET STORAGE MAIN"
_OPERATIONS = """CREATE FUNCTION ops_{i}(first bigint, n int, pad int) RETURNS void LANGUAGE plpgsql AS $f$
DECLARE j bigint; q bigint; m int; t bigint; BEGIN
  FOR j IN first .. first + n - 1 LOOP
    q := j / 10; m := j % 10;
    IF m < 5 THEN
      INSERT INTO b{i} VALUES (j, (j % 100000)::int, (j % 1000000) / 100.0, 'active', true,
        left(repeat(md5(j::text), pad / 32 + 1), pad), clock_timestamp());
    ELSIF m < 9 THEN
      t := 10 * (q - 3) + m - 5;
      UPDATE b{i} SET amount = amount + 1, status = 'updated', updated_at = clock_timestamp() WHERE id = t;
    ELSE
      t := 10 * (q - 5) + 4;
      DELETE FROM b{i} WHERE id = t;
    END IF;
  END LOOP;
END $f$"""
_BULK = """CREATE PROCEDURE bulk(first bigint, n bigint, k int, pad int, tables int) LANGUAGE plpgsql AS $f$
DECLARE x bigint := 0; BEGIN
  WHILE x < n / k LOOP
    EXECUTE format('SELECT ops_%s($1, $2, $3)', x % tables + 1) USING first + (x / tables) * k, k, pad;
    COMMIT;
    x := x + 1;
  END LOOP;
END $f$"""
_ROWS = """INSERT INTO b1 SELECT j, (j % 100000)::int, (j % 1000000) / 100.0, 'active', true,
  left(repeat(md5(j::text), {pad} / 32 + 1), {pad}), clock_timestamp() FROM generate_series(0, {rows} - 1) j"""


WRITERS = 4
"""Connections of a paced load; each works on rows of its own."""
_STRAND = 400_000_000
"""Far apart, and all of them within 2^31: a loop of PL/pgSQL counts no further."""


@dataclass(frozen=True, slots=True)
class Paced:
    """What a paced load achieved."""

    changes: int
    asked: int
    per_s: float
    latest_ms: float


class Workload:
    """The tables `b1` … `b<tables>` of one database, and the load on them.

    Args:
        dsn: of an empty database.
        tables: how many.
        pad: bytes of the text column.
    """

    def __init__(self, dsn: str, tables: int = 1, pad: int = 60) -> None:
        self.dsn, self.tables, self.pad = dsn, tables, pad
        self._next = 0
        self._strands = [(writer + 1) * _STRAND for writer in range(WRITERS)]
        with psycopg.connect(dsn) as conn:
            conn.execute(_BULK.encode())
        for start in range(1, tables + 1, 100):  # one transaction for all would hold too many locks
            with psycopg.connect(dsn) as conn:
                for i in range(start, min(start + 100, tables + 1)):
                    for text in (_TABLE, _STORAGE, _OPERATIONS):
                        conn.execute(text.replace("{i}", str(i)).encode())

    @property
    def names(self) -> list[str]:
        """The tables' names."""
        return [f"b{i}" for i in range(1, self.tables + 1)]

    def seed(self) -> None:
        """Write the rows that the first updates and deletes hit."""
        with psycopg.connect(self.dsn) as conn:
            places = [(i, 0) for i in range(1, self.tables + 1)] + [(1, start) for start in self._strands]
            for i, start in places:
                conn.execute(_SEED.replace("{i}", str(i)).replace("{start}", str(start)).encode())

    def rows(self, rows: int) -> None:
        """Fill `b1` with rows, for a snapshot."""
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET synchronous_commit = off")
            conn.execute(SQL(_ROWS).format(pad=Literal(self.pad), rows=Literal(rows)))
            conn.execute("VACUUM ANALYZE b1")
            conn.execute("CHECKPOINT")

    def backlog(self, changes: int, tx_rows: int) -> int:
        """Write at least so many changes as fast as possible; gives how many."""
        step = self.tables * (tx_rows if tx_rows % 10 == 0 else tx_rows * 10)
        changes = -(-changes // step) * step
        first, self._next = self._next, self._next + changes // self.tables
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute("SET synchronous_commit = off")
            conn.execute("CALL bulk(%s, %s, %s, %s, %s)", (first, changes, tx_rows, self.pad, self.tables))
            conn.execute("CHECKPOINT")
        return changes

    def share(self, changes: int) -> list[int]:
        """Reserve changes of `b1` for a paced load, a multiple of 10 for each writer; gives each one's first number."""
        firsts = list(self._strands)
        self._strands = [first + changes // WRITERS for first in firsts]
        return firsts

    def sentinel(self, table: str) -> None:
        """Create a table of no other use: a change of it, written behind a load, shows that the load is through."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute(f"CREATE TABLE {table} (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)".encode())

    def finish(self, table: str) -> None:
        """Write a change of that table."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute(f"INSERT INTO {table} DEFAULT VALUES".encode())


def paced(dsn: str, firsts: list[int], changes: int, per_s: int, tx_rows: int, pad: int) -> Paced:
    """Write changes of `b1` at a steady rate, each transaction made durable. Runs in a process of its own.

    Several connections, since one could not commit 1,000 times a second on most disks.

    Args:
        dsn: of the database.
        firsts: number of the first change of each connection, from `Workload.share`.
        changes: of all connections together.
        per_s: of all connections together.
        tx_rows: changes per transaction.
        pad: bytes of the text column.
    """
    count = len(firsts)
    gap = tx_rows * count / per_s
    start = time.perf_counter() + 0.5

    def write(writer: int) -> float:
        latest = 0.0
        with psycopg.connect(dsn, autocommit=True) as conn:
            for x in range(changes // count // tx_rows):
                due = start + (x + writer / count) * gap
                now = time.perf_counter()
                if due > now:
                    time.sleep(due - now)
                else:
                    latest = max(latest, now - due)
                conn.execute("SELECT ops_1(%s, %s, %s)", (firsts[writer] + x * tx_rows, tx_rows, pad))
        return latest

    with ThreadPoolExecutor(count) as pool:
        latest = max(pool.map(write, range(count)))
    return Paced(changes, per_s, changes / (time.perf_counter() - start), latest * 1000)
