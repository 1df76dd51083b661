"""The gate's answer: per table and column, per flow, for people and for CI."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instep_schemas.compatibility import Level
from instep_schemas.evolution import Change, Kind


@dataclass(frozen=True, slots=True)
class TableVerdict:
    """What happens to one captured table.

    Attributes:
        table: `schema.table`.
        topic: of its rows.
        level: that the topic's values must keep.
        changes: column by column.
        readers: per changed column, the flows that read it.
        stops: why the level refuses the new schema: capture would stop at the migration.
        widened: columns that capture goes on writing as nullable, so that readers can follow.
    """

    table: str
    topic: str
    level: Level
    changes: tuple[Change, ...] = ()
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    stops: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()

    def order(self, change: Change) -> str:
        """Who is deployed first."""
        if change.danger:
            return "not as it is, in no order"
        flows = ", ".join(self.readers.get(change.column, ()))
        if change.kind is Kind.REMOVED:
            return f"flows first: {flows}" if flows else "consumers first, if any reads it"
        if change.kind is Kind.ADDED:
            return "the migration first, then what reads it"
        return change.first

    def accepted(self, change: Change, accepted: frozenset[str]) -> bool:
        """Whether a person has accepted it."""
        short = self.table.removeprefix("public.")
        names = {f"{table}.{change.column}" if change.column else table for table in (self.table, short)}
        return bool(names & accepted)

    def dangers(self, accepted: frozenset[str]) -> list[Change]:
        """The dangers that nobody has accepted."""
        return [each for each in self.changes if each.danger and not self.accepted(each, accepted)]

    def to_dict(self, accepted: frozenset[str]) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "table": self.table,
            "topic": self.topic,
            "level": self.level,
            "stops": list(self.stops),
            "widened": list(self.widened),
            "changes": [
                each.to_dict()
                | {
                    "first": self.order(each),
                    "flows": list(self.readers.get(each.column, ())),
                    "accepted": self.accepted(each, accepted),
                }
                for each in self.changes
            ],
        }

    def lines(self, accepted: frozenset[str]) -> Iterator[str]:
        """As a person reads it."""
        yield f"{self.table} ({self.topic}, level {self.level})"
        yield from (f"  STOPS capture: {each}" for each in self.stops)
        for column in dict.fromkeys(each.column for each in self.changes):
            yield from self._column_lines([each for each in self.changes if each.column == column], accepted)

    def _column_lines(self, changes: Sequence[Change], accepted: frozenset[str]) -> Iterator[str]:
        column = changes[0].column
        for change in changes:
            mark = "" if not change.danger else "accepted: " if self.accepted(change, accepted) else "DANGER "
            yield f"  {mark}{change}; allowed up to {change.level}"
            if change.why:
                yield f"      {change.why[:1].upper()}{change.why[1:].rstrip('.')}."
            if change.rewrite:
                yield f"      Instead: {change.rewrite}"
        if column in self.widened:
            yield "      Capture goes on writing it as nullable, so that readers can follow."
        if self.readers.get(column):
            yield f"      Read by: {', '.join(self.readers[column])}."
        orders = dict.fromkeys(self.order(each) for each in changes if not each.danger)
        yield from (f"      Order: {order}." for order in orders if order != "any order")


@dataclass(frozen=True, slots=True)
class FlowVerdict:
    """What happens to one flow.

    Attributes:
        flow: its name.
        target: where its documents go; empty for none.
        breaks: why its SELECT is refused after the migration.
        remedy: what to do about that.
        before: why it is refused already.
        changes: of its documents.
        stops: why the level refuses their new schema.
    """

    flow: str
    target: str
    breaks: str = ""
    remedy: str = ""
    before: str = ""
    changes: tuple[Change, ...] = ()
    stops: tuple[str, ...] = ()

    def accepted(self, change: Change, accepted: frozenset[str]) -> bool:
        """Whether a person has accepted it."""
        return f"{self.flow}.{change.column}" in accepted

    def ok(self, accepted: frozenset[str]) -> bool:
        """Whether it goes on."""
        dangers = [each for each in self.changes if each.danger and not self.accepted(each, accepted)]
        return not self.breaks and not self.stops and not dangers

    def to_dict(self, accepted: frozenset[str]) -> dict[str, Any]:
        """As JSON shows it."""
        shown: dict[str, Any] = {n: getattr(self, n) for n in ("flow", "target", "breaks", "remedy", "before")}
        found = [each.to_dict() | {"accepted": self.accepted(each, accepted)} for each in self.changes]
        return shown | {"ok": self.ok(accepted), "stops": list(self.stops), "changes": found}

    def lines(self, accepted: frozenset[str]) -> Iterator[str]:
        """As a person reads it."""
        yield f"flow {self.flow}{f' (delivers to {self.target})' if self.target else ''}"
        if self.before:
            yield f"  refused already now: {self.before}"
        if self.breaks:
            yield f"  BREAKS: {self.breaks} {self.remedy}".rstrip()
            yield "      Order: change and deploy the flow so that it does without, then migrate."
        yield from (f"  STOPS the worker: {each}" for each in self.stops)
        for change in self.changes:
            mark = "" if not change.danger else "accepted: " if self.accepted(change, accepted) else "DANGER "
            yield f"  {mark}its documents: {change}; allowed up to {change.level}"


@dataclass(frozen=True, slots=True)
class GateReport:
    """The answer.

    Attributes:
        tables: captured tables that change.
        flows: flows that change or break.
        left_out: definitions of the store that the scratch server could not make.
        accepted: dangers a person has accepted.
        unjudged: flows that may read the tables of other sources, too, which this store does not have.
    """

    tables: tuple[TableVerdict, ...]
    flows: tuple[FlowVerdict, ...]
    left_out: tuple[str, ...] = ()
    accepted: frozenset[str] = frozenset()
    unjudged: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the migration may run as it is."""
        tables = any(each.stops or each.dangers(self.accepted) for each in self.tables)
        return not tables and all(each.ok(self.accepted) for each in self.flows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "ok": self.ok,
            "tables": [each.to_dict(self.accepted) for each in self.tables],
            "flows": [each.to_dict(self.accepted) for each in self.flows],
            "left_out": list(self.left_out),
            "unjudged": list(self.unjudged),
        }

    def lines(self) -> Iterator[str]:
        """As a person reads it."""
        for table in self.tables:
            yield from table.lines(self.accepted)
        for flow in self.flows:
            yield from flow.lines(self.accepted)
        yield from (f"not tried (this server cannot make it): {each}" for each in self.left_out)
        for name in self.unjudged:
            yield f"flow {name} is not judged: it may read tables of joined sources; `instep flow check` on both stores"
        if not self.tables and not self.flows:
            yield "No captured table changes."
        yield "May run as it is." if self.ok else "Do not run it as it is."
