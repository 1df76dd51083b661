"""Writes the tables of docs/reference/capture.md from the settings' declarations: `python tools/capture_page.py`.

What stands above the marker is written by hand and kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from instep.settings import SourceSettings
from instep_schemas.wire import EXCEPTIONS
from instep_streams.capture.declared import GROUPS, ONLY, STEERING, Option

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "capture.md"
MARK = "<!-- From here on written by tools/capture_page.py. -->\n"


def page() -> str:
    """The whole page."""
    head, mark, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    return head + (mark or MARK) + "".join(_native()) + "".join(_debezium())


def _native() -> Iterator[str]:
    yield "\n## Settings of a source\n\n`[sources.NAME]` in `instep.toml`, from `core/instep/settings.py`.\n\n"
    yield "| setting | default | meaning |\n|---|---|---|\n"
    for name, field in SourceSettings.model_fields.items():
        value = field.default
        nothing = value in (PydanticUndefined, None, "", ())
        shown = "required" if field.is_required() else "" if nothing else _code(value)
        yield f"| `{name}` | {shown} | {_cell(field.description or '')} |\n"


def _debezium() -> Iterator[str]:
    yield (
        "\n## Debezium's settings\n\nWhat `--debezium FILE` takes, from `streams/instep_streams/capture/declared.py`. "
        "A name that is in none of these tables is refused.\n"
    )
    for title, options in GROUPS.items():
        yield f"\n### {title}\n\n| setting | default | meaning |\n|---|---|---|\n"
        for option in options:
            yield f"| `{option.name}` | {_default(option)} | {_cell(option.meaning)}{_values(option)} |\n"
    yield (
        "\n### Refused but for these values\n\nThey would change what is written.\n\n"
        "| setting | accepted | why no other |\n|---|---|---|\n"
    )
    for only in ONLY:
        accepted = ", ".join(_code(value) if value else "not set" for value in only.values)
        yield f"| {_codes(only.names)} | {accepted} | {_cell(only.reason)} |\n"
    yield (
        "\n### Read over\n\nThey steer how Debezium works, not what it writes; one warning names those that a file "
        "has.\n\n| setting | here |\n|---|---|\n"
    )
    for steering in STEERING:
        yield f"| {_codes(steering.names)} | {_cell(steering.instead)} |\n"
    yield (
        "\n## Where it differs from Debezium\n\nOn purpose, and nowhere else: from `schemas/instep_schemas/wire.py`; "
        "`make golden` calls each by its name.\n\n| name | Debezium | here |\n|---|---|---|\n"
    )
    for name, deviation in EXCEPTIONS.items():
        yield f"| {name} | {_cell(deviation.debezium)} | {_cell(deviation.instep)} |\n"


def _default(option: Option) -> str:
    return "required" if option.required else _code(option.default) if option.default else ""


def _values(option: Option) -> str:
    return f" ({_codes(option.values)})" if option.values and "true" not in option.values else ""


def _codes(names: Sequence[str]) -> str:
    return ", ".join(map(_code, names))


def _code(value: object) -> str:
    return f"`{', '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
