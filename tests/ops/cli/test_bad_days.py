"""What people get wrong: every command ends with one sentence that names cause and remedy, and a code for scripts."""

import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.fixtures.postgres import PostgresForTests

from instep.settings import KafkaSettings
from instep_ops.embedded import Postgres

TOML = """
name = "{name}"
data = "data"
[sources.{name}]
dsn = "env:BAD_STORE"
tables = ["things"]
[kafka]
bootstrap = "{kafka}"
[registry]
url = "{registry}"
listen = "{listen}"
[state]
dsn = "env:BAD_STATE"
[targets.crm]
type = "tryton"
url = "{crm}"
key = "env:BAD_KEY"
"""
FLOW = """/* instep
key = "id"   target = "crm"   object = "party.party"   fields = ["name"]
*/
SELECT id, name FROM things
"""

Make = Callable[..., Path]


@pytest.fixture
def make(
    tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str, monkeypatch: pytest.MonkeyPatch
) -> Make:
    """A project that is right but for what the test asks for."""

    def made(
        store: str = "",
        state: str = "",
        listen: str = "127.0.0.1:0",
        crm: str = "http://127.0.0.1:1/crm",
        key: str = "k",
    ) -> Path:
        monkeypatch.setenv("BAD_STORE", store or fresh_store(postgres))
        monkeypatch.setenv("BAD_STATE", state or postgres.database())
        monkeypatch.setenv("BAD_KEY", key)
        name = f"bad{secrets.token_hex(3)}"
        toml = TOML.format(name=name, kafka=kafka.bootstrap, registry=registry, listen=listen, crm=crm)
        (tmp_path / "instep.toml").write_text(toml)
        (tmp_path / "flows").mkdir()
        (tmp_path / "flows" / f"{name}_thing.sql").write_text(FLOW)
        return tmp_path

    return made


def fresh_store(postgres: PostgresForTests) -> str:
    dsn = postgres.database()
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
    return dsn


def ends(project: Path, *words: str) -> tuple[int, str]:
    """Run a command that must end by itself; gives exit code and its sentence."""
    command = [sys.executable, "-m", "instep_ops.cli", *words, "--project", str(project)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90)
    assert "Traceback" not in done.stdout + done.stderr
    sentences = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(sentences) == 1, done.stderr
    return done.returncode, sentences[0]


def test_a_wrong_password_of_the_store(make: Make, postgres: PostgresForTests) -> None:
    code, told = ends(make(store=make_conninfo(fresh_store(postgres), password="wr0ng")), "capture")
    assert code == 4 and "password authentication failed" in told and "wr0ng" not in told


def test_a_store_with_wal_level_replica(make: Make, tmp_path: Path) -> None:
    server = Postgres(tmp_path / "pg", "replica", durable=False, settings={"wal_level": "replica"})
    server.ensure()
    server.start()
    try:
        with psycopg.connect(server.dsn) as conn:
            conn.execute("CREATE TABLE things (id int PRIMARY KEY)")
        code, told = ends(make(store=server.dsn), "capture")
    finally:
        server.stop()
    assert code == 4 and "wal_level=replica" in told and "ALTER SYSTEM SET wal_level" in told


def test_a_user_that_may_not_publish(make: Make, postgres: PostgresForTests) -> None:
    store, role = fresh_store(postgres), f"r{secrets.token_hex(3)}"
    with psycopg.connect(store) as conn:
        conn.execute(f"CREATE ROLE {role} LOGIN REPLICATION PASSWORD 'x'; GRANT SELECT ON things TO {role}".encode())
    code, told = ends(make(store=make_conninfo(store, user=role, password="x")), "capture")
    assert code == 4 and "publication" in told.lower()


@pytest.fixture
def taken() -> Iterator[str]:
    """An address that is in use."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_port_for_metrics_is_in_use(make: Make, taken: str) -> None:
    code, told = ends(make(), "capture", "--metrics", taken)
    assert code == 3 and taken in told and "--metrics" in told


def test_the_port_of_the_registry_is_in_use(make: Make, taken: str) -> None:
    code, told = ends(make(listen=taken), "registry")
    assert code == 3 and taken.partition(":")[2] in told


def test_a_wrong_password_of_the_state_database(make: Make, postgres: PostgresForTests) -> None:
    code, told = ends(make(state=make_conninfo(postgres.database(), password="wr0ng")), "deliver")
    assert code == 7 and "password" in told and "wr0ng" not in told


def test_a_data_folder_that_cannot_be_written(make: Make) -> None:
    project = make()
    (project / "data").write_text("a file, no folder")
    code, told = ends(project, "up")
    assert code == 3 and str(project / "data") in told


@pytest.mark.slow
def test_a_slot_that_another_process_holds(make: Make) -> None:
    project = make()
    command = [sys.executable, "-m", "instep_ops.cli", "capture", "--project", str(project)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        try:
            assert first.stderr is not None
            while "ready" not in first.stderr.readline():
                assert first.poll() is None
            code, told = ends(project, "capture")
        finally:
            first.terminate()
    assert code == 4 and "slot" in told
