"""When two documents hold the same, and where they do not. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, Final

from instep.protocols import Fields, Key


class _Missing(Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "missing"

    def __str__(self) -> str:
        return "missing"


MISSING: Final = _Missing.MISSING
"""A side that has no such row or field; null is something else."""

PRESENT: Final = "present"
"""Stands for a whole row where another side has none."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One field of one document in which two sides do not agree.

    Attributes:
        flow: the flow's name.
        key: the document's key.
        field: the column, or None for the whole row.
        store: the SELECT's value at the position.
        topic: the flow topic's value.
        crm: the CRM's value; None as well when no CRM was read.
        target: the CRM that was read; empty: the difference is between store and topic.
        reason: why, when it is known (`rejected: http 400: …`).
    """

    flow: str
    key: Key
    field: str | None
    store: Any
    topic: Any
    crm: Any = None
    target: str = ""
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it; missing values as the text `missing`."""
        shown = {name: str(value) if value is MISSING else value for name, value in asdict(self).items()}
        return {**shown, "key": list(self.key)}


def same_value(one: Any, other: Any) -> bool:
    """Whether two values are equal, with NaN equal to itself and true not equal to 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same_value(value, other[name]) for name, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same_value, one, other))
    if isinstance(one, bool) is not isinstance(other, bool):
        return False
    if _is_nan(one) or _is_nan(other):
        return _is_nan(one) and _is_nan(other)
    return bool(one == other)


def _is_nan(value: Any) -> bool:
    return value.is_nan() if isinstance(value, Decimal) else isinstance(value, float) and math.isnan(value)


def same_fields(one: Fields | None, other: Fields | None) -> bool:
    """Whether two documents (None: no row) hold the same."""
    if one is None or other is None:
        return one is other
    return same_value(one, other)


def topic_differences(flow: str, key: Key, store: Fields | None, topic: Fields | None) -> Iterator[Difference]:
    """Where the SELECT and the topic do not agree."""
    if store is None or topic is None:
        if store is not topic:
            yield Difference(flow, key, None, _row(store), _row(topic))
        return
    for name in dict.fromkeys([*store, *topic]):
        one, other = store.get(name, MISSING), topic.get(name, MISSING)
        if not same_value(one, other):
            yield Difference(flow, key, name, one, other)


def crm_differences(
    target: str, flow: str, key: Key, columns: Sequence[str], topic: Fields | None, crm: Fields | None,
    store: Fields | None,
) -> Iterator[Difference]:  # fmt: skip
    """Where the CRM does not hold the document it was given.

    Args:
        target: the CRM's name.
        flow: the flow's name.
        key: the document's key.
        columns: the delivered columns.
        topic: the version that the ledger says was applied; None: the tombstone.
        crm: what the CRM holds; None: no (active) record.
        store: the SELECT's row at the position, to be shown beside.
    """
    if topic is None or crm is None:
        if topic is not crm:
            yield Difference(flow, key, None, _row(store), _row(topic), _row(crm), target)
        return
    for name in columns:
        one, other = topic.get(name, MISSING), crm.get(name, MISSING)
        if not same_value(one, other):
            yield Difference(flow, key, name, (store or {}).get(name, MISSING), one, other, target)


def _row(fields: Fields | None) -> Any:
    return MISSING if fields is None else PRESENT
