"""Tryton's JSON: field types, values in and out, when two values are the same. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any, Final

TEXT: Final = frozenset({"char", "text", "fulltext", "selection"})
TYPES: Final = TEXT | {"numeric", "float", "integer", "boolean", "date", "datetime", "timestamp", "time", "many2one"}
"""Field types that a column can fill."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a Tryton model, as `fields_get` describes it.

    Attributes:
        name: the field's name.
        type: Tryton's type name.
        writable: not read-only (a function field without setter is read-only).
        relation: model that a many2one points to.
        strip: Tryton cuts blanks off both ends.
    """

    name: str
    type: str
    writable: bool = True
    relation: str = ""
    strip: bool = False

    @property
    def read_name(self) -> str:
        """What to ask for when reading: a many2one is read by its name."""
        return f"{self.name}.rec_name" if self.type == "many2one" else self.name


Catalogue = Mapping[str, Field]
"""The fields of one model by name."""


class Misfit(ValueError):
    """A column's value does not fit the field's type; says what to do in the SELECT."""


def catalogue(raw: Mapping[str, Mapping[str, Any]]) -> Catalogue:
    """Read the answer of `fields_get`."""
    return {
        name: Field(
            name,
            str(each["type"]),
            not each.get("readonly"),
            str(each.get("relation") or ""),
            each.get("strip", each["type"] == "char") is True,
        )
        for name, each in raw.items()
    }


def encode(field: Field, value: Any, related: Mapping[tuple[str, str], int]) -> Any:
    """A column's value as Tryton's JSON.

    Args:
        field: the field it goes to.
        value: the document's value.
        related: ids of the records that many2one columns name, by (model, name).

    Raises:
        Misfit: the value's type is not the field's.
    """
    if value is None:
        return None
    if field.type in TEXT and isinstance(value, str):
        return value
    if field.type == "many2one" and isinstance(value, str):
        return related[field.relation, value]
    if field.type == "boolean" and isinstance(value, bool):
        return value
    if field.type in ("date", "datetime", "timestamp", "time") and isinstance(value, (date, time)):
        return _encode_time(field, value)
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return _encode_number(field, value)
    raise _misfit(field, value)


def _encode_number(field: Field, value: int | float | Decimal) -> Any:
    exact = Decimal(str(value))
    if not exact.is_finite():
        raise Misfit(f"{value} is no number for Tryton; use nullif or a CASE in the SELECT")
    if field.type == "numeric":
        return {"__class__": "Decimal", "decimal": str(exact)}
    if field.type == "float":
        return float(value)
    if field.type == "integer" and exact == exact.to_integral_value():
        return int(exact)
    raise _misfit(field, value)


def _encode_time(field: Field, value: date | time) -> Any:
    if field.type == "time" and isinstance(value, time):
        return {"__class__": "time", **_parts(value, "hour", "minute", "second", "microsecond")}
    if field.type in ("datetime", "timestamp") and isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        names = ("year", "month", "day", "hour", "minute", "second", "microsecond")
        return {"__class__": "datetime", **_parts(moment, *names)}
    if field.type == "date" and not isinstance(value, datetime):
        return {"__class__": "date", **_parts(value, "year", "month", "day")}
    raise _misfit(field, value)


def _parts(value: Any, *names: str) -> dict[str, int]:
    return {name: getattr(value, name) for name in names}


def _misfit(field: Field, value: Any) -> Misfit:
    wanted = "text: cast it with ::text" if field.type in TEXT | {"many2one"} else field.type
    return Misfit(f"{field.name} of Tryton takes {wanted}; the column gives {type(value).__name__}")


def decode(field: Field, raw: Any) -> Any:
    """Tryton's JSON as a document's value: text, int, float, Decimal, bool, date, time, aware datetime (UTC), None."""
    if not isinstance(raw, Mapping):
        return float(raw) if field.type == "float" and raw is not None else raw
    parts = {name: part for name, part in raw.items() if name != "__class__"}
    match raw["__class__"]:
        case "Decimal":
            return _decimal(parts["decimal"])
        case "date":
            return date(**parts)
        case "time":
            return time(**parts)
        case "datetime":
            return datetime(**parts, tzinfo=UTC)
    return raw


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text)
    except InvalidOperation:
        return None


def same(field: Field, held: Any, wanted: Any) -> bool:
    """Whether Tryton, asked to store `wanted`, would hold what it holds already."""
    if isinstance(wanted, str) and field.strip:
        wanted = wanted.strip()
    if isinstance(held, datetime) and isinstance(wanted, datetime):
        wanted = wanted if wanted.tzinfo else wanted.replace(tzinfo=UTC)
    if isinstance(held, float) and isinstance(wanted, Decimal):
        return held == float(wanted)
    return bool(held == wanted)


def pick(raw: Mapping[str, Any], path: str) -> Any:
    """Follow a dotted path in what `search_read` gives: related records stand under `name.`."""
    first, _, rest = path.partition(".")
    if not rest:
        return raw.get(first)
    related = raw.get(first + ".")
    return pick(related, rest) if related else None
