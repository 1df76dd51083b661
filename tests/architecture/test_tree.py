"""Rules of the tree that no other tool holds."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Spelt in pieces so that this file does not trip over itself.
HOSTS = re.compile(
    r"py"
    r"pi\.org|pythonhost"
    r"ed\.org|mav"
    r"en\.org|npm"
    r"js\.org|crat"
    r"es\.io|pro"
    r"xy\.golang|d"
    r"eb\.debian"
)
MACHINE_PATHS = re.compile(r"(?<![\w.])/(?:wo" r"rk|home/\w+|ro" r"ot)/")
TEXT = {*".py .pyi .pyx .pxd .md .toml .txt .yml .yaml .sql .json .avsc .cfg .lock".split(), ""}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def places(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{file.relative_to(ROOT)}: {found.group()}"
        for file in tracked()
        if file.suffix in TEXT
        for found in pattern.finditer(file.read_text(encoding="utf-8", errors="replace"))
    ]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert places(HOSTS) == []


def test_no_file_holds_a_path_of_one_machine() -> None:
    assert places(MACHINE_PATHS) == []


def test_every_path_in_the_architecture_page_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:core|schemas|connectors|streams|ops|tests|docs)/[\w./-]+)(?::\w+)?`", text))
    assert named, "the page names no file at all"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_function_in_the_architecture_page_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+\.py):(\w+)`", text)
    assert named, "the life of a change names no function"
    missing = [
        f"{file}:{name}"
        for file, name in named
        if not re.search(rf"\b(?:def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert missing == []
