"""One generated function per document schema: PostgreSQL's JSON of a row to Avro bytes, straight-line.

What it cannot write raises one of `UNWRITTEN`; `DocumentCodec` then goes column by column and names the one at fault.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from instep_schemas.civil import DAY_US, parse_date, parse_time
from instep_schemas.generated import compiled
from instep_schemas.values import twos_complement
from instep_schemas.varint import LENGTH, SOME_LENGTH, counted, long, pack_double

UNWRITTEN: Final = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, StopIteration)
"""What a generated function raises; `StopIteration` is the JSON scanner's."""

_TEXTS: Final = frozenset({"text", "character varying", "character", "uuid"})
_MOMENTS: Final = frozenset({"timestamp with time zone", "timestamp without time zone"})
_QUOTED: Final = _TEXTS | _MOMENTS | {"date", "time without time zone", "bytea"}
"""Types whose JSON is always a string."""
_WHOLE: Final = {"smallint": 1 << 31, "integer": 1 << 31, "bigint": 1 << 63, "oid": 1 << 63}
_RANGES: Final = {"int": 1 << 31, "long": 1 << 63}
_BOOLEANS: Final = {True: b"\x01", False: b"\x00"}
_NULL: Final = b"\x00"

Write = Callable[[Any], bytes]


class DocumentField(NamedTuple):
    """One column as the generated code sees it.

    Attributes:
        column: its name in the JSON.
        type: PostgreSQL's name of its type, without modifiers; empty for one that is no base type.
        avro: its Avro type, without the union.
        optional: null is allowed.
        convert: from JSON's value (numbers as texts) to Avro's.
    """

    column: str
    type: str
    avro: Any
    optional: bool
    convert: Callable[[Any], Any]

    @property
    def scale(self) -> int | None:
        """Of a decimal."""
        decimal = isinstance(self.avro, dict) and self.avro.get("logicalType") == "decimal"
        return self.avro["scale"] if decimal else None

    @property
    def plain(self) -> bool:
        """Its JSON is a string, a boolean, or a number that may be read as one."""
        return self.type in _QUOTED or self.type in _WHOLE or self.avro == "boolean" or self.scale is not None


def compile_document(fields: Sequence[DocumentField], number: type[str], end: bytes = b"") -> Callable[[str], bytes]:
    """Make the function of one schema.

    Args:
        fields: the columns, in the schema's order.
        number: what JSON's numbers are read as where some column must tell them from strings.
        end: what stands behind the columns.
    """
    plain = all(field.plain for field in fields)
    numbers: dict[str, Any] = {"parse_float": str} if plain else {"parse_float": number, "parse_int": number}
    decoder: Any = json.JSONDecoder(**numbers)  # the stubs do not know its scanner
    names: dict[str, Any] = {
        "scan": decoder.scan_once, "join": b"".join, "LENGTH": LENGTH, "SOME": SOME_LENGTH,
        "BOOLEANS": _BOOLEANS, "counted": counted,
    }  # fmt: skip
    lines = ["row, _ = scan(document, 0)"]
    for at, field in enumerate(fields):
        lines.append(f"v = row[{field.column!r}]")
        lines.append(f"w{at} = {_expression(field, f'f{at}', names, plain)}")
    lines.append(f"return join(({''.join(f'w{at}, ' for at in range(len(fields)))}{end!r}))")
    return compiled("document", lines, names)


def compile_key(kinds: Sequence[str]) -> Callable[[Sequence[str]], bytes]:
    """Make the function that writes a key given as PostgreSQL texts.

    Args:
        kinds: `int`, `long` or `string` per column.
    """
    names: dict[str, Any] = {"join": b"".join, "LENGTH": LENGTH, "counted": counted}
    items = []
    for at, kind in enumerate(kinds):
        if kind in _RANGES:
            names[f"f{at}"] = _large(b"", _RANGES[kind])
            items.append(_number(f"int(k{at})", "LENGTH", f"f{at}"))
        else:
            items.append(f"counted(k{at}.encode())")
    keys = "".join(f"k{at}, " for at in range(len(kinds)))
    return compiled("key", [f"{keys}= key", f"return join(({', '.join(items)},))"], names)


def _expression(field: DocumentField, function: str, names: dict[str, Any], plain: bool) -> str:
    """Source text of the bytes of `v`; what it calls is put into `names`."""
    some, lengths = (b"\x02", "SOME") if field.optional else (b"", "LENGTH")
    if field.type in _WHOLE:
        names[function] = _large(some, _WHOLE[field.type])
        told = _number("v" if plain else "int(v)", lengths, function)
    elif field.type in _TEXTS:
        told = f"({lengths}[n] + e if (n := len(e := v.encode())) < {len(LENGTH)} else {some!r} + counted(e))"
    elif field.avro == "boolean":
        told = f"{some!r} + BOOLEANS[v]"
    else:
        names[function] = _function(field, some)
        told = f"{function}(v)"
    return f"{_NULL!r} if v is None else {told}" if field.optional else told


def _number(value: str, lengths: str, function: str) -> str:
    return f"({lengths}[n] if 0 <= (n := {value}) < {len(LENGTH)} else {function}(n))"


def _large(some: bytes, end: int) -> Write:
    def write(number: int) -> bytes:
        if not -end <= number < end:
            raise OverflowError
        return some + long(number)

    return write


def _function(field: DocumentField, some: bytes) -> Write:
    if field.type in _MOMENTS:
        return _moment(some, field.convert)
    if field.scale is not None:
        return _decimal(some, field.scale, field.convert)
    convert, write = field.convert, _writer(field.avro)
    return lambda value: some + write(convert(value))


def _decimal(some: bytes, scale: int, convert: Callable[[Any], bytes]) -> Write:
    """A decimal with just its scale's digits is made of them as they stand."""

    def write(value: Any) -> bytes:
        if scale and type(value) is not int and value[-scale - 1 : -scale] == ".":
            content = twos_complement(int(value[: -scale - 1] + value[-scale:]))
        else:
            content = convert(value)
        return some + counted(content)

    return write


def _moment(some: bytes, convert: Callable[[str], int]) -> Write:
    """A timestamp of a four-digit year, in UTC or without a zone, is made of its two halves."""

    def write(text: str) -> bytes:
        clock = text[11:-6] if text[-6:] == "+00:00" else text[11:]
        if text[10:11] == "T" and clock[8:9] in ("", "."):
            return some + long(_midnight_us(text[:10]) + parse_time(clock.encode()))
        return some + long(convert(text))

    return write


@lru_cache(4096)
def _midnight_us(text: str) -> int:
    return parse_date(text.encode()) * DAY_US


def _writer(avro: Any) -> Write:
    """Writes values of an Avro type as they were converted."""
    kind = avro["type"] if isinstance(avro, dict) else avro
    if kind == "array":
        return _array(_writer(avro["items"][1]))
    return _WRITERS[kind]


def _array(write: Write) -> Write:
    def array(values: Sequence[Any]) -> bytes:
        if not values:
            return _NULL
        items = [_NULL if each is None else b"\x02" + write(each) for each in values]
        return b"".join([long(len(items)), *items, _NULL])

    return array


_WRITERS: Final[dict[str, Write]] = {
    "string": lambda text: counted(text.encode()),
    "bytes": counted,
    **{avro: _large(b"", end) for avro, end in _RANGES.items()},
    "double": pack_double,
    "boolean": _BOOLEANS.__getitem__,
}
