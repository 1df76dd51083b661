"""PostgreSQL's composite texts: array, hstore, interval and point literals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from instep_schemas.wire import NoRoom

_ARRAY_ITEM = re.compile(r'"((?:[^"\\]|\\.)*)"|([^",{}]+)', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PLAIN_ITEM = re.compile(r"[^ \t\n\r\v\f{}\",\\]+")
_HSTORE_PAIR = re.compile(r'"((?:[^"\\]|\\.)*)"=>(?:"((?:[^"\\]|\\.)*)"|NULL)(?:, |$)', re.DOTALL)
_INTERVAL = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
)
_MONTH_US: Final = 2_629_800_000_000
"""A month of 30.4375 days, as Debezium's MicroDuration counts it."""


def parse_array(text: str) -> list[str | None]:
    """The items of a one-dimensional array literal; None for NULL.

    Raises:
        NoRoom: more than one dimension, or lower bounds other than 1.
        ValueError: not an array literal.
    """
    if text == "{}":
        return []
    if text.startswith("["):
        raise NoRoom("an array with a lower bound other than 1")
    if text.startswith("{{"):
        raise NoRoom("an array of more than one dimension")
    if not (text.startswith("{") and text.endswith("}")):
        raise ValueError("not an array literal")
    if '"' not in text:
        items: list[str | None] = [None if each == "NULL" else each for each in text[1:-1].split(",")]
        return items
    return _quoted_items(text)


def _quoted_items(text: str) -> list[str | None]:
    items: list[str | None] = []
    at, end = 1, len(text) - 1
    while at <= end:
        found = _ARRAY_ITEM.match(text, at, end)
        if found is None:
            raise ValueError("not an array literal")
        if found[1] is not None:
            items.append(_ESCAPED.sub(r"\1", found[1]))
        else:
            items.append(None if found[2] == "NULL" else found[2])
        at = found.end() + 1
    return items


def leaves(text: str) -> list[str]:
    """The items, without NULLs, of an array literal of any number of dimensions and any bounds."""
    found = _ARRAY_ITEM.finditer(text, text.find("=") + 1 if text.startswith("[") else 0)
    return [_ESCAPED.sub(r"\1", each[1]) if each[2] is None else each[2] for each in found if each[2] != "NULL"]


def format_array(items: Sequence[str | None]) -> str:
    """What `parse_array` reads, quoted as PostgreSQL itself does."""
    return "{" + ",".join("NULL" if each is None else _array_item(each) for each in items) + "}"


def _array_item(item: str) -> str:
    if _PLAIN_ITEM.fullmatch(item) and item.upper() != "NULL":
        return item
    return '"' + item.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_hstore(text: str) -> dict[str, str | None]:
    """Keys and values of hstore's output text, in its order.

    Raises:
        ValueError: not hstore's output.
    """
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        found = _HSTORE_PAIR.match(text, at)
        if found is None:
            raise ValueError("not hstore output")
        value = found[2]
        pairs[_ESCAPED.sub(r"\1", found[1])] = None if value is None else _ESCAPED.sub(r"\1", value)
        at = found.end()
    return pairs


def format_hstore(pairs: Mapping[str, str | None]) -> str:
    """What `parse_hstore` reads."""
    return ", ".join(
        f"{_hstore_part(key)}=>{'NULL' if value is None else _hstore_part(value)}" for key, value in pairs.items()
    )


def _hstore_part(part: str) -> str:
    return '"' + part.replace("\\", "\\\\").replace('"', '\\"') + '"'


def parse_interval(text: str) -> tuple[int, int, int]:
    """Months, days and microseconds of an interval in IntervalStyle `postgres`.

    Raises:
        ValueError: not such a text (infinity included).
    """
    found = _INTERVAL.fullmatch(text)
    if found is None or not text:
        raise ValueError("not an interval")
    years, months, days, sign, hours, minutes, seconds, fraction = found.groups()
    micros = (int(hours or 0) * 3600 + int(minutes or 0) * 60 + int(seconds or 0)) * 1_000_000
    micros += int((fraction or "").ljust(6, "0"))
    return int(years or 0) * 12 + int(months or 0), int(days or 0), -micros if sign == "-" else micros


def interval_micros(text: str) -> int:
    """Debezium's MicroDuration: all parts as microseconds, a month being 30.4375 days."""
    months, days, micros = parse_interval(text)
    return months * _MONTH_US + days * 86_400_000_000 + micros


def interval_iso(text: str) -> str:
    """Debezium's Interval: `P1Y2M3DT4H5M6.789S`, every part present."""
    months, days, micros = parse_interval(text)
    sign = -1 if months < 0 else 1
    years, rest = divmod(abs(months), 12)
    clock_sign = "-" if micros < 0 else ""
    seconds, fraction = divmod(abs(micros), 1_000_000)
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    tail = f"{second}.{fraction:06d}".rstrip("0").rstrip(".") if fraction else str(second)
    parts = [f"{clock_sign if each.strip('0.') else ''}{each}" for each in (str(hours), str(minute), tail)]
    return f"P{sign * years}Y{sign * rest}M{days}DT{parts[0]}H{parts[1]}M{parts[2]}S"


def parse_point(text: str) -> tuple[float, float]:
    """X and y of `(1.5,-2)`.

    Raises:
        ValueError: not such a text.
    """
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError("not a point")
    x, y = text[1:-1].split(",")
    return float(x), float(y)
