"""A record's columns read back from its schema, PostgreSQL's names and types where the schema tells them (pure)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from instep_schemas.decode import expand
from instep_schemas.decodercode import column_name
from instep_schemas.shape import sql_type
from instep_schemas.standins import kind_of
from instep_schemas.wire import EXACT

NO_DEFAULT: Final = object()


class Field(NamedTuple):
    """One column as its schema tells it.

    Attributes:
        name: PostgreSQL's.
        avro: its type without null.
        nullable: whether the type is a union with null.
        default: Avro's default; `NO_DEFAULT` for none.
        type: SQL text.
        labels: an enum's.
        tags: `confluent:tags`.
    """

    name: str
    avro: Any
    nullable: bool
    default: Any
    type: str
    labels: tuple[str, ...]
    tags: frozenset[str]


class Row(NamedTuple):
    """A record's columns by their Avro name, and what identifies a row."""

    fields: dict[str, Field]
    key: tuple[str, ...]
    identity: tuple[str, ...] | None


def row_of(value_text: str, key_text: str | None = None) -> Row:
    """Read a schema: an envelope's row, or any record (a flow's documents).

    Raises:
        ValueError: not a record.
    """
    schema = expand(json.loads(value_text))
    if not isinstance(schema, dict) or "fields" not in schema:
        raise ValueError("not a record")
    images = [field["type"] for field in schema["fields"] if field["name"] in ("before", "after")]
    if images and isinstance(images[0], list):
        schema = next(each for each in images[0] if each != "null")
    key = () if key_text is None else tuple(map(column_name, expand(json.loads(key_text))["fields"]))
    identity = schema.get("pg.identity")
    fields = {field["name"]: _field(field) for field in schema["fields"] if EXACT not in field}
    return Row(fields, key, None if identity is None else tuple(identity))


def _field(raw: Mapping[str, Any]) -> Field:
    avro = raw["type"]
    nullable = isinstance(avro, list) and "null" in avro
    if isinstance(avro, list) and len(avro) == 2 and nullable:
        avro = next(each for each in avro if each != "null")
    kind, name = kind_of(avro) if not isinstance(avro, list) else ("union", "")
    allowed = avro.get("connect.parameters", {}).get("allowed", "") if name == "io.debezium.data.Enum" else ""
    labels = raw.get("pg.labels") or _symbols(avro) or (allowed.split(",") if allowed else ())
    tags = [*raw.get("confluent:tags", ()), *(avro.get("confluent:tags", ()) if isinstance(avro, dict) else ())]
    default = raw.get("default", NO_DEFAULT)
    return Field(column_name(raw), avro, nullable, default, _sql(raw, avro, kind), tuple(labels), frozenset(tags))


def _symbols(avro: Any) -> tuple[str, ...]:
    return tuple(avro["symbols"]) if isinstance(avro, dict) and avro.get("type") == "enum" else ()


def _sql(raw: Mapping[str, Any], avro: Any, kind: str) -> str:
    told = raw.get("pg.type")
    if told:
        return str(told)
    try:
        return sql_type(avro)
    except (ValueError, KeyError, TypeError):  # Avro of somebody else's: its own word for the type
        return kind
