"""Functions that are made of source text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import CodeType
from typing import Any


def compiled(arguments: str, lines: Sequence[str], names: dict[str, Any]) -> Callable[..., Any]:
    """The function of these statements, which see `names`."""
    body = "\n".join(f" {line}" for statement in lines for line in statement.split("\n"))
    exec(_code(f"def write({arguments}):\n{body}"), names)
    generated: Callable[..., Any] = names["write"]
    return generated


@lru_cache(256)
def _code(source: str) -> CodeType:
    """Compiled once for all with the same text, as of tables with the same columns: it costs as much as 50 changes."""
    return compile(source, "<generated>", "exec")
