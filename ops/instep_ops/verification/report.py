"""What `instep verify` found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from instep_ops.verification.compare import Difference

Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]

_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Undecided:
    """A key about which nothing certain can be said, and why."""

    flow: str
    key: tuple[str, ...]
    target: str
    reason: str


@dataclass(slots=True)
class Proof:
    """One flow at one position.

    Attributes:
        flow: its name.
        target: the CRM that was read back; empty: none.
        position: the source position of the last round.
        rows: documents of the SELECT on the store.
        topic_compared: keys compared between store and topic.
        crm_compared: keys compared with the CRM.
        rejected: keys whose newest version the CRM refused (part of the differences).
        waiting: keys that differ since a change of them waits for the flow's schedule or interval; no differences.
        differences: what does not agree.
        undecided: what could not be decided.
    """

    flow: str
    target: str
    position: str
    rows: int = 0
    topic_compared: int = 0
    crm_compared: int = 0
    rejected: int = 0
    waiting: int = 0
    differences: list[Difference] = field(default_factory=list)
    undecided: list[Undecided] = field(default_factory=list)

    @property
    def rows_compared(self) -> int:
        """Keys compared, on all sides together."""
        return self.topic_compared + self.crm_compared

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "flow": self.flow,
            "target": self.target or None,
            "position": self.position,
            "rows": self.rows,
            "rows_compared": self.rows_compared,
            "topic_compared": self.topic_compared,
            "crm_compared": self.crm_compared,
            "rejected": self.rejected,
            "waiting": self.waiting,
            "differences": [each.to_dict() for each in self.differences],
            "undecided": [
                {"key": list(each.key), "target": each.target or None, "reason": each.reason} for each in self.undecided
            ],
        }


@dataclass(slots=True)
class Report:
    """Every flow that was proven, and the counts behind it.

    Attributes:
        proofs: one per flow.
        counts: per source `{"captured": …, "rejected": …}`, per flow `{"emitted": …}`, per target its outcomes.
        unbalanced: sentences about counts that do not add up; empty when all do.
        repaired: keys delivered again.
        seconds: how long it took.
    """

    proofs: list[Proof] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    unbalanced: list[str] = field(default_factory=list)
    repaired: int = 0
    seconds: float = 0.0

    @property
    def differences(self) -> list[Difference]:
        """Of all flows."""
        return [each for proof in self.proofs for each in proof.differences]

    @property
    def undecided(self) -> list[Undecided]:
        """Of all flows."""
        return [each for proof in self.proofs for each in proof.undecided]

    @property
    def waiting(self) -> int:
        """Of all flows."""
        return sum(proof.waiting for proof in self.proofs)

    @property
    def rows_compared(self) -> int:
        """Of all flows."""
        return sum(proof.rows_compared for proof in self.proofs)

    @property
    def position(self) -> str:
        """Where it was proven; of several sources the last."""
        return max((proof.position for proof in self.proofs), default="")

    @property
    def ok(self) -> bool:
        """Whether everything was compared, agrees and adds up."""
        return not self.differences and not self.undecided and not self.unbalanced

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "ok": self.ok,
            "differences": len(self.differences),
            "undecided": len(self.undecided),
            "waiting": self.waiting,
            "rows_compared": self.rows_compared,
            "position": self.position,
            "seconds": round(self.seconds, 3),
            "flows": [proof.to_dict() for proof in self.proofs],
            "counts": self.counts,
            "unbalanced": self.unbalanced,
            "repaired": self.repaired,
        }

    def tables(self) -> list[Table]:
        """What a person sees: a line per flow, then the differences, then what stayed undecided."""
        flows = [
            (
                p.flow,
                p.target,
                p.rows,
                p.topic_compared,
                p.crm_compared,
                len(p.differences),
                len(p.undecided),
                p.waiting,
                p.position,
            )
            for p in self.proofs
        ]
        differences = [
            (d.flow, ", ".join(d.key), d.field or "(row)", d.store, d.topic, d.crm if d.target else "", d.reason)
            for d in self.differences[:_SHOWN]
        ]
        undecided = [(u.flow, ", ".join(u.key), u.target, u.reason) for u in self.undecided[:_SHOWN]]
        return [
            (
                "Flows",
                ("flow", "target", "rows", "topic", "CRM", "differences", "undecided", "waiting", "position"),
                flows,
            ),
            ("Differences", ("flow", "key", "field", "store", "topic", "CRM", "reason"), differences),
            ("Undecided", ("flow", "key", "target", "reason"), undecided),
        ]

    def sentence(self) -> str:
        """The result in one sentence."""
        if self.ok:
            took = f"{self.seconds:.1f} s"
            waits = f", {self.waiting} wait for their flow's time" if self.waiting else ""
            return f"Verified at {self.position}: {self.rows_compared} rows compared, 0 differences{waits} ({took})."
        parts = [f"{len(self.differences)} differences"]
        if self.undecided:
            parts.append(f"{len(self.undecided)} rows undecided")
        counts = " ".join(self.unbalanced)
        more = f" ({_SHOWN} shown; --json lists all)" if len(self.differences) > _SHOWN else ""
        return f"Not proven: {', '.join(parts)} in {self.rows_compared} rows compared{more}. {counts}".strip()
