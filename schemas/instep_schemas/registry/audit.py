"""The trail of every write: who, what, when, with what result."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

log = logging.getLogger("instep.registry.audit")


class Audit:
    """Appends one JSON line for each write that was decided or denied here.

    Args:
        path: the file; None: the log.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("a", encoding="utf-8", buffering=1)

    def note(self, who: str, method: str, path: str, result: int, answer: Any = None) -> None:
        """Note one write.

        Args:
            who: account; empty: nobody has to say.
            method: of HTTP.
            path: with its parameters.
            result: HTTP status, or the code of the refusal.
            answer: the body; of a registration, id and version are kept.
        """
        line: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "who": who,
            "what": f"{method} {path}",
            "result": result,
        }
        if isinstance(answer, dict):
            line |= {name: answer[name] for name in ("id", "version") if name in answer}
        text = json.dumps(line, ensure_ascii=False)
        if self._file is None:
            log.info("%s", text)
            return
        try:
            self._file.write(text + "\n")
        except OSError as exc:  # the write has happened; its line must be somewhere
            log.error("the audit file cannot be written: %s; %s", exc.strerror, text)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
