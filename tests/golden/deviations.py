"""Which documented exception (`wire.EXCEPTIONS`) a difference to a recording falls under."""

from __future__ import annotations

import json
import re
from typing import Any

DEATHS = (
    "null used for required field",
    "java.sql.Array.getArray()",
    "NullPointerException",
    "Illegal character in: ",
    "Illegal initial character: ",
    "DBZ-4350",
    "internal schema representation is probably out of sync",
    "is not a valid namespace",
    "StringIndexOutOfBoundsException",
)
"""What the connector says when it stops for a fault of its own."""

_CLOCKS = ("MicroTime", "NanoTime", "Time", "ZonedTime", "IsoTime")
_HASH = re.compile(r"[0-9a-f]+")


def excuse(envelope: str, base: str | None, image: str, column: str, values: tuple[Any, Any]) -> str | None:
    """The name of the exception under which a column may differ; None for none.

    Args:
        envelope: text of the value's schema.
        base: PostgreSQL's name of the column's type.
        image: `before` or `after`.
        column: its name in Avro.
        values: ours and theirs.
    """
    mine, theirs = values
    field = _field(envelope, column)
    avro = field["type"]
    if isinstance(avro, list):
        avro = next(each for each in avro if each != "null")
    name = avro.get("connect.name", "") if isinstance(avro, dict) else ""
    if isinstance(avro, dict) and avro.get("connect.parameters", {}).get("masked") and isinstance(mine, str):
        return "mask-not-text" if set(mine) <= {"*"} or _HASH.fullmatch(mine) else None
    if base in ("int2vector", "oidvector"):
        return "vector" if theirs == [] else None
    if (base or "").startswith("reg") and isinstance(mine, type(theirs)) and str(mine).endswith(str(theirs)):
        return "names-with-schema"
    if _times(avro):
        return "array-times" if _less_exact(mine, theirs) else None
    if mine is None and field.get("default") is not None:
        default = field["default"]
        shown = theirs.decode("latin-1") if isinstance(theirs, bytes) else theirs
        return "null-with-default" if shown == default else None
    if base == "name" and theirs in (None, ""):
        return "name-in-stream"
    if base == "numeric" and isinstance(mine, str) and isinstance(theirs, str):
        return "negative-scale" if theirs.rstrip("0") == f"{mine}." else None
    if name:
        return _named(name, mine, theirs) or _untold(image, mine, theirs)
    return _untold(image, mine, theirs)


def _untold(image: str, mine: Any, theirs: Any) -> str | None:
    return "toast-without-placeholder" if theirs is None and mine is not None and image == "after" else None


def _named(name: str, mine: Any, theirs: Any) -> str | None:
    if name == "io.debezium.time.Date" and mine in (-2147472692, -2147472691):
        return "date-infinity"
    if name.startswith("io.debezium.time.Iso"):
        if mine in ("infinity", "-infinity"):
            return "iso-infinity"
        if mine == "24:00:00Z" and theirs == "00:00:00Z":
            return "iso-midnight"
    if ".time." in name or name.startswith("org.apache.kafka.connect.data."):
        return "far-dates" if _far(name, mine) else None
    return None


def reason(letter: dict[str, Any]) -> str:
    """The exception that a dead letter belongs to; its own message when to none."""
    message = letter["message"].lower()
    words = {
        "replica identity": "unknown-key",
        "nan": "numeric-special",
        "infinity": "numeric-special",
        "dimension": "array-dimensions",
        "null in an array": "null-in-enum-array",
        "bit strings": "bit-array",
        "64 bits": "timestamp-range",
        "range": "timestamp-range",
        "not null": "null-in-not-null",
    }
    return next((name for word, name in words.items() if word in message), str(letter["message"]))


def left_out_key(keys: tuple[Any, Any], mine: Any, theirs: Any) -> bool:
    """Whether their key of a copied row has nothing but zeros, for columns that the row leaves out.

    Where the row has no column at all their key is ours, of a schema without nulls.
    """
    key = keys[1]
    if not isinstance(theirs, dict) or not isinstance(mine, dict) or key is None or mine.get("op") != "r":
        return False
    return (not any(key.values()) or keys[0] == key) and not set(key) & set(mine["after"] or ())


def default_key(schema: str | None, mine: Any, theirs: Any) -> bool:
    """Whether their key shows a column's default where ours says that it is null."""
    if schema is None or not isinstance(mine, dict) or not isinstance(theirs, dict) or mine == theirs:
        return False
    defaults = {field["name"]: field.get("default") for field in json.loads(schema)["fields"]}
    return list(mine) == list(theirs) and all(
        mine[name] == theirs[name] or (mine[name] is None and theirs[name] == defaults[name] is not None)
        for name in mine
    )


def adjusted(text: str) -> str:
    """Their schema with its namespaces as schema.name.adjustment.mode=avro has them."""

    def mend(found: re.Match[str]) -> str:
        name = re.sub(r"[^A-Za-z0-9_.]", "_", found[2])
        return f'"{found[1]}":"{"_" * name[:1].isdigit()}{name}"'

    return re.sub(r'"(namespace|connect\.name)":"([^"]*)"', mend, text)


def copied_again(case: dict[str, Any], told: Any) -> bool:
    """Whether this is a row of a copy that snapshot.mode=always makes at each start."""
    again = case["config"].get("snapshot.mode") == "always" and {"resume": True} in case["dml"]
    return again and isinstance(told.value, dict) and told.value.get("op") == "r"


def renamed_away(case: dict[str, Any]) -> bool:
    """Whether a table may have been renamed so that the filters leave it out."""
    filtered = any(name.startswith(("table.", "schema.")) and name.endswith(".list") for name in case["config"])
    return filtered and any(words in str(case["dml"]).upper() for words in (" RENAME TO ", " SET SCHEMA "))


def unlike_the_store(case: dict[str, Any], base: str | None) -> bool:
    """Whether the database has settings of its own that change how such a type is printed."""
    setting = {"interval": "intervalstyle", "float4": "extra_float_digits", "float8": "extra_float_digits"}
    return base in setting and setting[base] in str(case["ddl"]).lower()


def dropped_table(case: dict[str, Any], mine: Any, theirs: Any) -> bool:
    """Whether their record has no key, as that of a table dropped before it was read."""
    if "DROP TABLE" not in str(case["dml"]) or not isinstance(mine.value, dict) or not isinstance(theirs.value, dict):
        return False
    images = ("before", "after")
    return theirs.key is None and all(mine.value[image] == theirs.value[image] for image in images)


def of_a_copy(told: Any) -> bool:
    """Whether this is a row of a copy beside the stream, or one of its windows in the signal table."""
    if isinstance(told.key, dict) and str(told.key.get("id")) in ("*-open", "*-close"):
        return True
    value = told.value
    return isinstance(value, dict) and value.get("op") == "r" and value["source"]["snapshot"] == "incremental"


def keyless_copy(key: Any, mine: Any) -> bool:
    """Whether this is a row of a table without a key, copied beside the stream."""
    return key is None and isinstance(mine, dict) and mine.get("source", {}).get("snapshot") == "incremental"


def _times(avro: Any) -> bool:
    """Whether it is an array of times of the day."""
    items = avro.get("items") if isinstance(avro, dict) else None
    item = items[-1] if isinstance(items, list) else items
    return isinstance(item, dict) and item.get("connect.name", "").rpartition(".")[2] in _CLOCKS


def _less_exact(mine: Any, theirs: Any) -> bool:
    """Whether their times are ours but for the end of the fraction."""
    if mine is None or theirs is None or len(mine) != len(theirs):
        return False
    for left, right in zip(mine, theirs, strict=True):
        if isinstance(left, int) and isinstance(right, int):
            if not 0 <= left - right < (1_000_000 if left > 86_400_000_000 else 1000):
                return False
        elif left != right and not str(left).startswith(str(right).rstrip("Z")):
            return False
    return True


def _far(name: str, value: Any) -> bool:
    """Before year 1 or after 9999."""
    if isinstance(value, str):
        return value.startswith(("-", "+", "0000")) or "BC" in value
    if not isinstance(value, int):
        return False
    units = {"Date": 86400, "Timestamp": 1e-3, "MicroTimestamp": 1e-6, "NanoTimestamp": 1e-9}
    return not -62135596800 <= value * units.get(name.rpartition(".")[2], 1) < 253402300800


def _field(value_text: str, column: str) -> dict[str, Any]:
    envelope = json.loads(value_text)
    row = envelope["fields"][0]["type"][1]
    return next(each for each in row["fields"] if each["name"] == column)
