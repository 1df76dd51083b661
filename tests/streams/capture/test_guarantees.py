"""docs/reference/capture-guarantees.md names every item once, and tests and recordings that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/reference/capture-guarantees.md").read_text(encoding="utf-8")


def test_every_item_is_there_once_and_says_what_shows_it() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, 89))
    for number, _, shown in rows:
        assert "::" in shown or "golden `" in shown or re.match(r"no test: |does not apply: |as \d+: ", shown), number


def test_every_named_test_exists() -> None:
    named = set(re.findall(r"`(tests/\S+?)::(\w+)`", PAGE))
    assert len(named) > 60
    for file, name in named:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = (node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)))
        assert name in {each.name for each in functions}, f"{file} has no {name}"


def test_every_named_recording_exists() -> None:
    named = set(re.findall(r"golden `(\w+)`", PAGE))
    recorded = {path.stem for path in (ROOT / "tests/golden").rglob("*.json")}
    assert len(named) > 20 and named <= recorded, named - recorded
