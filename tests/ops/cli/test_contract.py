"""What every command keeps: help with an example, one sentence instead of a traceback, exit codes for scripts."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from instep_ops.cli.app import build, run

COMMANDS = [
    "demo", "init", "up", "status", "doctor", "verify", "replay", "registry", "capture", "worker", "deliver", "plan",
    "agents",
    "apply", "flow", "flow check", "flow explain", "flow run", "flow watch", "deadletters",
    "deadletters ls", "deadletters retry",
    "schema", "schema ls", "schema show", "schema diff", "schema register", "schema check", "schema delete",
    "schema export", "schema import", "schema check-ddl", "schema key", "schema guard", "topics", "topics ls",
    "topics show",
    "topics tail", "registry doctor", "capture audit", "capture status", "capture recover",
    "capture snapshot",
]  # fmt: skip
NEED_A_PROJECT = [
    "up", "status", "doctor", "verify", "replay x --since 1h", "registry", "capture", "worker", "deliver",
    "agents", "flow check", "flow explain", "flow run", "flow watch", "deadletters ls", "deadletters retry",
    "schema ls", "schema show x", "schema diff x",
    "schema delete x", "schema export", "schema import x", "schema check-ddl x.sql", "schema key x",
    "schema guard", "topics ls",
    "topics show x", "topics tail x", "plan", "apply --yes", "registry doctor", "capture audit", "capture status",
    "capture recover",
]  # fmt: skip
WITHOUT_RUNNING = (
    "up", "doctor", "flow check", "flow explain", "flow run", "schema check-ddl x.sql", "schema key x", "schema guard",
)  # fmt: skip
REPORTING = [
    "status", "doctor", "verify", "replay", "flow check", "flow explain", "flow run", "flow watch", "deadletters ls",
    "deadletters retry", "schema ls", "schema show", "schema diff", "schema register", "schema check",
    "schema delete", "schema import", "plan", "apply", "schema check-ddl", "schema key", "schema guard",
    "topics ls", "topics show",
    "registry doctor", "capture audit",
    "capture status", "capture recover",
]  # fmt: skip


def instep(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "instep_ops.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **env})


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: instep {command}" in " ".join(shown.split())
    if command not in ("demo", "init", "flow", "deadletters", "schema", "topics", "capture snapshot"):
        assert "--project" in shown
    assert ("--json" in shown) == (command in [*REPORTING, "demo"])


def test_the_list_of_commands_is_complete() -> None:
    import typer.main

    group = typer.main.get_command(build())
    names = []
    for name, command in group.commands.items():  # type: ignore[attr-defined]  # a group has them
        names += [name, *(f"{name} {sub}" for sub in getattr(command, "commands", ()))]
    assert sorted(names) == sorted(COMMANDS)


def test_help_loads_nothing_heavy() -> None:
    """These are what would make `--help` take a second."""
    code = (
        "import sys; from instep_ops.cli.app import run; run(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "Usage: instep" in done.stdout
    loaded = ast.literal_eval(done.stderr)
    assert not {"confluent_kafka", "faust", "psycopg", "httpx", "aiohttp", "fastavro", "sqlglot"} & {*loaded}


def test_version() -> None:
    from instep import __version__

    assert instep("--version").stdout == f"instep {__version__}\n"


@pytest.mark.parametrize("words", [["nope"], ["verify", "--nope"], ["replay"], ["demo", "--for", "x"]])
def test_a_wrong_command_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words) == 2
    shown = capsys.readouterr().err
    assert "Error" in shown and "Traceback" not in shown


BAD_PROJECTS = {
    "missing": (None, "There is no"),
    "not TOML": ("name = ", "not valid TOML"),
    "unknown setting": ('[sources.shop]\ndns = "x"\n', r"sources.shop."),
    "no source": ('name = "x"\n', "sources"),
    "wrong kind": ('[sources.shop]\ndsn = "x"\npartitions = "many"\n', "sources.shop.partitions"),
    "bad name": ('name = "Big Shop"\n[sources.shop]\ndsn = "x"\n', "name"),
    "not UTF-8": (b"\xff\xfe", "cannot be read"),
}


@pytest.mark.parametrize("command", NEED_A_PROJECT)
@pytest.mark.parametrize("case", BAD_PROJECTS)
def test_a_bad_project_file_is_one_sentence(
    case: str, command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, told = BAD_PROJECTS[case]
    if text is not None:
        (tmp_path / "instep.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert run([*command.split(), "--project", str(tmp_path)]) == 2
    shown = capfd.readouterr()
    line = shown.out if command == "doctor" else shown.err
    assert told in line
    assert len(line.splitlines()) == 1
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize("command", [c for c in NEED_A_PROJECT if c not in WITHOUT_RUNNING])
def test_a_project_that_does_not_run_says_how_to_start_it(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "instep.toml").write_text('data = "data"\n[sources.shop]\ndsn = "x"\n')
    assert run([*command.split(), "--project", str(tmp_path)]) == 3
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "not running" in shown.err and "`instep up`" in shown.err
    assert len(shown.err.splitlines()) == 1


OWN_SERVERS = """
[sources.a]
dsn = "x"
[sources.b]
dsn = "x"
[kafka]
bootstrap = "127.0.0.1:1"
[registry]
url = "http://127.0.0.1:1"
[state]
dsn = "x"
"""


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("capture", "several sources: a, b"),
        ("capture c", "no source 'c'"),
        ("deliver", "no target"),
        ("flow run", "no flow"),
    ],
)
def test_names_are_checked(command: str, told: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "instep.toml").write_text(OWN_SERVERS)
    assert run([*command.split(), "--project", str(tmp_path)]) == 2
    assert told in capfd.readouterr().err


def test_init_then_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["init", str(tmp_path / "shop")]) == 0
    assert "instep doctor --project" in capsys.readouterr().out
    assert run(["init", str(tmp_path / "shop")]) == 2


def test_a_fault_of_our_own_is_one_sentence_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def broken(folder: Path) -> None:
        raise ValueError("a surprise, password=s3cret")

    monkeypatch.setattr("instep_ops.init.create", broken)
    assert run(["init", "x"]) == 70
    shown = capfd.readouterr().err
    assert "a surprise" in shown and "Traceback" not in shown and len(shown.splitlines()) == 1
    (crash,) = tmp_path.rglob("crash-*.log")
    assert str(crash) in shown
    assert "Traceback" in crash.read_text()
    assert "s3cret" not in shown + crash.read_text()


@pytest.mark.parametrize(
    "fault", [ConnectionError("Kafka at x:1 does not answer."), TimeoutError("The store is slow.")]
)
def test_a_part_that_does_not_answer_is_no_fault_of_ours(
    fault: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def away(folder: Path) -> None:
        raise fault

    monkeypatch.setattr("instep_ops.init.create", away)
    assert run(["init", "x"]) == 75
    (line,) = capfd.readouterr().err.splitlines()
    assert str(fault) in line and "`instep doctor`" in line


@pytest.mark.parametrize("words", [["--debug", "status"], ["status"]])
def test_a_traceback_only_when_asked_for(words: list[str], tmp_path: Path) -> None:
    shown = instep(*words, "--project", str(tmp_path))
    assert shown.returncode == 2
    assert ("Traceback" in shown.stderr) == ("--debug" in words)


def test_interrupted(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupted(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("instep_ops.init.create", interrupted)
    assert run(["init", "x"]) == 130
    assert "Traceback" not in capfd.readouterr().err


PROCESS = """
import asyncio, sys
from instep_ops.cli.runs import run_process
async def work(stop):
    print("ready", flush=True)
    await stop.wait()
    print("stopping", flush=True)
    if "slow" in sys.argv:
        await asyncio.sleep(600)
run_process("x", work)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_a_process_in_order(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PROCESS], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopping\n"
        assert process.wait(60) == 0


def test_a_second_signal_ends_it_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", PROCESS, "slow"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


def test_a_reader_that_leaves_is_no_fault(tmp_path: Path) -> None:
    assert run(["init", str(tmp_path / "p")]) == 0
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as nobody:
        command = [sys.executable, "-m", "instep_ops.cli", "doctor", "--json", "--project", str(tmp_path / "p")]
        ended = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (141, "")
