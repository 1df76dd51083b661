import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    services = yaml.safe_load(FILE.read_text())["services"]
    assert isinstance(services, dict)
    return services


def test_it_is_valid_by_the_compose_specification() -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout


def test_it_runs_every_process_and_each_says_whether_it_is_healthy(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "state", "registry", "capture", "worker", "deliver"}
    assert [name for name, service in services.items() if "healthcheck" not in service] == []


def test_it_has_no_password_of_its_own(services: dict[str, Any]) -> None:
    settings = [
        f"{key}={value}"
        for service in services.values()
        for key, value in service["environment"].items()
        if any(word in key for word in ("PASSWORD", "KEY", "DSN"))
    ]
    assert settings
    assert [setting for setting in settings if ":?" not in setting] == []
