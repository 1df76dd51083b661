"""docs/reference/capture.md says what the code declares, and the code does what is declared."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from tests.streams.capture.test_connector import BASE, KAFKA, REGISTRY

from instep.errors import ConfigError
from instep_streams.capture import connector as module
from instep_streams.capture.declared import DONE, GROUPS, ONLY, STEERED, STEERING

ROOT = Path(__file__).parents[3]


def test_the_page_is_current() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "capture_page.py"))
    written = (ROOT / "docs/reference/capture.md").read_text(encoding="utf-8")
    assert written == tool["page"](), "run: python tools/capture_page.py"


def test_everything_declared_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: set[str] = set()
    take = module._Reader.take

    def noting(self: module._Reader, name: str) -> str:
        taken.add(name)
        return take(self, name)

    monkeypatch.setattr(module._Reader, "take", noting)
    module.connector(BASE, KAFKA, REGISTRY)
    by_pattern = {name for name in DONE if "<" in name}  # their names carry values: test_masks_by_name
    assert taken == set(DONE) - by_pattern
    assert sum(map(len, GROUPS.values())) == len(DONE)


@pytest.mark.parametrize("name", [name for only in ONLY for name in only.names])
def test_what_is_limited_is_accepted_or_refused_with_the_reason(name: str) -> None:
    only = next(each for each in ONLY if name in each.names)
    for value in only.values:
        module.connector(BASE | {name: value}, KAFKA, REGISTRY)
    with pytest.raises(ConfigError) as caught:
        module.connector(BASE | {name: "something.Else"}, KAFKA, REGISTRY)
    assert only.reason in caught.value.cause


def test_what_is_read_over_is_told() -> None:
    names = [name.replace("*", "x") for each in STEERING for name in each.names]
    assert all(map(STEERED.fullmatch, names))
    (warning,) = module.connector(BASE | dict.fromkeys(names, "1"), KAFKA, REGISTRY).warnings
    assert all(name in warning for name in names)
