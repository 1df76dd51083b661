"""What is made with the compiled modules, beside its oracle in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from instep_schemas import built

Made = TypeVar("Made")


def compiled_and_pure(make: Callable[[], Made]) -> tuple[Made, Made]:
    """The compiled one and the one in Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(built.PURE, raising=False)
        assert built.module() is not None, "it was not built: run `make setup` again and read what it says"
        compiled = make()
        patch.setenv(built.PURE, "1")
        return compiled, make()
