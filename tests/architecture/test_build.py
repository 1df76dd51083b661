"""What an installation makes of the compiled modules: a part of the wheel, or nothing and one line that says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import hatch_build
import pytest

ROOT = Path(__file__).parents[2]


class App:
    """Hatch's terminal."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def display_warning(self, message: str) -> None:
        self.said.append(message)


def built(version: str = "standard") -> tuple[dict[str, Any], list[str]]:
    """What the hook decides, and what it says."""
    app: Any = App()
    nothing: Any = None
    hook = hatch_build.CompilingHook(str(ROOT), {}, nothing, nothing, "", "wheel", app)
    data: dict[str, Any] = {"artifacts": [], "pure_python": True, "infer_tag": False}
    hook.initialize(version, data)
    return data, app.said


@pytest.fixture(autouse=True)
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INSTEP_PURE", raising=False)


@pytest.mark.parametrize("version", ["standard", "editable"])
def test_the_modules_are_a_part_of_the_wheel(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hatch_build, "compiled", lambda: [Path("schemas", "made.so")])
    data, said = built(version)
    own = version == "standard"  # the wheel of an editable install only points here
    assert data == {"artifacts": ["/schemas/made.so"], "pure_python": not own, "infer_tag": own}
    assert said == []


@pytest.mark.parametrize("missing", ["Cython.Build", "setuptools"])
def test_without_its_tools_the_installation_goes_on_in_python(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    data, (line,) = built()
    assert data == {"artifacts": [], "pure_python": True, "infer_tag": False}
    assert "stays pure Python" in line and missing in line and "\n" not in line


def test_without_a_compiler_the_installation_goes_on_in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    data, (line,) = built()
    assert data["pure_python"] and "no-such-compiler" in line


def test_who_asks_for_python_gets_it_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTEP_PURE", "1")
    monkeypatch.setattr(hatch_build, "compiled", lambda: pytest.fail("it was built all the same"))
    assert built() == ({"artifacts": [], "pure_python": True, "infer_tag": False}, [])
