"""The whole demo as a person runs it, in a process of its own."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from instep_ops.embedded import DataFolder

pytestmark = pytest.mark.slow


def command(data: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "instep_ops.cli", "demo", "--data", str(data), "--plain", "--scale", "0.1", *options]


def demo(data: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(data, *options), capture_output=True, text=True, timeout=240)


def left_behind(data: Path) -> list[str]:
    found = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return [" ".join(words) for words in found if any(str(data) in word for word in words)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def report_of(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_first_start_ends_with_a_proof(data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    ended = demo(data, "--for", "5", "--rate", "30", "--json", str(report))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 differences" in ended.stdout
    found = report_of(report)
    assert found["verify"]["differences"] == 0
    assert found["verify"]["rows_compared"] > 50
    assert found["captured"] > 200 + 100
    assert found["delivered"] == found["emitted"] == sum(found["outcomes"].values()) > 35
    assert found["outcomes"]["written"] > 35
    for stage in ("commit_to_topic", "commit_to_flow", "commit_to_crm"):
        assert 0 < found["latency_ms"][stage]["p50"] <= found["latency_ms"][stage]["p99"]
    assert not left_behind(data)


def test_the_second_start_goes_on_through_chaos_until_ctrl_c(data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    running = subprocess.Popen(
        command(data, "--rate", "30", "--chaos", "--json", str(report)), stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    begin, lines, opened = time.monotonic(), [], 0.0
    for line in running.stdout:
        lines.append(line)
        if "the shop is open" in line and not opened:
            opened = time.monotonic()
        if opened and time.monotonic() - opened > 11:
            break
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=400)
    assert running.returncode == 0, "".join(lines) + rest
    assert opened - begin < 120  # under 20 s on a quiet machine
    assert not [line for line in lines if "ownload" in line or "nstalling" in line or "CRM's database" in line]
    found = report_of(report)
    assert found["verify"]["differences"] == 0
    assert sum(found["kills"].values()) >= 1
    assert not left_behind(data)


def test_another_seed_is_refused_in_one_sentence(data: Path) -> None:
    ended = demo(data, "--seed", "2", "--for", "1")
    assert ended.returncode == 2
    assert "--reset" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not left_behind(data)


def test_a_folder_in_use_is_refused_in_one_sentence(data: Path) -> None:
    folder = DataFolder(data)
    folder.acquire()
    try:
        ended = demo(data, "--for", "1")
    finally:
        folder.release()
    assert ended.returncode == 3
    assert "in use by another Instep" in ended.stderr


def test_reset_starts_over_without_a_crm_and_ctrl_c_before_the_shop_opens_ends_it(data: Path) -> None:
    running = subprocess.Popen(command(data, "--reset", "--target", "none"), stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    for line in running.stdout:
        if "Kafka" in line:
            break
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    assert running.returncode == 130
    assert not left_behind(data)
