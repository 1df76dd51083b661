"""What a change of a schema does to each column, beyond what Avro's levels see (pure).

Avro looks at types only. A rename is a column removed and another added, which every level allows and which loses the
data; decimals of another scale, timestamps of another unit, enum labels in another order are "the same type". And
PostgreSQL rewrites a table without sending its rows, so that what was captured before keeps its old values. Here each
of these has a name, a reason and a way to do it safely.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from instep_schemas.columns import NO_DEFAULT, Field, Row, row_of
from instep_schemas.compatibility import Level, check
from instep_schemas.standins import kind_of


class Kind(StrEnum):
    """What happened to a column; the dangerous ones (`DANGERS`) are those that a level may not see."""

    ADDED = "added"
    REMOVED = "removed"
    TYPE = "type"
    PRECISION = "precision"
    NOT_NULL = "not null"
    NULLABLE = "nullable"
    DEFAULT = "default"
    LABEL_ADDED = "label added"
    MOVED = "order of columns"
    RENAMED = "renamed"
    RENAME_SUSPECTED = "renamed?"
    SCALE = "scale"
    LOGICAL = "meaning of the type"
    REWRITTEN = "rows rewritten"
    LABEL_REMOVED = "label removed"
    LABEL_ORDER = "order of labels"
    KEY = "key"
    IDENTITY = "replica identity"
    TAG = "tag lost"
    TABLE_DROPPED = "table dropped"
    TABLE_RENAMED = "table renamed"
    TABLE_REPLACED = "table replaced"


DANGERS: Final = frozenset(
    (Kind.RENAMED, Kind.RENAME_SUSPECTED, Kind.SCALE, Kind.LOGICAL, Kind.REWRITTEN, Kind.LABEL_REMOVED,
     Kind.LABEL_ORDER, Kind.KEY, Kind.IDENTITY, Kind.TAG, Kind.TABLE_DROPPED, Kind.TABLE_RENAMED, Kind.TABLE_REPLACED)
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that a change of schema does to one column.

    Attributes:
        column: PostgreSQL's name; empty for the table as a whole.
        kind: what it is.
        old: type, name, labels … before; empty for nothing.
        new: after.
        level: the strongest level that allows the column: FULL, BACKWARD, FORWARD or NONE.
        why: what goes wrong, or what to know.
        rewrite: how to do it safely; empty where it is safe.
    """

    column: str
    kind: Kind
    old: str
    new: str
    level: Level = Level.FULL
    why: str = ""
    rewrite: str = ""

    @property
    def danger(self) -> bool:
        """Whether it can do harm that no compatibility level refuses."""
        return self.kind in DANGERS

    @property
    def first(self) -> str:
        """Who must be deployed first."""
        return _FIRST[self.level]

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        shown = {name: getattr(self, name) for name in ("column", "kind", "old", "new", "level", "why", "rewrite")}
        return shown | {"danger": self.danger, "first": self.first}

    def __str__(self) -> str:
        parts = [self.old, self.new] if self.old and self.new else [self.old or self.new]
        return (
            f"{self.column or 'table'}: {self.kind} ({' → '.join(parts)})"
            if any(parts)
            else f"{self.column}: {self.kind}"
        )


_FIRST: Final = {
    Level.FULL: "any order",
    Level.BACKWARD: "consumers first: on the old schema they cannot read what is written after the migration",
    Level.FORWARD: "the store first: on the new schema consumers cannot read what was written before the migration",
    Level.NONE: "no order works: readers of neither side can follow",
}

_NO_ROWS: Final = "PostgreSQL does not send the rows that it rewrites"
_EXPAND: Final = (
    "Add a new column beside it, let the application write both, copy old rows with UPDATE (which is captured), move "
    "the flows over, then drop the old column."
)


def changes(
    old_text: str,
    new_text: str,
    *,
    old_key: str | None = None,
    new_key: str | None = None,
    renamed: Mapping[str, str] | None = None,
) -> list[Change]:
    """Say column by column what turns one schema into another.

    Args:
        old_text: value schema before.
        new_text: value schema after.
        old_key: key schema before.
        new_key: key schema after.
        renamed: old column name → new one, where it is known (the catalog knows); None: renames are guessed from a
            column that went and one of the same type that came.

    Raises:
        ValueError: one of them is no record.
    """
    old, new = row_of(old_text, old_key), row_of(new_text, new_key)
    levels = column_levels(old_text, new_text)
    gone = [field for name, field in old.fields.items() if name not in new.fields]
    come = [field for name, field in new.fields.items() if name not in old.fields]
    pairs = _renames(gone, come, renamed)
    found = [_renamed(a, b, renamed is not None) for a, b in pairs]
    found += [_removed(field) for field in gone if all(field is not a for a, _ in pairs)]
    found += [_added(field) for field in come if all(field is not b for _, b in pairs)]
    both = [(field, new.fields[name]) for name, field in old.fields.items() if name in new.fields]
    for a, b in [*both, *pairs]:
        found += _compared(a, b)
    found += _whole(old, new)
    by_column = {field.name: name for row in (old, new) for name, field in row.fields.items()}
    return [_placed(each, _level(each, by_column, levels)) for each in found]


def _placed(change: Change, level: Level) -> Change:
    """With its level; a type that consumers can be prepared for needs no detour."""
    easy = change.kind is Kind.TYPE and level.backward
    return replace(change, level=level, rewrite="" if easy else change.rewrite)


def _level(change: Change, by_column: Mapping[str, str], levels: Mapping[str, Level]) -> Level:
    if change.kind in (Kind.RENAMED, Kind.RENAME_SUSPECTED):
        two = [levels.get(by_column.get(name, name), Level.FULL) for name in (change.old, change.new)]
        return weakest(two)
    return levels.get(by_column.get(change.column, change.column), Level.FULL)


def weakest(levels: Iterable[Level]) -> Level:
    """The strongest level that allows all of them."""
    all_of_them = list(levels)
    backward = all(level.backward for level in all_of_them)
    forward = all(level.forward for level in all_of_them)
    return {(True, True): Level.FULL, (True, False): Level.BACKWARD, (False, True): Level.FORWARD}.get(
        (backward, forward), Level.NONE
    )


def column_levels(old_text: str, new_text: str) -> dict[str, Level]:
    """The strongest level per Avro field; fields that are compatible at FULL are left out; `""`: the whole schema."""
    broken: dict[str, set[Level]] = {}
    for level in (Level.BACKWARD, Level.FORWARD):
        for fault in check(level, new_text, [(0, old_text)]):
            column = [*fault.column.split(".", 2), ""][1]
            broken.setdefault(column, set()).add(level)
    return {column: _left(faults) for column, faults in broken.items()}


def _left(faults: set[Level]) -> Level:
    if len(faults) == 2:
        return Level.NONE
    return Level.FORWARD if Level.BACKWARD in faults else Level.BACKWARD


def _renames(gone: list[Field], come: list[Field], known: Mapping[str, str] | None) -> list[tuple[Field, Field]]:
    if known is not None:
        by_name = {field.name: field for field in come}
        return [(field, by_name[known[field.name]]) for field in gone if known.get(field.name) in by_name]
    pairs: list[tuple[Field, Field]] = []
    for field in gone:
        same = [each for each in come if each.avro == field.avro and all(each is not b for _, b in pairs)]
        if len(same) == 1:
            pairs.append((field, same[0]))
    return pairs


def _renamed(old: Field, new: Field, known: bool) -> Change:
    why = (
        "every level allows it, and readers find nothing under the old name; rows captured before have nothing under "
        "the new one"
    )
    kind = Kind.RENAMED if known else Kind.RENAME_SUSPECTED
    return Change(old.name, kind, old.name, new.name, why=why, rewrite=_EXPAND)


def _removed(field: Field) -> Change:
    return Change(
        field.name, Kind.REMOVED, field.type, "", why="readers get the default, or nothing, in its place",
        rewrite="Take it out of the flows and consumers first, then drop it.",
    )  # fmt: skip


def _added(field: Field) -> Change:
    if field.nullable or field.default is not NO_DEFAULT:
        return Change(field.name, Kind.ADDED, "", field.type)
    return Change(
        field.name, Kind.ADDED, "", field.type, why="without null or a default, new readers cannot read old data",
        rewrite="Add it as nullable or with a constant DEFAULT.",
    )  # fmt: skip


def _compared(old: Field, new: Field) -> Iterator[Change]:
    if old.type != new.type or old.avro != new.avro:
        yield from _retyped(old, new)
    yield from _relabelled(old, new)
    if old.nullable and not new.nullable:
        yield Change(new.name, Kind.NOT_NULL, "NULL", "NOT NULL", rewrite="Keep it nullable on the wire.")
    if new.nullable and not old.nullable:
        why = "readers that never met a null will"
        yield Change(new.name, Kind.NULLABLE, "NOT NULL", "NULL", why=why)
    if old.default != new.default and not (old.nullable != new.nullable and None in (old.default, new.default)):
        why = "only rows to come have it"
        yield Change(new.name, Kind.DEFAULT, _shown(old.default), _shown(new.default), why=why)
    lost = old.tags - new.tags
    if lost:
        yield Change(
            new.name, Kind.TAG, ", ".join(sorted(lost)), "", why="what the tag protects (encryption, masking) stops",
            rewrite="Keep the tag; take it off only after the rule that needs it.",
        )  # fmt: skip


def _shown(default: Any) -> str:
    return "none" if default is NO_DEFAULT else json.dumps(default, ensure_ascii=False)


def _retyped(old: Field, new: Field) -> Iterator[Change]:
    a, b = kind_of(old.avro) if not isinstance(old.avro, list) else ("union", ""), _kind(new)
    scales = _decimal(old.avro), _decimal(new.avro)
    if scales[0] is not None and scales[1] is not None:
        yield from _renumbered(old, new, scales[0], scales[1])
    elif a[0] == b[0] and _meaning(old.avro) != _meaning(new.avro):
        why = f"both are Avro {a[0]}: a reader of the old schema takes the new values for {_meaning(old.avro)}"
        yield Change(new.name, Kind.LOGICAL, old.type, new.type, why=why, rewrite=_EXPAND)
    elif old.type != new.type or a != b:
        yield Change(new.name, Kind.TYPE, old.type, new.type, rewrite="" if _base(old) == _base(new) else _EXPAND)
    if not _same_text(_base(old), _base(new)):
        why = f"{_NO_ROWS}: the replica converts its old rows by their text, which may give other values"
        yield Change(new.name, Kind.REWRITTEN, old.type, new.type, why=why, rewrite=_EXPAND)


def _kind(field: Field) -> tuple[str, str]:
    return ("union", "") if isinstance(field.avro, list) else kind_of(field.avro)


def _renumbered(old: Field, new: Field, before: tuple[int, int], after: tuple[int, int]) -> Iterator[Change]:
    if before[1] != after[1]:
        factor = 10 ** abs(after[1] - before[1])
        why = (
            f"Avro does not compare scales: a reader that keeps its own reads values off by {factor:,}, in both "
            "directions"
        )
        yield Change(new.name, Kind.SCALE, old.type, new.type, why=why, rewrite=_EXPAND)
    elif before != after:
        narrow = "values that do not fit the smaller precision fail in the store" if after < before else ""
        yield Change(new.name, Kind.PRECISION, old.type, new.type, why=narrow)


def _decimal(avro: Any) -> tuple[int, int] | None:
    if isinstance(avro, dict) and avro.get("logicalType") == "decimal":
        return int(avro["precision"]), int(avro.get("scale", 0))
    return None


def _meaning(avro: Any) -> str:
    """Connect's or Avro's name of what a primitive stands for."""
    if not isinstance(avro, dict):
        return "plain"
    name = str(avro.get("connect.name") or avro.get("logicalType") or "plain")
    return "plain" if name in _ONLY_TEXT else name.rsplit(".", 1)[-1]


_ONLY_TEXT: Final = frozenset(
    ("io.debezium.data.Enum", "io.debezium.data.Json", "io.debezium.data.Uuid", "uuid", "io.debezium.data.Ltree")
)
"""Names of strings that say what the text is, not how to compute with it."""

_BASES: Final = {"character varying": "text", "character": "char", "timestamp": "timestamp without time zone"}


def _base(field: Field) -> str:
    """The SQL type without its modifiers."""
    text = field.type
    while "(" in text:
        begin = text.index("(")
        text = text[:begin] + text[text.index(")", begin) + 1 :]
    return _BASES.get(text, text)


_WIDER: Final = (("smallint", "integer", "bigint", "numeric"), ("date", "timestamp without time zone"))


def _same_text(old: str, new: str) -> bool:
    """Whether the text of an old value, cast to the new type, is what PostgreSQL's own cast gives."""
    if old == new or new == "text":
        return True
    return any(old in chain and new in chain for chain in _WIDER[:1]) or (old == "text" and new == "uuid")


def _relabelled(old: Field, new: Field) -> Iterator[Change]:
    if not old.labels or not new.labels or old.labels == new.labels:
        return
    gone = [label for label in old.labels if label not in new.labels]
    come = [label for label in new.labels if label not in old.labels]
    if gone:
        why = "rows captured before still have it; readers that know the new labels only cannot take them"
        yield Change(new.name, Kind.LABEL_REMOVED, ", ".join(gone), "", why=why, rewrite="Keep the label, unused.")
    if come:
        why = "it is a text on the wire, so every level allows it; consumers with a list of their own need it first"
        yield Change(new.name, Kind.LABEL_ADDED, "", ", ".join(come), why=why)
    if [label for label in old.labels if label in new.labels] != [label for label in new.labels if label in old.labels]:
        why = "comparisons, ORDER BY, min and max give other results without any row having changed"
        rewrite = "Make a new type under another name and a new column of it."
        yield Change(new.name, Kind.LABEL_ORDER, ", ".join(old.labels), ", ".join(new.labels), why=why, rewrite=rewrite)


def _whole(old: Row, new: Row) -> Iterator[Change]:
    common = [name for name in old.fields if name in new.fields]
    if common != [name for name in new.fields if name in old.fields]:
        yield Change("", Kind.MOVED, "", "", why="readers go by name")
    if old.key != new.key:
        why = (
            "a row's changes go to another partition than before and are compacted apart; the old keys stay in the "
            "topic for ever"
        )
        rewrite = "Create a table with the new key under another name, and move the flows over to it."
        yield Change("", Kind.KEY, ", ".join(old.key) or "none", ", ".join(new.key) or "none", why=why, rewrite=rewrite)
    told, tells = set(old.identity or ()) & set(common), set(new.identity or ()) & set(common)
    if old.identity is not None and new.identity is not None and told > tells:
        why = "updates and deletes no longer tell the old values of the columns that left"
        shown = ", ".join(sorted(told)), ", ".join(sorted(tells)) or "nothing"
        yield Change("", Kind.IDENTITY, *shown, why=why, rewrite="Keep the replica identity.")
