import threading
import time
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import ConfigError, EnvironmentFault
from instep.flowfile import load_all
from instep_ops.demo.opening import COLUMNS
from instep_ops.demo.store import Life, open_shop
from instep_ops.embedded import Postgres

FOREVER = threading.Event()


def contents(dsn: str) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(dsn) as conn:
        return {table: sorted(conn.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in COLUMNS}


def test_a_life_of_many_steps_keeps_every_constraint_and_can_be_replayed(postgres: PostgresForTests) -> None:
    first, second = postgres.database(), postgres.database()
    life = Life(first, open_shop(first, 5, 0.2), rate=0)
    life.run(FOREVER, most_steps=1500)
    replay = Life(second, open_shop(second, 5, 0.2), rate=0)
    replay.run(FOREVER, most_steps=700)
    Life(second, open_shop(second, 5, 0.2), rate=0).run(FOREVER, most_steps=800)  # continued after a restart
    assert contents(first) == contents(second)
    with psycopg.connect(first) as conn:
        assert conn.execute("SELECT step, changes FROM demo.clock").fetchone() == (1500, life.changes)


def test_the_flows_read_the_shop(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    Life(dsn, open_shop(dsn, 1, 0.2), rate=0).run(FOREVER, most_steps=300)
    flows = load_all(Path(str(files("instep_ops.demo"))) / "flows")
    assert set(flows) == {"product_card", "customer_card"}
    with psycopg.connect(dsn) as conn:
        for flow in flows.values():
            cursor = conn.execute(flow.sql)
            assert cursor.description
            names = [column.name for column in cursor.description]
            rows = cursor.fetchall()
            assert set(flow.key) | set(flow.fields or ()) <= set(names)
            assert len({row[names.index(flow.key[0])] for row in rows}) == len(rows) > 10
        low = conn.execute(f"SELECT count(*) FROM ({flows['product_card'].sql}) q WHERE low_stock <> ''").fetchone()
        assert low != (0,)


def test_the_pace_is_kept(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    life, stop = Life(dsn, open_shop(dsn, 1, 0.1), rate=100), threading.Event()
    begin = time.monotonic()
    life.run(stop, most_steps=50)
    took = time.monotonic() - begin
    assert 0.7 * life.changes / 100 < took < 1.5 * life.changes / 100 + 10


def test_stop_ends_it_between_two_transactions(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    life, stop = Life(dsn, open_shop(dsn, 1, 0.1), rate=1), threading.Event()
    thread = threading.Thread(target=life.run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(30)
    assert not thread.is_alive()
    with psycopg.connect(dsn) as conn:
        assert conn.execute("SELECT step, changes FROM demo.clock").fetchone() == (life.steps, life.changes)


def test_a_step_is_committed_once_over_restarts_of_the_database(tmp_path: Path) -> None:
    server = Postgres(tmp_path, "store", durable=False)
    server.ensure()
    server.start()
    try:
        dsn = server.create_database("shop")
        life, stop = Life(dsn, open_shop(dsn, 1, 0.1), rate=0), threading.Event()
        thread = threading.Thread(target=life.run, args=(stop,))
        thread.start()
        for end in (server.stop, server.kill):
            before, deadline = life.steps, time.monotonic() + 60
            while life.steps < before + 50:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            end()
            server.start()
        stop.set()
        thread.join(60)
        with psycopg.connect(dsn) as conn:
            assert conn.execute("SELECT step, changes FROM demo.clock").fetchone() == (life.steps, life.changes)
    finally:
        server.stop()


def test_another_seed_on_the_same_data_is_refused(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    open_shop(dsn, 1, 0.1)
    with pytest.raises(ConfigError, match="--seed 2") as fault:
        open_shop(dsn, 2, 0.1)
    assert "--reset" in fault.value.remedy


def test_a_foreign_hand_in_the_tables_is_noticed(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    life = Life(dsn, open_shop(dsn, 1, 0.1), rate=0)
    with psycopg.connect(dsn) as conn:
        conn.execute("UPDATE demo.clock SET step = 99")
    with pytest.raises(EnvironmentFault, match="Step 1 "):
        life.run(FOREVER, most_steps=1)
