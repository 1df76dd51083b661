"""Which Avro type a PostgreSQL column gets, and by which codec its text is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from instep.relation import Column, Type, TypeKind
from instep_schemas.wire import WireOptions

Avro = str | dict[str, Any]

_STRING: Final = frozenset(
    "text varchar bpchar char name citext inet cidr macaddr macaddr8 "
    "int4range int8range numrange tsrange tstzrange daterange".split()
)
_NAMED_STRING: Final = {
    "json": "io.debezium.data.Json",
    "jsonb": "io.debezium.data.Json",
    "xml": "io.debezium.data.Xml",
    "uuid": "io.debezium.data.Uuid",
    "ltree": "io.debezium.data.Ltree",
    "tsvector": "io.debezium.data.Tsvector",
}
_EXTENSION_TYPES: Final = frozenset({"citext", "hstore", "ltree"})
_NOT_IN_ARRAYS: Final = frozenset({"money", "name", "interval", "varbit", "xml", "point"})
_NULLS_IN_ARRAYS_MISSING: Final = frozenset({"tsvector"})
_TEXT_AS_BYTES: Final = {"bytes": "text", "base64": "text_base64", "base64-url-safe": "text_base64-url-safe",
                         "hex": "text_hex"}  # fmt: skip
_GEOMETRIC: Final = frozenset("box line lseg path polygon circle".split())
_EXACT: Final = frozenset(
    "int2 int4 int8 oid float4 float8 bool text varchar bpchar char name citext inet cidr macaddr macaddr8 int4range "
    "int8range numrange tsrange tstzrange daterange bytea date time timestamp timestamptz uuid json jsonb xml".split()
)
"""Types whose Debezium mapping loses nothing: the native profile uses it too (besides enums and numeric(p,s))."""

VARIABLE_SCALE: Final[dict[str, Any]] = {
    "type": "record",
    "name": "VariableScaleDecimal",
    "namespace": "io.debezium.data",
    "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    "connect.doc": "Variable scaled decimal",
    "connect.version": 1,
    "connect.name": "io.debezium.data.VariableScaleDecimal",
}
POINT: Final[dict[str, Any]] = {
    "type": "record",
    "name": "Point",
    "namespace": "io.debezium.data.geometry",
    "fields": [
        {"name": "x", "type": "double"},
        {"name": "y", "type": "double"},
        {"name": "wkb", "type": ["null", "bytes"], "default": None},
        {"name": "srid", "type": ["null", "int"], "default": None},
    ],
    "connect.doc": "Geometry (POINT)",
    "connect.version": 1,
    "connect.name": "io.debezium.data.geometry.Point",
}


@dataclass(frozen=True, slots=True)
class Mapped:
    """A column's (or array item's) way onto the wire.

    Attributes:
        avro: its Avro type without the union with null.
        codec: name in `instep_schemas.values.CODECS`.
        scale: decimals: digits after the point; timestamptz: digits of the fraction; bit: the length.
        item: an array's items.
        labels: an enum's, where they are checked (native profile).
        base: PostgreSQL's name of the base type, domains unwrapped.
    """

    avro: Avro
    codec: str
    scale: int = 0
    item: Mapped | None = None
    labels: tuple[str, ...] = ()
    base: str = field(default="", compare=False)


def map_column(column: Column, options: WireOptions) -> Mapped | None:
    """The column's Avro type and codec; None for types that Debezium leaves out (debezium profile only).

    The native profile knows no handling modes: each of them but the default loses something.
    """
    if options.profile == "native":
        exact = _exact(column.type, column.modifier)
        mapped = _map(column.type, column.modifier, WireOptions(options.source, options.database)) if exact else None
        return mapped or Mapped("string", "text", base=column.type.name)
    return _map(column.type, column.modifier, options)


def base_type(kind: Type, modifier: int) -> tuple[Type, int]:
    """Unwrap domains: the base type and the modifier that holds for it."""
    while kind.kind is TypeKind.DOMAIN and kind.element is not None:
        modifier = kind.modifier if modifier == -1 else modifier
        kind = kind.element
    return kind, modifier


def labels_of(kind: Type) -> tuple[str, ...]:
    """An enum's labels in order, also of an array of it, and of a domain over either."""
    kind, _ = base_type(kind, -1)
    element = kind.element if kind.kind is TypeKind.ARRAY and kind.element else kind
    return base_type(element, -1)[0].labels


def domain_base(kind: Type) -> str | None:
    """SQL text of the type that a domain (or an array's domain) stands on."""
    domain = kind.element if kind.kind is TypeKind.ARRAY and kind.element else kind
    if domain.kind is not TypeKind.DOMAIN:
        return None
    base, modifier = base_type(domain, -1)
    element = base.element if base.kind is TypeKind.ARRAY and base.element else base
    brackets = "[]" if element is not base else ""
    if element.schema != "pg_catalog":
        schema = element.schema if element.schema == "public" else _quoted(element.schema)
        return f"{schema}.{_quoted(element.name)}{brackets}"
    return f'"{element.name}"{_sql_modifier(element.name, modifier)}{brackets}'


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _sql_modifier(name: str, modifier: int) -> str:
    if modifier == -1:
        return ""
    if name == "numeric":
        precision, scale = numeric_modifier(modifier)
        return f"({precision},{scale})"
    if name in ("varchar", "bpchar"):
        return f"({modifier - 4})"
    return f"({modifier})" if name in ("bit", "varbit", "time", "timetz", "timestamp", "timestamptz") else ""


def numeric_modifier(modifier: int) -> tuple[int, int]:
    """Precision and scale (may be negative) of a numeric's type modifier."""
    packed = modifier - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024


def _exact(kind: Type, modifier: int) -> bool:
    """Whether Debezium's mapping of the type loses nothing."""
    kind, modifier = base_type(kind, modifier)
    if kind.kind is TypeKind.ARRAY and kind.element is not None:
        if kind.element.name in _EXTENSION_TYPES:
            return False
        return kind.element.kind in (TypeKind.BASE, TypeKind.ENUM, TypeKind.RANGE) and _exact(kind.element, modifier)
    if kind.kind is TypeKind.ENUM:
        return True
    if kind.schema != "pg_catalog" and kind.name not in _EXTENSION_TYPES:
        return False
    if kind.name == "numeric":
        precision, scale = numeric_modifier(modifier)
        return modifier != -1 and 0 <= scale <= precision  # Avro has no other decimals
    return kind.name in _EXACT


def _map(kind: Type, modifier: int, options: WireOptions) -> Mapped | None:
    mapped = _map_known(kind, modifier, options)
    return mapped or (_map_unknown(kind, options) if options.unknown else None)


def _map_unknown(kind: Type, options: WireOptions) -> Mapped | None:
    """What `_map_known` leaves out: the bytes of its text; of arrays only those whose items are as unknown."""
    kind, modifier = base_type(kind, -1)
    avro = "bytes" if options.binary == "bytes" else "string"
    if kind.kind is not TypeKind.ARRAY:
        codec = _TEXT_AS_BYTES[options.binary]
        return Mapped(avro, codec.replace("text", "geometric") if kind.name in _GEOMETRIC else codec, base="unknown")
    element = kind.element
    if element is None:
        return None
    if element.kind is not TypeKind.DOMAIN and (
        element.name in _NOT_IN_ARRAYS or _map_known(element, modifier, options)
    ):
        return None
    item = _map_unknown(element, options)
    return item and Mapped({"type": "array", "items": item.avro}, "array", item=item, base="array")


def _map_known(kind: Type, modifier: int, options: WireOptions) -> Mapped | None:
    kind, modifier = base_type(kind, modifier)
    if kind.kind is TypeKind.ARRAY:
        return _map_array(kind, modifier, options)
    if kind.kind is TypeKind.ENUM:
        allowed = {"allowed": ",".join(kind.labels)}
        codec = "label" if options.profile == "native" else "text"
        return Mapped(named("string", "io.debezium.data.Enum", allowed), codec, labels=kind.labels, base="enum")
    if kind.kind not in (TypeKind.BASE, TypeKind.RANGE):
        return None
    if kind.schema != "pg_catalog" and kind.name not in _EXTENSION_TYPES:
        return None
    mapped = _map_base(kind.name, modifier, options)
    return mapped and replace(mapped, base=kind.name)


def _map_array(kind: Type, modifier: int, options: WireOptions) -> Mapped | None:
    element = kind.element
    if element is None or (element.name in _NOT_IN_ARRAYS and element.kind is TypeKind.BASE):
        return None
    if element.kind not in (TypeKind.BASE, TypeKind.ENUM, TypeKind.RANGE):
        return None
    item = _map_known(element, modifier, options)
    if item is None:
        return None
    if element.name == "bit":  # Debezium describes it as one bit string
        return Mapped(item.avro, "bit_array", base="array")
    # Debezium gives the items of these types no null
    missing = element.kind is TypeKind.ENUM or element.name in _NULLS_IN_ARRAYS_MISSING
    strict = options.profile == "debezium" and missing
    items = item.avro if strict else ["null", item.avro]
    return Mapped({"type": "array", "items": items}, "array", item=item, base="array")


_SIMPLE: Final[dict[str, tuple[Avro, str]]] = {
    "int2": ({"type": "int", "connect.type": "int16"}, "int"),
    "int4": ("int", "int"),
    "int8": ("long", "int"),
    "oid": ("long", "int"),
    "float4": ("float", "float"),
    "float8": ("double", "double"),
    "bool": ("boolean", "bool"),
    "point": (POINT, "point"),
}
_VECTORS: Final = {"int2vector": "int2", "oidvector": "oid"}
"""Types of the catalog that are arrays but for their text."""


def _map_base(name: str, modifier: int, options: WireOptions) -> Mapped | None:
    if name in _STRING:
        return Mapped("string", "text")
    if name in _NAMED_STRING:
        return Mapped(named("string", _NAMED_STRING[name]), "text")
    if name in _SIMPLE:
        return Mapped(*_SIMPLE[name])
    if name in _VECTORS:
        return Mapped({"type": "array", "items": _SIMPLE[_VECTORS[name]][0]}, "vector")
    if name in ("numeric", "money"):
        return _map_number(name, modifier, options)
    if name in ("bit", "varbit"):
        return _map_bits(name, modifier)
    if name == "bytea":
        if options.binary == "bytes":
            return Mapped("bytes", "bytea")
        return Mapped("string", f"bytea_{options.binary}")
    if name == "hstore":
        if options.hstore == "json":
            return Mapped(named("string", "io.debezium.data.Json"), "hstore_json")
        return Mapped({"type": "map", "values": ["null", "string"]}, "hstore_map")
    if name == "interval":
        if options.intervals == "string":
            return Mapped(named("string", "io.debezium.time.Interval"), "interval_iso")
        return Mapped(named("long", "io.debezium.time.MicroDuration"), "interval")
    return _map_time(name, 6 if modifier < 0 else modifier, options)


def _map_number(name: str, modifier: int, options: WireOptions) -> Mapped:
    if options.decimals == "string":
        scale = options.money_digits if name == "money" else 0 if modifier == -1 else numeric_modifier(modifier)[1]
        return Mapped("string", f"{name}_text", scale)
    if options.decimals == "double":
        return Mapped("double", "double" if name == "numeric" else "money_double")
    if name == "money":
        digits = options.money_digits
        return Mapped(decimal(64, digits, {"scale": str(digits)}), "money", digits)
    if modifier == -1:
        return Mapped(VARIABLE_SCALE, "variable")
    precision, scale = numeric_modifier(modifier)
    scale %= 1 << 11  # Debezium's driver does not know negative ones: numeric(3,-2) has 2046 zeros behind the point
    parameters = {"scale": str(scale), "connect.decimal.precision": str(precision)}
    return Mapped(decimal(precision, scale, parameters), "decimal", scale)


def _map_bits(name: str, modifier: int) -> Mapped:
    if name == "bit" and modifier in (1, -1):
        return Mapped("boolean", "bit")
    length = 2_147_483_647 if modifier < 0 else modifier
    return Mapped(named("bytes", "io.debezium.data.Bits", {"length": str(length)}), "bits", length)


def _map_time(name: str, precision: int, options: WireOptions) -> Mapped | None:
    if name == "timestamptz":
        return Mapped(named("string", "io.debezium.time.ZonedTimestamp"), "zoned", precision)
    if name == "timetz":
        return Mapped(named("string", "io.debezium.time.ZonedTime"), "zoned_time")
    if name not in ("date", "time", "timestamp"):
        return None
    if options.times == "isostring":
        return Mapped(named("string", f"io.debezium.time.Iso{name.title()}"), f"{name}_iso")
    if options.times == "connect":
        avro = {"date": "int", "time": "int", "timestamp": "long"}[name]
        logical = {"date": "date", "time": "time-millis", "timestamp": "timestamp-millis"}[name]
        codec = {"date": "date", "time": "time_ms", "timestamp": "timestamp_ms"}[name]
        connect = named(avro, f"org.apache.kafka.connect.data.{name.title()}")
        return Mapped({**connect, "logicalType": logical}, codec)
    if name == "date":
        return Mapped(named("int", "io.debezium.time.Date"), "date")
    if name == "time":
        if precision <= 3 and options.times == "adaptive":
            return Mapped(named("int", "io.debezium.time.Time"), "time_ms")
        if options.times == "nanoseconds":
            return Mapped(named("long", "io.debezium.time.NanoTime"), "time_ns")
        return Mapped(named("long", "io.debezium.time.MicroTime"), "time_us")
    if options.times == "nanoseconds":
        return Mapped(named("long", "io.debezium.time.NanoTimestamp"), "timestamp_ns")
    if precision <= 3 and options.times != "microseconds":
        return Mapped(named("long", "io.debezium.time.Timestamp"), "timestamp_ms")
    return Mapped(named("long", "io.debezium.time.MicroTimestamp"), "timestamp_us")


def named(avro: str, name: str, parameters: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A primitive type under a Connect name, version 1."""
    extra = {"connect.parameters": dict(parameters)} if parameters else {}
    return {"type": avro, "connect.version": 1, **extra, "connect.name": name}


def decimal(precision: int, scale: int, parameters: Mapping[str, str]) -> dict[str, Any]:
    """Connect's Decimal."""
    return {
        "type": "bytes",
        "scale": scale,
        "precision": precision,
        "connect.version": 1,
        "connect.parameters": dict(parameters),
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }
