"""Every example of docs/guides/flows.md is run: SQL on a store, files written, commands compared with what is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.flowfile import load_all
from instep_ops.cli.app import run
from instep_streams.agents.declare import load_agents

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "flows.md"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"`([\w/]+\.(?:sql|toml|py))`[^`\n]*:\n\n\Z")
KINDS = {"sql", "toml", "python", "console", "text"}


class Example(NamedTuple):
    """One fenced block; `file` is the name in the line before it, if that ends with a colon."""

    kind: str
    file: str
    text: str


def examples(text: str) -> Iterator[Example]:
    for found in _FENCE.finditer(text):
        named = _FILE.search(text, 0, found.start())
        yield Example(found[1], named[1] if named else "", found[2])


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each `$ command` of a console block with the output shown below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def shows(shown: str, output: str) -> bool:
    """Whether the output is as shown, where a line `…` stands for any lines."""
    pattern = re.escape(shown).replace(re.escape("…\n"), r"(?:.*\n)*")
    return re.fullmatch(pattern, output) is not None


def test_every_example_of_the_guide_works(
    tmp_path: Path, postgres: PostgresForTests, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = postgres.database()
    monkeypatch.setenv("STORE_DSN", store)
    other = postgres.database()
    monkeypatch.setenv("BOOKS_DSN", other)
    monkeypatch.setenv("STATE_DSN", postgres.database())
    monkeypatch.setenv("INSTEP_PROJECT", str(tmp_path))
    (tmp_path / "flows").mkdir()
    ran = 0
    for example in examples(GUIDE.read_text(encoding="utf-8")):
        assert example.kind in KINDS, example
        if example.kind == "text":
            continue  # what a running project shows, with positions of its own; tests/ops/test_watching.py
        if example.kind == "console":
            for command, shown in commands(example.text):
                program, *words = shlex.split(command)
                assert program == "instep"
                run(words)
                output = capsys.readouterr().out
                assert shows(shown, output), f"$ {command}\n{output}"
                ran += 1
        elif example.file:
            (tmp_path / example.file).parent.mkdir(exist_ok=True)
            (tmp_path / example.file).write_text(example.text, encoding="utf-8")
        else:
            assert example.kind == "sql", example
            with psycopg.connect(other if example.text.startswith("-- on the other store") else store) as conn:
                conn.execute(example.text.encode())
    assert ran >= 8
    assert list(load_agents(tmp_path)) == ["low"]
    assert len(load_all(tmp_path / "flows")) >= 6


def test_an_example_that_is_wrong_is_seen() -> None:
    assert shows("a\n…\nc\n", "a\nb\nb\nc\n") and shows("a\n", "a\n")
    assert not shows("a\n…\nc\n", "a\nb\n") and not shows("a\n", "b\n")
    (found,) = examples("so `flows/x.sql`:\n\n```sql\nSELECT 1\n```\n")
    assert found == Example("sql", "flows/x.sql", "SELECT 1\n")
    assert list(commands("$ one\nout\n$ two\n")) == [("one", "out\n"), ("two", "")]
