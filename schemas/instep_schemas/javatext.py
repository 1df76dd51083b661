"""Texts as Java writes them, where Debezium's bytes depend on it (pure)."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Final

from instep_schemas.civil import civil_from_days

_DAY_MS: Final = 86_400_000
_NUMBER: Final = re.compile(rb"[-+0-9.eE]+|Infinity|-Infinity|NaN")


def number(value: float, *, single: bool = False) -> str:
    """`Double.toString`, or `Float.toString`: `1.0`, `1.0E20`, `1.5E-5`, `NaN`, `-Infinity`."""
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "Infinity" if value > 0 else "-Infinity"
    sign, digits, exponent = Decimal(repr(shortest(value) if single else value)).as_tuple()
    text = "".join(map(str, digits)).rstrip("0") or "0"
    point = len(digits) + int(exponent)  # the decimal point stands behind so many digits
    minus = "-" if sign else ""
    if text == "0":
        return f"{minus}0.0"
    if -3 < point <= 7:
        if point <= 0:
            return f"{minus}0.{'0' * -point}{text}"
        return f"{minus}{text[:point].ljust(point, '0')}.{text[point:] or '0'}"
    return f"{minus}{text[0]}.{text[1:] or '0'}E{point - 1}"


def moment(ms: int) -> str:
    """A `java.util.Date` as Kafka Connect's `Values` shows it, by its milliseconds since 1970 (UTC).

    What lies before the second day is a time, what is a midnight a date.
    """
    days, rest = divmod(ms, _DAY_MS)
    clock = f"{rest // 3_600_000:02}:{rest // 60_000 % 60:02}:{rest // 1000 % 60:02}.{rest % 1000:03}Z"
    if ms < _DAY_MS:
        return clock
    year, month, day = civil_from_days(days)
    date = f"{year:04}-{month:02}-{day:02}"
    return f"{date}T{clock}" if rest else date


def shortest(value: float) -> float:
    """The number of fewest digits that is this one in 32 bits: 1.1 for 1.100000023841858."""
    numbers = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next(number for number in numbers if ctypes.c_float(number).value == value)


def json_text(value: Any) -> str:
    """JSON without blanks, its numbers as Java writes them: `{"a":1.0E10}`."""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return f"{{{','.join(f'{json_text(name)}:{json_text(each)}' for name, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(json_text, value))}]"
    return json.dumps(value, ensure_ascii=False)


def geometric(text: bytes) -> bytes:
    """A box, line, path, … as PostgreSQL's JDBC driver prints it: every number as a Java double."""
    return _NUMBER.sub(lambda found: number(float(found[0])).encode(), text)


def hash_order(keys: Iterable[str], capacity: int = 16) -> list[str]:
    """The order in which a Java HashMap gives these keys, which were put in this order.

    Args:
        keys: each once.
        capacity: the constructor's initial capacity.
    """
    given = list(keys)
    size = 1
    while size < capacity:
        size *= 2
    while len(given) > size * 0.75:
        size *= 2
    return sorted(given, key=lambda key: _hash(key) & (size - 1))


def _hash(text: str) -> int:
    units = text.encode("utf-16-be", "surrogatepass")
    code = 0
    for at in range(0, len(units), 2):
        code = (code * 31 + int.from_bytes(units[at : at + 2], "big")) & 0xFFFFFFFF
    return code ^ code >> 16
