"""A reader of data records as somebody else would write it: from docs/reference/schemas.md alone, with fastavro."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import fastavro

PLACEHOLDER: Final = "__debezium_unavailable_value"
UUID: Final = "b68a35a7-17ad-35b3-af2a-ae46edb4545a"
NOT_SENT: Final = object()
UNKNOWN: Final = object()
_INFINITY_MS: Final = {9223372036825200: "infinity", -9223372036832400: "-infinity"}
_TIME: Final = "io.debezium.time."


class Reader:
    """Reads the rows of one value schema.

    Args:
        schema_text: as registered.
    """

    def __init__(self, schema_text: str) -> None:
        schema = json.loads(schema_text)
        self._row = next(each for each in schema["fields"][0]["type"] if each != "null")
        self._avro = fastavro.parse_schema(_physical(schema))

    def read(self, body: bytes, headers: Sequence[tuple[str, bytes]]) -> dict[str, dict[str, Any] | None]:
        """`before` and `after`: by column a text, None, NOT_SENT or UNKNOWN.

        A float is a float, and an array of one dimension the list of its items.
        """
        record: Any = fastavro.schemaless_reader(io.BytesIO(body), self._avro, None)
        told = json.loads(dict(headers).get("instep.exact", b"{}"))
        return {image: self._image(image, record[image], told.get(image, {})) for image in ("before", "after")}

    def _image(self, image: str, row: Mapping[str, Any] | None, told: Mapping[str, str]) -> dict[str, Any] | None:
        if row is None:
            return None
        found: dict[str, Any] = {}
        for field in self._row["fields"]:
            name, value = field.get("pg.name", field["name"]), row[field["name"]]
            union = field["type"]
            avro = next(each for each in union if each != "null") if isinstance(union, list) else union
            if name in told:
                found[name] = told[name]
            elif _is_placeholder(avro, value):
                found[name] = NOT_SENT
            elif image == "before" and field["name"] not in self._row["pg.identity"]:
                found[name] = UNKNOWN
            else:
                found[name] = None if value is None else _text(avro, value)
        return found


def _physical(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _physical(each) for name, each in node.items() if name != "logicalType"}
    return [_physical(each) for each in node] if isinstance(node, list) else node


def _kind(avro: Any) -> tuple[str, str]:
    return (avro, "") if isinstance(avro, str) else (avro["type"], avro.get("connect.name", ""))


def _is_placeholder(avro: Any, value: Any) -> bool:
    kind, name = _kind(avro)
    if kind != "array":
        return not name.startswith(_TIME) and value in (PLACEHOLDER, PLACEHOLDER.encode())
    kind, name = _kind(next(each for each in avro["items"] if each != "null"))
    if name.endswith(".Uuid"):
        return bool(value == [UUID])
    if kind == "boolean":
        return bool(value == [bool(byte >> bit & 1) for byte in PLACEHOLDER.encode() for bit in range(8)])
    return value in ([PLACEHOLDER], [PLACEHOLDER.encode()], list(PLACEHOLDER.encode()))


def _text(avro: Any, value: Any) -> Any:
    kind, name = _kind(avro)
    if kind == "array":
        item = next(each for each in avro["items"] if each != "null")
        return [None if each is None else _text(item, each) for each in value]
    if name.startswith(_TIME):
        return _time(name.removeprefix(_TIME), value)
    if kind == "boolean":
        return "t" if value else "f"
    if kind in ("int", "long"):
        return str(value)
    if kind == "bytes":
        return _decimal(value, avro["scale"]) if name.endswith(".Decimal") else "\\x" + value.hex()
    return value


def _decimal(content: bytes, scale: int) -> str:
    number = int.from_bytes(content, "big", signed=True)
    digits = str(abs(number)).rjust(scale + 1, "0")
    point = len(digits) - scale
    return ("-" if number < 0 else "") + digits[:point] + ("." if scale else "") + digits[point:]


def _time(name: str, value: Any) -> str:
    if name == "ZonedTimestamp":
        return _zoned(value)
    if name == "Date":
        infinity = {-2147472692: "infinity", -2147472691: "-infinity"}.get(value)
        return infinity or _date(value, "")
    micros = value if name.startswith("Micro") else value * 1000
    if name.endswith("Timestamp"):
        days, clock = divmod(micros, 86_400_000_000)
        infinity = None if micros % 1000 else _INFINITY_MS.get(micros // 1000)
        return infinity or _date(days, f" {_clock(clock)}")
    return _clock(micros)


def _clock(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    text = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return f"{text}.{fraction:06d}".rstrip("0") if fraction else text


def _date(days: int, clock: str) -> str:
    """The proleptic Gregorian calendar, which repeats itself every 146,097 days."""
    cycles, day = divmod(days + 719_468, 146_097)  # since 0000-03-01
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    number = day - (153 * month + 2) // 5 + 1
    year += 400 * cycles + (month >= 10)
    month = month + 3 if month < 10 else month - 9
    return f"{year if year > 0 else 1 - year:04d}-{month:02d}-{number:02d}{clock}{'' if year > 0 else ' BC'}"


def _zoned(iso: str) -> str:
    if iso.endswith("infinity"):
        return iso
    date, clock = iso.removesuffix("Z").split("T")
    year, month, day = date[:-6], date[-5:-3], date[-2:]
    if "." in clock:
        clock = clock.rstrip("0").rstrip(".")
    era = f"{int(year):04d}" if int(year) > 0 else f"{1 - int(year):04d}"
    return f"{era}-{month}-{day} {clock}+00{'' if int(year) > 0 else ' BC'}"
