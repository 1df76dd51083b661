"""What a person may ask of copies that run beside the stream: Debezium's signals, and our own commands. Pure."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from instep_connectors.postgres.publication import matcher
from instep_connectors.postgres.selection import matches

log = logging.getLogger(__name__)

Kind = Literal["run", "stop", "pause", "resume"]
_SIGNALS: Final[Mapping[str, Kind]] = {
    "execute-snapshot": "run",
    "stop-snapshot": "stop",
    "pause-snapshot": "pause",
    "resume-snapshot": "resume",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command.

    Attributes:
        kind: what to do.
        tables: regular expressions of `schema.table`; empty: all (stop).
        conditions: per such expression the SQL that rows must meet.
        order: columns to read by instead of the key.
        request: who asked, to find it again.
        blocking: the stream waits until the tables are copied; the conditions are SELECTs then.
    """

    kind: Kind
    tables: tuple[str, ...] = ()
    conditions: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    request: str = ""
    blocking: bool = False

    def names(self, table: str) -> bool:
        """Whether the command is about this table."""
        return matches(self.tables, table)

    def condition(self, table: str) -> str:
        """The SQL that the table's rows must meet, empty for none."""
        return next((sql for pattern, sql in self.conditions.items() if matches((pattern,), table)), "")


def signal(name: str, kind: str, text: str) -> Command | None:
    """A row of Debezium's signal table as a command; None, and a warning, when it is none that is known."""
    try:
        data = json.loads(text or "{}")
        if kind == "log":
            log.info("%s", data.get("message", ""))
        if kind not in _SIGNALS:
            return None
        return _signal(_SIGNALS[kind], data)
    except (ValueError, TypeError, KeyError, AttributeError, re.error) as exc:
        log.warning("the signal %s (%s) is not understood and is ignored: %s", name, kind, exc)
        return None


def _signal(kind: Kind, data: Mapping[str, Any]) -> Command:
    style = str(data.get("type", "incremental")).lower()
    if kind == "run" and style not in ("incremental", "blocking"):
        raise ValueError(f"snapshots of the type {data['type']} are not done here")
    tables = tuple(str(each) for each in data.get("data-collections") or ())
    conditions = {
        str(each["data-collection"]): str(each.get("filter", "")) for each in data.get("additional-conditions") or ()
    }
    order = (str(data["surrogate-key"]),) if data.get("surrogate-key") else ()
    for pattern in (*tables, *conditions):
        re.compile(pattern)
    return Command(kind, tables, conditions, order, blocking=kind == "run" and style == "blocking")


def command(data: bytes | None) -> Command:
    """A record of the commands' topic.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(data or b"")
        patterns = [str(each) for each in found.get("tables", ())]
        tables = (matcher(patterns).pattern,) if patterns else ()
        where = str(found.get("where") or "")
        conditions = dict.fromkeys(tables, where) if where else {}
        kind: Kind = found["kind"]
        if kind not in _SIGNALS.values():
            raise ValueError(f"unknown kind {kind}")
        return Command(kind, tables, conditions, (), str(found.get("request", "")))
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise ValueError(f"not a command: {exc}") from None


def encoded(kind: Kind, tables: tuple[str, ...], where: str, request: str) -> bytes:
    """What `command` reads."""
    return json.dumps({"kind": kind, "tables": list(tables), "where": where, "request": request}).encode()
