"""Debezium configuration files: Java properties or JSON, with or without Debezium Server's prefixes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Final

from instep.errors import ConfigError

_PREFIXES: Final = ("debezium.source.", "debezium.sink.kafka.", "debezium.format.")
_REFERENCE: Final = re.compile(r"\$\{(?:(\w+):)?([^}]*)\}")
_PAIR: Final = re.compile(r"((?:\\.|[^=:\s\\])+)\s*(?:[=:]\s*|\s)?(.*)", re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read(path: Path) -> dict[str, str]:
    """Read a connector configuration, references to the environment and to files resolved.

    Raises:
        ConfigError: it cannot be read or is neither properties nor JSON; or a reference leads nowhere.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} cannot be read: {exc}.") from None
    raw = parse_json(text, str(path)) if text.lstrip().startswith("{") else parse_properties(text)
    return {_plain(name): resolved(value, path) for name, value in raw.items()}


def _plain(name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)


def parse_json(text: str, origin: str) -> dict[str, str]:
    """A flat object, or what Connect's REST interface takes: `{"name": …, "config": {…}}`.

    Raises:
        ConfigError: not that.
    """
    try:
        document = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"{origin} is not valid JSON: {exc}.") from None
    config = document.get("config", document)
    if not isinstance(config, dict) or any(isinstance(value, (dict, list)) for value in config.values()):
        raise ConfigError(f"{origin} holds something else than names and values.")
    return {name: _text(value) for name, value in config.items() if value is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse_properties(text: str) -> dict[str, str]:
    """Java's properties: comments, continued lines, escapes."""
    found: dict[str, str] = {}
    line = ""
    for part in text.splitlines():
        line += part.lstrip()
        if not line or line[0] in "#!":
            line = ""
            continue
        if (len(line) - len(line.rstrip("\\"))) % 2:
            line = line[:-1]
            continue
        pair = _PAIR.match(line)
        if pair is not None:
            found[_unescaped(pair[1])] = _unescaped(pair[2])
        line = ""
    return found


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: chr(int(m[1][1:], 16)) if len(m[1]) == 5 else _ESCAPED.get(m[1], m[1]), text)


def resolved(value: str, origin: Path) -> str:
    """The value with `${env:NAME}`, `${NAME}` and `${file:PATH:NAME}` replaced.

    Raises:
        ConfigError: there is no such variable or file, or the provider is another one.
    """

    def replacement(reference: re.Match[str]) -> str:
        provider, rest = reference[1], reference[2]
        if provider in (None, "env") and rest in os.environ:
            return os.environ[rest]
        if provider == "file":
            path, _, name = rest.rpartition(":")
            try:
                return parse_properties(Path(path).read_text(encoding="utf-8"))[name]
            except (OSError, KeyError):
                pass
        raise ConfigError(
            f"{origin}: {reference[0]} leads nowhere.", "Only ${env:NAME} and ${file:PATH:NAME} are known here."
        )

    return _REFERENCE.sub(replacement, value)
