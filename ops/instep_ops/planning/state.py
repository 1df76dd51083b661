"""What capture and the flows would make of a database as it is now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from instep.errors import InstepError
from instep.flowfile import Flow
from instep.relation import Relation
from instep.settings import Settings
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.publication import matcher
from instep_schemas.ciphers import tags_of
from instep_schemas.documents import DocumentColumn, key_schema, value_schema
from instep_schemas.wire import WireOptions
from instep_streams.flows.catalog import Column, Table, catalog_of
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan, compile_flow
from instep_streams.flows.session import pin

Connection = psycopg.Connection[Any]

_TABLES: Final = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident))
       OR c.relreplident = 'f'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'"""

_NUMBERS: Final = """
SELECT attrelid::bigint, attnum, attname::text, attidentity <> '' FROM pg_attribute
WHERE attrelid = ANY(%s::oid[]) AND attnum > 0 AND NOT attisdropped"""


@dataclass(frozen=True, slots=True)
class FlowState:
    """A flow against a database.

    Attributes:
        plan: compiled; None when it is refused.
        columns: its output columns.
        fault: why it is refused.
    """

    plan: Plan | None = None
    columns: tuple[DocumentColumn, ...] = ()
    fault: InstepError | None = None

    def schemas(self, flow: Flow) -> tuple[str, str]:
        """Its documents' key and value schemas."""
        return key_schema(flow.name, self.columns, flow.key), value_schema(flow.name, self.columns, flow.key)


@dataclass(frozen=True, slots=True)
class State:
    """Captured tables and flows.

    Attributes:
        relations: by OID.
        numbers: per OID, column name by `attnum`, which a rename does not change.
        counted: (OID, column) of the identity columns.
        keyless: captured by pattern, but without key or full replica identity: capture leaves them out.
        flows: by name.
    """

    relations: Mapping[int, Relation]
    numbers: Mapping[int, Mapping[int, str]]
    counted: frozenset[tuple[int, str]] = frozenset()
    keyless: frozenset[str] = frozenset()
    flows: Mapping[str, FlowState] = field(default_factory=dict)


def look(conn: Connection, patterns: Sequence[str], flows: Mapping[str, Flow]) -> State:
    """Read the captured tables and compile the flows against them.

    Args:
        conn: of the database, `search_path = pg_catalog`; given back so.
        patterns: the source's `tables`.
        flows: of the source.
    """
    wanted = matcher(patterns)
    rows = [row for row in conn.execute(_TABLES.encode()).fetchall() if wanted.fullmatch(row[1])]
    relations = Catalog(conn).relations(dict.fromkeys(row[0] for row in rows))
    numbers: dict[int, dict[int, str]] = {oid: {} for oid in relations}
    counted = set()
    for oid, number, name, identity in conn.execute(_NUMBERS.encode(), (list(relations),)).fetchall():
        numbers[oid][number] = name
        if identity:
            counted.add((oid, name))
    tables = catalog_of(map(table_of, relations.values()))
    pin(conn)
    try:
        compiled = {name: _compiled(conn, flow, tables) for name, flow in flows.items()}
    finally:
        conn.execute("SET search_path = pg_catalog")
    keyless = frozenset(row[1] for row in rows if not row[2])
    return State(relations, numbers, frozenset(counted), keyless, compiled)


def joined_flows(settings: Settings, source: str, flows: Mapping[str, FlowState]) -> list[str]:
    """Flows that this store alone tells nothing about, as they read other tables, too, where sources are joined.

    Flows call the tables of a joined source otherwise than its store does.
    """
    if settings.sources[source].joined_to:
        return sorted(flows)
    return sorted(name for name, each in flows.items() if each.fault is not None) if settings.joined(source) else []


def options_of(settings: Settings, source: str) -> WireOptions:
    """How capture writes a source, as far as schemas tell it: the database's name stands in records only."""
    return WireOptions(source, "", tags=tags_of(settings.sources[source], settings.encryption))


def table_of(relation: Relation) -> Table:
    """A captured table as the compiler sees it."""
    columns = tuple(Column(each.name, each.sql_type, each.not_null) for each in relation.columns)
    return Table(relation.schema, relation.name, columns, relation.key)


def _compiled(conn: Connection, flow: Flow, tables: Mapping[str, Table]) -> FlowState:
    try:
        plan = compile_flow(flow, tables)
        return FlowState(plan, check(conn, plan))
    except InstepError as exc:
        return FlowState(fault=exc)
