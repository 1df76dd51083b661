"""A table's shape read back from its schemas: what the replica needs to create it again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from instep_schemas.decode import expand, value_record
from instep_schemas.decodercode import column_name
from instep_schemas.mapping import Avro
from instep_schemas.standins import kind_of


class ColumnShape(NamedTuple):
    """One column.

    Attributes:
        name: PostgreSQL's, unquoted.
        type: SQL text; a type outside pg_catalog is schema-qualified.
        not_null: declared NOT NULL (or a key column).
        labels: an enum's labels in order, also of an array of it; empty where the schema does not tell.
        base: a domain's base type (an array's domain's), None for other types.
        default: a constant default as PostgreSQL text, None for none, a computed or an unknown one.
    """

    name: str
    type: str
    not_null: bool
    labels: tuple[str, ...] = ()
    base: str | None = None
    default: str | None = None


@dataclass(frozen=True, slots=True)
class TableShape:
    """One version of a captured table.

    Attributes:
        schema: namespace in the store.
        table: its name.
        columns: in the row's order.
        key: names of the Kafka key's columns, in key order; empty for a keyless table.
        identity: columns that `before` really carries; None when the schema does not tell (Debezium's).
    """

    schema: str
    table: str
    columns: tuple[ColumnShape, ...]
    key: tuple[str, ...]
    identity: tuple[str, ...] | None = None


_BY_NAME: Final = {
    "io.debezium.data.Json": "jsonb",
    "io.debezium.data.Xml": "xml",
    "io.debezium.data.Uuid": "uuid",
    "io.debezium.data.Enum": "text",
    "io.debezium.data.Ltree": "text",
    "io.debezium.data.Tsvector": "tsvector",
    "io.debezium.data.VariableScaleDecimal": "numeric",
    "io.debezium.data.geometry.Point": "point",
    "io.debezium.time.Date": "date",
    "io.debezium.time.Time": "time(3) without time zone",
    "io.debezium.time.MicroTime": "time without time zone",
    "io.debezium.time.NanoTime": "time without time zone",
    "io.debezium.time.Timestamp": "timestamp(3) without time zone",
    "io.debezium.time.MicroTimestamp": "timestamp without time zone",
    "io.debezium.time.NanoTimestamp": "timestamp without time zone",
    "io.debezium.time.ZonedTimestamp": "timestamp with time zone",
    "io.debezium.time.ZonedTime": "time with time zone",
    "io.debezium.time.IsoDate": "date",
    "io.debezium.time.IsoTime": "time without time zone",
    "io.debezium.time.IsoTimestamp": "timestamp without time zone",
    "io.debezium.time.MicroDuration": "interval",
    "io.debezium.time.Interval": "interval",
    "org.apache.kafka.connect.data.Date": "date",
    "org.apache.kafka.connect.data.Time": "time(3) without time zone",
    "org.apache.kafka.connect.data.Timestamp": "timestamp(3) without time zone",
}
_BY_KIND: Final = {
    "int": "integer",
    "long": "bigint",
    "float": "real",
    "double": "double precision",
    "boolean": "boolean",
    "string": "text",
    "bytes": "bytea",
    "map": "text",
}


def shape_of(key_schema_text: str | None, value_schema_text: str) -> TableShape:
    """Read a table's shape from its registered schemas, Instep's (`pg.type`) or Debezium's (the nearest type).

    Raises:
        ValueError: not an envelope, or a column of a type that PostgreSQL has no counterpart for.
    """
    record = value_record(expand(json.loads(value_schema_text)))
    names = record["namespace"].split(".")
    key = () if key_schema_text is None else expand(json.loads(key_schema_text))["fields"]
    identity = record.get("pg.identity")
    column_of = {field["name"]: column_name(field) for field in record["fields"]}
    return TableShape(
        schema=record.get("pg.schema", names[-2] if len(names) > 1 else "public"),
        table=record.get("pg.table", names[-1]),
        columns=tuple(_column(field) for field in record["fields"]),
        key=tuple(column_name(field) for field in key),
        identity=None if identity is None else tuple(column_of[name] for name in identity),
    )


def _column(field: dict[str, Any]) -> ColumnShape:
    avro = field["type"]
    nullable = isinstance(avro, list)
    if nullable:
        avro = next(each for each in avro if each != "null")
    return ColumnShape(
        column_name(field),
        field.get("pg.type") or sql_type(avro),
        not nullable,
        tuple(field.get("pg.labels", ())),
        field.get("pg.base"),
        field.get("pg.default"),
    )


def sql_type(avro: Avro) -> str:
    """The PostgreSQL type nearest to an Avro type.

    Raises:
        ValueError: none is.
    """
    kind, name = kind_of(avro)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if isinstance(avro, dict):
        if avro.get("connect.type") == "int16":
            return "smallint"
        if avro.get("logicalType") == "decimal":
            return f"numeric({avro['precision']},{avro.get('scale', 0)})"
        if name == "io.debezium.data.Bits":
            length = avro["connect.parameters"]["length"]
            return "bit varying" if length == "2147483647" else f"bit({length})"
        if kind == "array":
            items = avro["items"]
            return sql_type(next(each for each in items if each != "null") if isinstance(items, list) else items) + "[]"
    if kind not in _BY_KIND:
        raise ValueError(f"no PostgreSQL type for the Avro type {name or kind}")
    return _BY_KIND[kind]
