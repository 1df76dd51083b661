"""What a plan is made of, and how it is written down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Final

from instep.errors import ConfigError

FORMAT: Final = 1


class Act(StrEnum):
    """What a step does; the last five are not done by `instep apply`."""

    CREATE_TOPIC = "create topic"
    CONFIGURE_TOPIC = "configure topic"
    SET_LEVEL = "set level"
    WRITE_LOCK = "write lock"
    DEPLOY_FLOW = "deploy flow"
    REMOVE_FLOW = "remove flow"
    SHARE = "share keys"
    REGISTER = "register schema"
    REPARTITION = "repartition topic"
    COPIES = "change copies"


@dataclass(frozen=True, slots=True)
class Step:
    """One difference between the project and the cluster.

    Attributes:
        act: what would mend it.
        name: of the topic, subject or flow.
        was: setting → value now; None: not there.
        wanted: setting → value wanted.
        harm: what is lost by it; empty for nothing. Such a step is done only when it is allowed by name.
        refused: why it is never done; empty when it may be.
        notes: what else to know: samples, who does it.
        asks: what a person must decide before it is done; empty for nothing.
    """

    act: Act
    name: str
    was: Mapping[str, str | None] = field(default_factory=dict)
    wanted: Mapping[str, str | None] = field(default_factory=dict)
    harm: str = ""
    refused: str = ""
    notes: tuple[str, ...] = ()
    asks: str = ""

    @property
    def by_others(self) -> bool:
        """Done by the processes themselves, when they start or meet a change."""
        return self.act in (Act.DEPLOY_FLOW, Act.SHARE, Act.REGISTER)

    def lines(self) -> Iterator[str]:
        """As a person reads it: `+` new, `~` changed, `!` harm, `x` never."""
        signs = (("x", self.refused), ("?", self.asks), ("!", self.harm), ("+", self.act is Act.CREATE_TOPIC))
        sign = next((each for each, holds in signs if holds), "~")
        yield f"{sign} {self.act}: {self.name}"
        for name, value in self.wanted.items():
            before = self.was.get(name)
            yield f"    {name}: {value}" if before is None else f"    {name}: {before} → {value}"
        if self.harm:
            yield f"    HARM: {self.harm}; done only with --allow {self.name}"
        if self.asks:
            yield f"    ASKS: {self.asks}"
        if self.refused:
            yield f"    NEVER DONE: {self.refused}"
        yield from (f"    {note}" for note in self.notes)


Seen = Mapping[str, Mapping[str, Any]]
"""What a plan looked at: topics, levels, schemas and flows by name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Differences, and the state of the cluster they were found in.

    Attributes:
        project: its name.
        steps: in the order in which they would be done.
        seen: the state.
    """

    project: str
    steps: tuple[Step, ...]
    seen: Seen

    @property
    def hash(self) -> str:
        """Of what was seen: another one means that the cluster has moved on."""
        return hashlib.sha256(_canonical(self.seen).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """As JSON, and as a plan file."""
        steps = [{**asdict(step), "by_others": step.by_others} for step in self.steps]
        return {"format": FORMAT, "project": self.project, "hash": self.hash, "steps": steps, "seen": self.seen}

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        for step in self.steps:
            yield from step.lines()
        yield (
            f"{len(self.steps)} differences; plan {self.hash}." if self.steps else f"No differences; plan {self.hash}."
        )

    def moved(self, other: Mapping[str, Any]) -> list[str]:
        """What is not as a plan file saw it: `topic flow.card: …`."""
        then, now = _flat(other["seen"]), _flat(self.seen)
        return [
            f"{' '.join(place)}: {_canonical(then.get(place))} → {_canonical(now.get(place))}"
            for place in sorted({*then, *now})
            if then.get(place) != now.get(place)
        ]


def _flat(seen: Seen) -> dict[tuple[str, str], Any]:
    # as JSON has it: a tuple that was written is a list when it is read
    return {
        (kind, name): json.loads(_canonical(value))
        for kind, all_of_it in seen.items()
        for name, value in all_of_it.items()
    }


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read_plan(text: str, origin: str) -> dict[str, Any]:
    """Read a plan file.

    Raises:
        ConfigError: not one, or its hash does not fit what it says it saw.
    """
    try:
        raw: dict[str, Any] = json.loads(text)
        saw = Plan(raw["project"], (), raw["seen"]).hash
        if raw["format"] != FORMAT or raw["hash"] != saw or not isinstance(raw["steps"], list):
            raise ValueError("its hash does not fit")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise ConfigError(
            f"{origin} is no plan of this version ({exc}).", "Make it with `instep plan --out`."
        ) from None
    return raw
