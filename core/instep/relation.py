"""A captured table as PostgreSQL describes it: what pgoutput's RELATION and the catalog say, joined.

Shared by capture (which reads it), schemas (which derives Avro from it) and the replica (which creates it again).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReplicaIdentity(StrEnum):
    """`pg_class.relreplident`."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


class TypeKind(StrEnum):
    """`pg_type.typtype`, with arrays (typcategory A, typelem set) told apart as `a`."""

    BASE = "b"
    ARRAY = "a"
    COMPOSITE = "c"
    DOMAIN = "d"
    ENUM = "e"
    PSEUDO = "p"
    RANGE = "r"
    MULTIRANGE = "m"


@dataclass(frozen=True, slots=True)
class Type:
    """A PostgreSQL type.

    Attributes:
        oid: pg_type.oid; fixed below 16384, else different in each database.
        schema: namespace, `pg_catalog` for built-in ones.
        name: pg_type.typname (`int4`, `_text`, `product_status`).
        kind: base, array, domain, enum, …
        labels: an enum's labels in enumsortorder.
        element: an array's element type, a domain's base type, a range's subtype.
        modifier: a domain's own typmod, -1 for none.
    """

    oid: int
    schema: str
    name: str
    kind: TypeKind = TypeKind.BASE
    labels: tuple[str, ...] = ()
    element: Type | None = None
    modifier: int = -1


@dataclass(frozen=True, slots=True)
class Column:
    """One column, in the order of the row's tuple.

    Attributes:
        name: as stored, unquoted.
        type: its type; a domain is kept as a domain.
        modifier: pg_attribute.atttypmod, -1 for none.
        not_null: declared NOT NULL (domain constraints included).
        default: the default's (or a generated column's) expression as SQL text (`pg_get_expr`), None for none.
        identity: part of the replica identity (RELATION flag 1).
        sql_type: `format_type(oid, modifier)`, schema-qualified when not in pg_catalog.
        generated: a stored generated column.
    """

    name: str
    type: Type
    modifier: int = -1
    not_null: bool = False
    default: str | None = None
    identity: bool = False
    sql_type: str = ""
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Relation:
    """One version of one captured table.

    Attributes:
        oid: pg_class.oid.
        schema: namespace.
        name: table name.
        columns: published columns in tuple order.
        key: names of the Kafka key's columns in key order: PRIMARY KEY, else a UNIQUE index on NOT NULL columns,
            else empty (keyless).
        replica_identity: what UPDATE and DELETE carry of the old row.
        primary_key: True when `key` is the primary key.
    """

    oid: int
    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: ReplicaIdentity = ReplicaIdentity.DEFAULT
    primary_key: bool = True

    @property
    def table(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"
