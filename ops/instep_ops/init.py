"""`instep init`: a commented project for the user's own database and CRM."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from instep.errors import ConfigError, EnvironmentFault

_FILES = {
    "instep.toml": "instep.toml",
    "flows/example.sql": "example.sql",
    ".gitignore": "gitignore",
    "README.md": "README.md",
}


def create(folder: Path) -> list[Path]:
    """Write the project's files; gives their paths. Nothing that exists is touched.

    Raises:
        ConfigError: one of the files is there already.
        EnvironmentFault: the folder cannot be written.
    """
    there = [name for name in _FILES if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder / there[0]} exists already.", "Name an empty or a new folder.")
    name = project_name(folder)
    try:
        return [_write(folder / path, _template(template).replace("@NAME@", name)) for path, template in _FILES.items()]
    except OSError as exc:
        raise EnvironmentFault(
            f"{folder} cannot be written: {exc.strerror}.", "Give yourself the right, or name another folder."
        ) from exc


def project_name(folder: Path) -> str:
    """The folder's name as a project's name: lower-case letters, digits, `_`, `-`; begins with a letter."""
    name = re.sub(r"[^a-z0-9_-]+", "-", folder.absolute().name.lower()).strip("-_")
    return name if re.match(r"[a-z]", name) else f"instep-{name}".rstrip("-")


def _template(name: str) -> str:
    return files("instep_ops").joinpath("templates", name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
