"""The captured tables as the compiler and the replica see them."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

DEFAULT_SCHEMA = "public"
"""Where an unqualified table name of a flow is looked up."""

POSITION = "_instep_pos"
"""Column of each replica table: number of the journal entry that brought the row."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a captured table.

    Attributes:
        name: as stored, unquoted.
        sql_type: PostgreSQL's text of the type, schema-qualified outside pg_catalog.
        not_null: declared NOT NULL.
        default: text of the value that rows from before the column existed hold, None for NULL.
        labels: the labels of an enum (or of an array of one), in order.
        base: a domain's base type as SQL text.
        foreign: the store's type where the state database does not have it and `sql_type` is text instead.
    """

    name: str
    sql_type: str
    not_null: bool = False
    default: str | None = None
    labels: tuple[str, ...] = ()
    base: str | None = None
    foreign: str | None = None

    @property
    def of_enum(self) -> bool:
        """Of a domain over an enum (or an array of them)."""
        return bool(self.labels) and self.base is not None and not self.base.endswith("[]")


@dataclass(frozen=True, slots=True)
class Table:
    """One captured table.

    Attributes:
        schema: namespace in the store.
        name: its name.
        columns: in order.
        key: the columns that identify a row; empty for a keyless table.
        inherited: other tables inherit from it (no partitions): reading it gives their rows too, in the store only.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    inherited: bool = field(default=False, compare=False)
    _types: dict[str, Column] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_types", {column.name: column for column in self.columns})

    @property
    def id(self) -> str:
        """`schema.name`."""
        return f"{self.schema}.{self.name}"

    @property
    def sql(self) -> str:
        """The quoted, qualified name."""
        return f"{quote(self.schema)}.{quote(self.name)}"

    @property
    def names(self) -> KeysView[str]:
        """The columns' names."""
        return self._types.keys()

    def __contains__(self, column: str) -> bool:
        return column in self._types

    def type_of(self, column: str) -> str:
        """SQL type of a column."""
        return self._types[column].sql_type

    def column(self, name: str) -> Column:
        """A column by its name."""
        return self._types[name]

    def not_null(self, column: str) -> bool:
        """Whether the column can never be NULL."""
        return self._types[column].not_null or column in self.key


GIVEN = "\0"
"""Stands for a parameter in SQL text until `query`."""

Catalog = Mapping[str, Table]
"""Tables by `schema.name`."""


def catalog_of(tables: Iterable[Table]) -> dict[str, Table]:
    """Index tables by their id."""
    return {table.id: table for table in tables}


def called(table: Table, schema: str) -> Table:
    """A table of a joined source as flows name it: what is `public` there is another schema here.

    Only types that the replica makes itself, enums and domains, go with it: an extension's stay where they are.
    """
    if not schema:
        return table
    columns = tuple(_called(each, schema) for each in table.columns)
    return replace(table, schema=schema if table.schema == DEFAULT_SCHEMA else table.schema, columns=columns)


def _called(column: Column, schema: str) -> Column:
    if not column.labels and column.base is None:
        return column
    base = None if column.base is None else _moved(column.base, schema)
    return replace(column, sql_type=_moved(column.sql_type, schema), base=base)


def _moved(sql_type: str, schema: str) -> str:
    own = f"{DEFAULT_SCHEMA}."
    return f"{quote(schema)}.{sql_type.removeprefix(own)}" if sql_type.startswith(own) else sql_type


def quote(name: str) -> str:
    """A SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


@lru_cache(4096)
def query(sql: str) -> bytes:
    """SQL text with `GIVEN` for each parameter, as psycopg wants it: a `%` of the user's stays one."""
    return sql.replace("%", "%%").replace(GIVEN, "%s").encode()


def literal(text: str) -> str:
    """A SQL string constant."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'" if "\\" not in text else "E'" + doubled.replace("\\", "\\\\") + "'"
