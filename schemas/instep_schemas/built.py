"""The compiled modules: whether they were built, and are wanted."""

from __future__ import annotations

import importlib
import os
from types import ModuleType
from typing import Final

PURE: Final = "INSTEP_PURE"
"""Environment variable: anything but nothing and `0` asks for Python alone."""
TRANSCODE: Final = "_transcode"


def module(name: str = TRANSCODE) -> ModuleType | None:
    """One of them; None where it was not built, or is not wanted."""
    if _pure():
        return None
    try:
        return importlib.import_module(f"instep_schemas.{name}")
    except ImportError:
        return None


def told() -> str:
    """Which of the two is in use, for people."""
    if _pure():
        return f"pure Python, as {PURE} asks"
    return "pure Python, as no other was built" if module() is None else "compiled"


def _pure() -> bool:
    return os.environ.get(PURE, "0") not in ("", "0")
