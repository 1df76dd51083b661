"""`instep up` as a person runs it: everything embedded but the store, in a process of its own."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

pytestmark = pytest.mark.slow


def until(condition: Callable[[], object], within: float) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.05)


FLOW = """/* instep
key = "id"
*/
SELECT id, name FROM things
"""


@pytest.fixture
def project(tmp_path: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch) -> Path:
    store, name = postgres.database(), f"up{secrets.token_hex(3)}"
    with psycopg.connect(store) as conn:
        conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text)")
        conn.execute("INSERT INTO things SELECT n, 'thing ' || n FROM generate_series(1, 10) n")
    monkeypatch.setenv("UP_STORE", store)
    toml = f'name = "{name}"\ndata = "data"\n[sources.{name}]\ndsn = "env:UP_STORE"\n'
    (tmp_path / "instep.toml").write_text(toml)
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "thing.sql").write_text(FLOW)
    return tmp_path


@contextmanager
def running(project: Path) -> Iterator[subprocess.Popen[bytes]]:
    path = project / "up.log"
    with path.open("wb") as log, subprocess.Popen(command("up", project), stdout=log, stderr=log) as process:
        try:
            until(lambda: process.poll() is not None or b"Running" in path.read_bytes(), 120)
            assert process.poll() is None, path.read_text()
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(90)


def command(word: str, project: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "instep_ops.cli", word, "--project", str(project), *more]


def ask(word: str, project: Path) -> tuple[int, Any]:
    done = subprocess.run(command(word, project, "--json"), capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


def below(process: subprocess.Popen[bytes]) -> list[Any]:
    return list(psutil.Process(process.pid).children(recursive=True))


def test_up_stop_and_up_again(project: Path) -> None:
    with running(project) as process:
        code, report = ask("verify", project)
        assert (code, report["differences"], report["rows_compared"]) == (0, 0, 10), report
        _, status = ask("status", project)
        source = next(iter(status["sources"]))
        assert set(status["processes"]) == {"registry", f"capture-{source}", f"worker-{source}"}
        os.kill(status["processes"][f"worker-{source}"], signal.SIGKILL)
        with psycopg.connect(os.environ["UP_STORE"]) as conn:
            conn.execute("DELETE FROM things WHERE id = 1")
        code, report = ask("verify", project)
        assert (code, report["differences"], report["rows_compared"]) == (0, 0, 10), report

        second = subprocess.run(command("up", project), capture_output=True, text=True, timeout=60)
        assert second.returncode == 3 and "in use by another Instep" in second.stderr

        children = below(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
        assert [each for each in children if each.is_running()] == []
    assert ask("status", project)[0] == 3
    with running(project):
        with psycopg.connect(os.environ["UP_STORE"]) as conn:
            conn.execute("UPDATE things SET name = 'while away' WHERE id = 2")
        code, report = ask("verify", project)
        assert (code, report["differences"], report["flows"][0]["rows"]) == (0, 0, 9), report


def test_a_fault_of_the_project_ends_up_with_its_sentence(project: Path) -> None:
    (project / "flows" / "thing.sql").write_text(FLOW.replace("name FROM", "no_such_column FROM"))
    done = subprocess.run(command("up", project), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "no_such_column" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stdout + done.stderr
