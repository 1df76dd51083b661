"""The demo's last word: what was proven, in figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from instep_ops.demo.latency import Percentiles


@dataclass(slots=True)
class DemoReport:
    """What `--json` writes.

    Attributes:
        captured: changes captured from the store since its first day.
        emitted: documents and tombstones that the flows have emitted.
        delivered: document versions with an outcome.
        outcomes: those by outcome.
        verify: `differences`, `undecided`, `rows_compared`, `unbalanced`, `position`, `seconds`.
        latency: of what was committed while the shop was open, by stage.
        shop: the shop's own figures.
        kills: processes that chaos killed, by name.
        ok: every captured change has an outcome, and the CRM equals the SELECT.
    """

    captured: int
    emitted: int
    delivered: int
    outcomes: Mapping[str, int]
    verify: Mapping[str, Any]
    latency: Mapping[str, Percentiles]
    shop: Mapping[str, Any]
    ok: bool
    kills: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "ok": self.ok,
            "captured": self.captured,
            "emitted": self.emitted,
            "delivered": self.delivered,
            "outcomes": dict(self.outcomes),
            "verify": dict(self.verify),
            "latency_ms": {stage: found.to_dict() for stage, found in self.latency.items()},
            "shop": dict(self.shop),
            "kills": dict(self.kills),
        }

    def write(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
