"""The compiled module: whether it was built, and is wanted."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Final

PURE: Final = "INSTEP_PURE"
"""Environment variable: anything but nothing and `0` asks for Python alone."""


def module() -> ModuleType | None:
    """`_transcode`; None where it was not built, or is not wanted."""
    if _pure():
        return None
    try:
        from instep_schemas import _transcode
    except ImportError:
        return None
    return _transcode


def told() -> str:
    """Which of the two is in use, for people."""
    if _pure():
        return f"pure Python, as {PURE} asks"
    return "pure Python, as no other was built" if module() is None else "compiled"


def _pure() -> bool:
    return os.environ.get(PURE, "0") not in ("", "0")
