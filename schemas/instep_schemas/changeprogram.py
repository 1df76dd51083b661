"""What `decode.compile_change_decoder` writes as source text, as data for the compiled `ChangeReader`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from instep_schemas import standins
from instep_schemas.decodercode import AS_IS, FIXED_SIZES, column_name, told_as_json
from instep_schemas.mapping import Avro
from instep_schemas.standins import kind_of
from instep_schemas.texts import Reader, reader_of
from instep_schemas.varint import counted
from instep_schemas.wire import CIPHER

VARINT, BYTES, FIXED, RECORD, UNION, ARRAY = range(6)
"""How a value is stepped over: `FIXED` its size; `RECORD` how many, and those; `ARRAY` where it ends, and its item;
`UNION` where it ends, how many, where each begins, and those. Places are told from the word itself on."""


class Field(NamedTuple):
    """How one column is read.

    Attributes:
        name: the column's.
        kind: of its compiled reader; empty for a type that has none.
        some: the byte in front of a value; -1 for a NOT NULL column.
        scale: of a decimal.
        placeholder: the bytes of an unchanged TOAST column; None for a type that has none.
        reader: reads all of other kinds.
    """

    name: str
    kind: str
    some: int
    scale: int
    placeholder: bytes | None
    reader: Reader


class Program(NamedTuple):
    """How an envelope is read, up to the operation and the new row.

    Attributes:
        before: steps over what stands in front of both.
        between: steps over what stands between them.
        some: the byte in front of a new row.
        fields: the new row's.
        op_first: the operation stands in front of the row.
    """

    before: Sequence[int]
    between: Sequence[int]
    some: int
    fields: Sequence[Field]
    op_first: bool


def program(envelope: Mapping[str, Any], unavailable: str) -> Program | None:
    """The program of an (expanded) envelope schema; None where a column takes more than a reader.

    Args:
        envelope: has a `before`, an `after`, a `source` and an `op`.
        unavailable: the placeholder of an unchanged TOAST column.

    Raises:
        ValueError: a column's type has no PostgreSQL text.
    """
    types = {field["name"]: field["type"] for field in envelope["fields"]}
    names = list(types)
    first, second = sorted((names.index("after"), names.index("op")))
    union = types["after"]
    record = next(each for each in union if each != "null")
    if any(CIPHER in field or told_as_json(field) for field in record["fields"]):
        return None
    before, between = (_record([types[name] for name in some]) for some in (names[:first], names[first + 1 : second]))
    fields = [_field(field, unavailable) for field in record["fields"]]
    return Program(before, between, union.index(record) << 1, fields, names[first] == "op")


def _field(field: Mapping[str, Any], unavailable: str) -> Field:
    avro, some = field["type"], -1
    if isinstance(avro, list):
        branch = 0 if avro[1] == "null" else 1
        avro, some = avro[branch], branch << 1
    kind = _kind(avro)
    placeholder = None if kind in _NEVER_ABSENT else standins.placeholder(avro, unavailable)
    if kind == "text":
        placeholder = counted(unavailable.encode())
    scale = avro["scale"] if kind == "decimal" else 0
    return Field(column_name(field), kind, some, scale, placeholder, reader_of(avro))


def _kind(avro: Avro) -> str:
    kind, name = kind_of(avro)
    if kind == "string":
        return "text" if name in AS_IS else "zoned" if name == "io.debezium.time.ZonedTimestamp" else ""
    if isinstance(avro, dict) and avro.get("logicalType") == "decimal":
        return "decimal" if 0 < avro.get("scale", 0) <= _MOST_DIGITS else ""
    return {"boolean": "boolean", "int": "number", "long": "number"}.get(kind, "") if not name else ""


_NEVER_ABSENT: Final = frozenset({"number", "boolean", "zoned"})
_MOST_DIGITS: Final = 20
"""Behind the point of a number of 64 bits."""


def _skip(avro: Any) -> list[int]:
    if isinstance(avro, list):
        return _union(avro)
    kind, _ = kind_of(avro)
    if kind in ("int", "long", "enum"):
        return [VARINT]
    if kind in ("string", "bytes"):
        return [BYTES]
    if kind in FIXED_SIZES:
        return [FIXED, FIXED_SIZES[kind]]
    if kind == "record":
        return _record([field["type"] for field in avro["fields"]])
    item = _skip(avro["items"]) if kind == "array" else _record(["string", avro["values"]])
    return [ARRAY, 2 + len(item), *item]


def _record(types: Sequence[Any]) -> list[int]:
    return [RECORD, len(types), *(word for each in types for word in _skip(each))]


def _union(branches: Sequence[Any]) -> list[int]:
    at, places, words = 3 + len(branches), list[int](), list[int]()
    for each in branches:
        places.append(at + len(words))
        words += _skip(each)
    return [UNION, at + len(words), len(branches), *places, *words]
