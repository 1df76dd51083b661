"""Writes docs/reference/settings.md from the settings' own descriptions: `python tools/settings_page.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from instep.settings import Settings

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"
INTRODUCTION = """# Settings

Everything that `instep.toml` may say. `instep init DIR` writes a commented one; a name that is not listed here is
refused. Addresses and secrets may be references: `env:NAME` reads an environment variable, `file:PATH` a file. An
address that is `embedded` is a server that `instep up` runs on this machine. What stands in a flow file:
[flows](flows.md).

This page is written by `tools/settings_page.py` from `core/instep/settings.py`.
"""


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_section("", Settings))


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    title = f"`[{name}]`" if name else "At the top"
    words = "" if not name else f"\n{(model.__doc__ or '').strip().splitlines()[0]}\n"
    yield f"\n## {title}\n{words}\n| setting | default | meaning |\n|---|---|---|\n"
    inner: list[tuple[str, type[BaseModel]]] = []
    for key, field in model.model_fields.items():
        if field.exclude:
            continue
        found = _model_in(field.annotation)
        if found is not None:
            part = f"{key}.NAME" if found[1] else key
            inner.append((f"{name}.{part}" if name else part, found[0]))
        else:
            yield f"| `{key}` | {_default(field)} | {(field.description or '').replace('|', '/')} |\n"
    if model.model_config.get("extra") == "allow":
        yield "| … | | what only this type of target knows: see its own page |\n"
    for part, kind in inner:
        yield from _section(part, kind)


def _model_in(kind: Any) -> tuple[type[BaseModel], bool] | None:
    """The table that a setting is, and whether there is one for each name."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind, False
    arguments = get_args(kind)
    last = arguments[-1] if arguments else None
    return (last, True) if isinstance(last, type) and issubclass(last, BaseModel) else None


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is PydanticUndefined or value in (None, "", ()):
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
