"""`instep doctor` against real parts, and against each of the ways in which they can be wrong."""

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.fixtures.postgres import PostgresForTests

from instep.errors import InstepError, StateError
from instep.settings import KafkaSettings, parse
from instep_ops import examinations
from instep_ops.cli.app import run
from instep_ops.doctor import Check, examine
from instep_ops.embedded import Postgres

FLOW = '/* instep\nkey = "id"\n*/\nSELECT id, name FROM things\n'
EMBEDDED = '[sources.shop]\ndsn = "env:DOCTOR_STORE"\ntables = ["things"]\n'
OWN = EMBEDDED + '[kafka]\nbootstrap = "{kafka}"\n[registry]\nurl = "{registry}"\n[state]\ndsn = "env:DOCTOR_STATE"\n'


@pytest.fixture
def project(tmp_path: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> Path:
    store = postgres.database()
    with psycopg.connect(store) as conn:
        conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
    monkeypatch.setenv("DOCTOR_STORE", store)
    monkeypatch.setenv("DOCTOR_STATE", postgres.database())
    (tmp_path / "instep.toml").write_text('data = "data"\n' + EMBEDDED)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "thing.sql").write_text(FLOW)
    return tmp_path


def checks(project: Path) -> dict[str, Check]:
    return {check.name: check for check in asyncio.run(examine(project))}


def test_an_embedded_project_before_its_first_start(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = checks(project)
    assert [check.line() for check in found.values() if not check.ok] == []
    assert found["kafka.bootstrap"].skipped
    assert {"project", "flow files", "data folder", "java", "postgresql", "flow thing"} <= found.keys()
    assert found["transcoder"].line().startswith("ok     transcoder: ")
    assert not (project / "data").exists()
    assert run(["doctor", "--project", str(project)]) == 0
    assert all(line.startswith(("ok ", "- ")) for line in capsys.readouterr().out.splitlines())


def test_own_servers(project: Path, kafka: KafkaSettings, registry: str) -> None:
    (project / "instep.toml").write_text(OWN.format(kafka=kafka.bootstrap, registry=registry))
    found = checks(project)
    assert [check.line() for check in found.values() if not check.ok] == []
    assert {"kafka", "registry", "state", "source shop: slot", "flow thing"} <= found.keys()
    assert not any(check.skipped for check in found.values())


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.slow
def test_servers_that_are_gone_are_all_named_at_once(
    project: Path, nobody: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCTOR_STATE", f"postgresql://x@{nobody}/x")
    (project / "instep.toml").write_text(OWN.format(kafka=nobody, registry=f"http://{nobody}"))
    assert run(["doctor", "--json", "--project", str(project)]) == 7
    shown = json.loads(capsys.readouterr().out)
    failed = {check["name"]: check for check in shown["checks"] if not check["ok"]}
    assert not shown["ok"] and set(failed) == {"kafka", "registry", "state"}
    assert all(check["cause"] and check["remedy"] for check in failed.values())


def test_advice_for_a_state_that_outgrows_its_server(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    assert examinations.advised_memory(dsn) is None
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE UNLOGGED TABLE big AS SELECT generate_series(1, 2000000)")
    found = examinations.advised_memory(dsn)
    assert found is not None and found.ok and found.exit_code == 0
    assert "outgrow shared_buffers (64MB)" in found.cause and "max_wal_size" in found.remedy


def test_a_wrong_password_of_the_store(
    project: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCTOR_STORE", make_conninfo(postgres.database(), password="wr0ng"))
    found = checks(project)
    (wrong,) = [check for check in found.values() if not check.ok]
    assert wrong.name == "source shop: connection" and wrong.exit_code == 4
    assert "password" in wrong.cause and "wr0ng" not in wrong.line()
    assert found["flows"].skipped


def test_a_variable_that_is_not_set(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCTOR_STORE")
    (wrong,) = [check for check in checks(project).values() if not check.ok]
    assert "DOCTOR_STORE" in wrong.cause


def test_a_store_that_carries_no_changes(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Postgres(tmp_path / "replica", "replica", durable=False, settings={"wal_level": "replica"})
    server.ensure()
    server.start()
    try:
        with psycopg.connect(server.dsn) as conn:
            conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
        monkeypatch.setenv("DOCTOR_STORE", server.dsn)
        wrong = [check for check in checks(project).values() if not check.ok]
    finally:
        server.stop()
    assert [check.exit_code for check in wrong] == [4]
    assert "wal_level" in wrong[0].cause and "wal_level" in wrong[0].remedy


def test_a_flow_that_is_refused(project: Path) -> None:
    (project / "flows" / "bad.sql").write_text(FLOW.replace("name FROM", "nmae FROM"))
    found = checks(project)
    assert found["flow thing"].ok
    assert (found["flow bad"].ok, found["flow bad"].exit_code) == (False, 2)
    assert "nmae" in found["flow bad"].cause


def test_a_project_without_flows(project: Path) -> None:
    (project / "flows" / "thing.sql").unlink()
    assert not checks(project)["flow files"].ok


def test_a_folder_that_cannot_be_written(project: Path) -> None:
    (project / "data").write_text("a file, not a folder")
    found = checks(project)["data folder"]
    assert (found.ok, found.exit_code) == (False, 3)
    assert str(project / "data") in found.cause


@pytest.mark.parametrize(("encoding", "told"), [("SQL_ASCII", "SQL_ASCII"), ("LATIN1", "LATIN1")])
def test_a_state_database_in_another_encoding(encoding: str, told: str, postgres: PostgresForTests) -> None:
    name = f"state_{encoding.lower()}"
    with psycopg.connect(postgres.dsn, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    settings = parse({"sources": {}, "state": {"dsn": make_conninfo(postgres.dsn, dbname=name)}}, Path())
    with pytest.raises(StateError, match=told):
        examinations.state(settings)


def test_a_state_user_that_may_not_create(postgres: PostgresForTests) -> None:
    dsn = postgres.database()
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE ROLE poor LOGIN PASSWORD 'poor'")
    settings = parse({"sources": {}, "state": {"dsn": make_conninfo(dsn, user="poor", password="poor")}}, Path())
    with pytest.raises(StateError, match="may not create"):
        examinations.state(settings)


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://127.0.0.1:1/x"])
def test_a_wrong_state_dsn(dsn: str) -> None:
    settings = parse({"sources": {}, "state": {"dsn": dsn}}, Path())
    with pytest.raises((InstepError, ConnectionError)) as caught:
        examinations.state(settings)
    assert "\n" not in str(caught.value)
