"""docs/reference/flows.md lists every refusal and every warning that the code has, and no other."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from instep_streams.flows import compile as compiler
from instep_streams.flows.refusals import REFUSALS

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "flows.md").read_text(encoding="utf-8")


def rows(heading: str) -> dict[str, list[str]]:
    """The table below a heading: code → the other cells."""
    part = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found = {}
    for line in part.splitlines():
        if code := re.match(r"\| `([A-Z_]+)` \|", line):
            # a `|` within a cell would be written `\|`
            found[code[1]] = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]
    return found


def test_every_refusal_has_its_reason_and_its_rewrite() -> None:
    listed = rows("Refused")
    assert listed.keys() == REFUSALS.keys()
    assert all(len(cells) == 2 and all(cells) for cells in listed.values())


def test_every_warning_is_listed() -> None:
    given = set(re.findall(r'yield \(?\s*f"([A-Z]+): ', inspect.getsource(compiler)))
    assert given == rows("Warned").keys() and given
