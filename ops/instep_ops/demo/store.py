"""The demo shop in a real database: opened once, then lived in at a pace."""

from __future__ import annotations

import threading
import time
from importlib.resources import files

import psycopg
from psycopg import sql

from instep.errors import ConfigError, EnvironmentFault
from instep_ops.demo.opening import COLUMNS
from instep_ops.demo.shop import Shop, Step

_RECONNECT_S = 0.2
_MOST_BEHIND_S = 2.0


def open_shop(dsn: str, seed: int, scale: float) -> Shop:
    """Create the shop's tables on the first call; on later ones take its life up where it stopped.

    Raises:
        ConfigError: the database holds a shop of another seed or scale.
    """
    shop = Shop(seed, scale)
    with psycopg.connect(dsn) as conn:
        if conn.execute("SELECT to_regclass('demo.clock')").fetchone() == (None,):
            _load(conn, shop, seed, scale)
            return shop
        found = conn.execute("SELECT step, seed, scale FROM demo.clock").fetchone()
    if found is None or found[1:] != (seed, scale):
        raise ConfigError(
            f"The shop in this data folder was opened with other values than --seed {seed} --scale {scale}.",
            "Give the same ones, or start over with --reset.",
        )
    while shop.steps < found[0]:
        shop.step()
    return shop


def _load(conn: psycopg.Connection, shop: Shop, seed: int, scale: float) -> None:
    conn.execute(files("instep_ops.demo").joinpath("schema.sql").read_bytes())
    with conn.cursor() as cursor:
        for table, rows in shop.first_day.items():
            names = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), names)) as copy:
                for row in rows:
                    copy.write_row(row)
    conn.execute("INSERT INTO demo.clock VALUES (0, 0, %s, %s)", (seed, scale))


class Life:
    """Lives a shop's life on its database until told to stop; thread-safe counters.

    Args:
        dsn: the store.
        shop: as `open_shop` gave it.
        rate: changes (rows) per second; 0: as fast as the database takes them.
    """

    def __init__(self, dsn: str, shop: Shop, rate: float) -> None:
        self._dsn = dsn
        self._shop = shop
        self._rate = rate
        self._conn: psycopg.Connection | None = None
        self.changes = 0
        self.steps = 0

    def run(self, stop: threading.Event, most_steps: int | None = None) -> None:
        """Live, through restarts of the database, until `stop` is set or so many steps are done.

        Raises:
            EnvironmentFault: a step did not change what it must: someone else writes to the shop's tables.
        """
        due = time.monotonic()
        try:
            while self.steps != most_steps and not stop.wait(max(0.0, due - time.monotonic())):
                step = self._shop.step()
                if not self._commit(step, stop):
                    return
                self.steps += 1
                self.changes += step.changes
                due = max(due, time.monotonic() - _MOST_BEHIND_S) + (step.changes / self._rate if self._rate else 0)
        finally:
            self._close()

    def _commit(self, step: Step, stop: threading.Event) -> bool:
        """Commit one step exactly once, however often the connection breaks meanwhile; False: stopped before that."""
        while True:
            try:
                if self._conn is None:
                    self._conn = psycopg.connect(self._dsn)
                with self._conn.transaction():
                    self._live(self._conn, step)
                return True
            except psycopg.Error as exc:
                self._close()
                if not isinstance(exc, psycopg.OperationalError):
                    raise
                if stop.wait(_RECONNECT_S):
                    return False

    def _live(self, conn: psycopg.Connection, step: Step) -> None:
        """The step's statements with its number; nothing when it was committed before the connection broke."""
        clock = conn.execute(
            "UPDATE demo.clock SET step = %s, changes = changes + %s WHERE step = %s",
            (step.number, step.changes, step.number - 1),
        )
        if clock.rowcount == 0 and conn.execute("SELECT step FROM demo.clock").fetchone() == (step.number,):
            return
        for statement in step.statements:
            done = conn.execute(statement.sql, statement.parameters).rowcount
            if clock.rowcount != 1 or done != statement.changes:
                raise EnvironmentFault(
                    f"Step {step.number} ({step.kind}) of the shop changed {done} rows, not {statement.changes}.",
                    "Leave the demo's tables to the demo, or start over with --reset.",
                )

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None
