"""What a Debezium schema may tell of a column's type in the store: column.propagate.source.type (pure)."""

from __future__ import annotations

from typing import Final

from instep.relation import Column, Relation, Type, TypeKind
from instep_schemas.mapping import numeric_modifier
from instep_schemas.wire import WireOptions, column_matches

_UNLIMITED: Final = 2_147_483_647
_SIZES: Final[dict[str, tuple[int, int]]] = {
    "int2": (5, 0), "int4": (10, 0), "int8": (19, 0), "oid": (10, 0), "bool": (1, 0), "char": (1, 0),
    "float4": (8, 8), "float8": (17, 17), "date": (13, 0), "numeric": (131089, 0), "bit": (1, 0),
}  # fmt: skip
"""Length and scale as PostgreSQL's JDBC driver has them, of types without (or with no) modifier."""
_CLOCKS: Final[dict[str, int]] = {"time": 8, "timetz": 14, "timestamp": 22, "timestamptz": 28}
"""Length without a fraction, as that driver counts."""
_SERIAL: Final = {"int2": "SMALLSERIAL", "int4": "SERIAL", "int8": "BIGSERIAL"}


def source_parameters(relation: Relation, column: Column, options: WireOptions) -> dict[str, str]:
    """The Connect parameters of a column that the settings name; empty for others."""
    if not _named(relation, column, options):
        return {}
    length, scale = _size(column.type, column.modifier)
    name, shown = _type_name(column, options), {"length": str(length), "scale": str(scale)}
    copied = options.copied
    if copied and name in _SERIAL and (column.default or "").startswith("nextval("):
        name = _SERIAL[name]
    if copied and name == "numeric" and column.modifier == -1:
        shown = {"length": "0"}
    told = {"type": name.upper(), **shown, "name": column.name}
    return {f"__debezium.source.column.{each}": text for each, text in told.items()}


def _type_name(column: Column, options: WireOptions) -> str:
    """In a first copy JDBC's name: with the schema where the usual search_path does not find the type."""
    kind = column.type
    seen = not options.copied or kind.schema in ("public", "pg_catalog")
    return kind.name if seen else f'"{kind.schema}"."{kind.name}"'


def length_of(column: Column) -> int:
    """How long its values may be, as Debezium counts them."""
    return _size(column.type, column.modifier)[0]


def _named(relation: Relation, column: Column, options: WireOptions) -> bool:
    qualified = f"{relation.table}.{column.name}"
    by_type = f"{relation.table}.{_type_name(column, options)}"
    return any(column_matches(pattern, qualified) for pattern in options.propagate) or any(
        column_matches(pattern, name)
        for pattern in options.propagate_types
        for name in (by_type, f"{options.database}.{by_type}")
    )


def _size(kind: Type, modifier: int) -> tuple[int, int]:
    while kind.element is not None and kind.kind in (TypeKind.DOMAIN, TypeKind.ARRAY):
        modifier = kind.modifier if modifier == -1 else modifier
        kind = kind.element
    name = kind.name
    if name in _CLOCKS:
        digits = 6 if modifier < 0 else modifier
        return _CLOCKS[name] + (digits + 1 if digits else 0), digits
    if name == "interval":
        return 49, modifier & 0xFFFF if modifier >= 0 else 6
    if modifier == -1 or name in ("int2", "int4", "int8"):
        return _SIZES.get(name, (_UNLIMITED, 0))
    if name == "numeric":
        return numeric_modifier(modifier)
    if name in ("varchar", "bpchar"):
        return modifier - 4, 0
    return (modifier, 0) if name in ("bit", "varbit") else _SIZES.get(name, (_UNLIMITED, 0))
