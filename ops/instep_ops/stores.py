"""Where a source's flows can be asked of: its store; or, with others joined to it, one database with all tables.

PostgreSQL joins tables of one database only. So the tables of joined stores are made in an empty database, as the
worker makes its replica of them, and filled with the rows of one snapshot of each store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final

import psycopg
from psycopg import sql

from instep.flowfile import Flow
from instep.relation import Relation
from instep.settings import EMBEDDED, Settings
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.publication import matcher, publication_exists
from instep_connectors.postgres.session import connect, store_failure
from instep_connectors.postgres.skeleton import Definition, definitions
from instep_ops.planning.scratch import scratch
from instep_schemas.derive import derive
from instep_schemas.wire import Unsupported, WireOptions
from instep_streams.flows.catalog import POSITION, Column, Table, called, catalog_of, query
from instep_streams.flows.compile import compile_flow
from instep_streams.flows.inbox import table_of
from instep_streams.flows.session import pin
from instep_streams.flows.tables import Tables
from instep_streams.flows.versions import set_up

APPLICATION: Final = "instep flow"

Connection = psycopg.Connection[Any]

_TABLES: Final = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""

_INHERITED: Final = """
SELECT DISTINCT n.nspname || '.' || c.relname FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhparent AND c.relkind = 'r'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
"""

_PUBLISHED: Final = "SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables WHERE pubname = %s"


@dataclass(slots=True)
class Stores:
    """What a source's flows can be asked of.

    Attributes:
        conn: to ask it; its text settings are pinned.
        tables: the captured tables, as flows name them.
        unpublished: ids of those whose changes do not arrive, since the publication does not hold them.
        gathered: `conn` leads to a database made for the purpose, without rows until `fill`.
        origins: where the rows of its tables are to come from: a store's connection, the table there.
    """

    conn: Connection
    tables: dict[str, Table]
    unpublished: frozenset[str] = frozenset()
    gathered: bool = False
    origins: dict[str, tuple[Connection, Table]] = field(default_factory=dict)

    def fill(self, flows: Iterable[Flow]) -> None:
        """Bring the rows that flows read where they are not yet, as the stores' connections see them.

        Raises:
            FlowError: a flow is refused.
            SourceError, ConnectionError: a store refuses, or goes away.
        """
        if not self.gathered:
            return
        wanted = {table for flow in flows for table in compile_flow(flow, self.tables).tables}
        for name in sorted(wanted & self.origins.keys()):
            store, table = self.origins.pop(name)
            self._copy(store, table, self.tables[name])

    def _copy(self, store: Connection, origin: Table, copy: Table) -> None:
        columns = sql.SQL(", ").join(sql.Identifier(each.name) for each in origin.columns)
        out = sql.SQL("COPY (SELECT {}, 0 FROM {}) TO STDOUT").format(columns, _name(origin))
        into = sql.SQL("COPY {} ({}, {}) FROM STDIN").format(_name(copy), columns, sql.Identifier(POSITION))
        try:
            with self.conn.cursor().copy(into) as writer, store.cursor().copy(out) as reader:
                for data in reader:
                    writer.write(data)
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
        self.conn.execute(query(f"ANALYZE {copy.sql}"))


def _name(table: Table) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


@contextmanager
def opened(settings: Settings, source: str) -> Iterator[Stores]:
    """A source with those that are joined to it, as they are now.

    Args:
        settings: whose stores can be connected to.
        source: one that has a worker.

    Raises:
        SourceError, ConnectionError: a store refuses, or does not answer.
        ConfigError: several are to be gathered, and the state database's server does not let us; or two of their tables
            have one name.
        EnvironmentFault: the same, and the embedded PostgreSQL is not installed.
    """
    with ExitStack() as stack:
        conns = {
            name: stack.enter_context(closing(connect(settings.sources[name].dsn.reveal(), APPLICATION)))
            for name in (source, *settings.joined(source))
        }
        if len(conns) > 1:
            for conn in conns.values():
                conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield stack.enter_context(gathered(settings, source, conns))
            return
        own, conn = settings.sources[source], conns[source]
        tables = catalog_of(_told(conn, [_table(each) for each in captured(conn, own.tables)]))
        unpublished = _unpublished(conn, own.publication, tables)
        pin(conn)
        yield Stores(conn, tables, unpublished)


@contextmanager
def gathered(settings: Settings, source: str, conns: Mapping[str, Connection]) -> Iterator[Stores]:
    """The tables of several stores in a database of their own, which is gone afterwards; raises as `opened`.

    Args:
        settings: resolved, but for a state database that is embedded and does not run.
        source: the one that has a worker.
        conns: to its store and to those of the sources joined to it, in transactions; their settings are changed.
    """
    state = None if settings.state.dsn == EMBEDDED else settings.state.dsn.reveal()
    with scratch(state, "state.dsn, whose role needs CREATEDB", alike=True) as place:
        own = [] if state is None else _own_functions(state)
        place.build([each for each in own if each.kind == "extension"])
        pin(place.conn)
        set_up(place.conn)
        tables = Tables(place.conn, source, settings.joined(source))
        found = Stores(place.conn, {}, gathered=True)
        for name, schema in {source: "", **settings.joined(source)}.items():
            _gather(found, tables, conns[name], settings, name, schema)
        found.tables = dict(tables.captured)
        place.build([each for each in own if each.kind in {"schema", "function"}])
        yield found


def _own_functions(state: str) -> list[Definition]:
    """What the state database has of its own, for flows to call."""
    with psycopg.connect(state, autocommit=True, application_name=APPLICATION) as conn:
        conn.execute("SET search_path = pg_catalog")
        return [each for each in definitions(conn) if each.kind in {"extension", "schema", "function"}]


def _gather(
    found: Stores, tables: Tables, conn: Connection, settings: Settings, source: str, schema: str
) -> None:  # fmt: skip
    """Make one store's tables, as its capture's schemas tell them, under the names that flows know."""
    own, described = settings.sources[source], []
    conn.execute("SET search_path = pg_catalog")  # so that types are told with their schemas
    for relation in captured(conn, own.tables):
        try:
            schemas = derive(relation, WireOptions(source, ""))
        except Unsupported:
            continue  # capture leaves it out
        described.append(table_of(schemas.key_text, schemas.value_text))
    unpublished = _unpublished(conn, own.publication, catalog_of(described))
    for table in _told(conn, described):
        copy = called(table, schema)
        tables.ensure(copy, source)
        found.origins[copy.id] = conn, table
        found.unpublished |= {copy.id} if table.id in unpublished else set()
    pin(conn)


def captured(conn: Connection, patterns: Sequence[str]) -> list[Relation]:
    """The tables of a store that a source's `tables` name."""
    wanted = matcher(patterns)
    oids = [oid for oid, name in conn.execute(_TABLES).fetchall() if wanted.fullmatch(name)]
    return list(Catalog(conn).relations(dict.fromkeys(oids)).values())


def _told(conn: Connection, tables: Iterable[Table]) -> list[Table]:
    """With what schemas do not tell."""
    inherited = {name for (name,) in conn.execute(_INHERITED).fetchall()}
    return [replace(each, inherited=each.id in inherited) for each in tables]


def _table(relation: Relation) -> Table:
    columns = tuple(Column(each.name, each.sql_type, each.not_null) for each in relation.columns)
    return Table(relation.schema, relation.name, columns, relation.key)


def _unpublished(conn: Connection, publication: str, tables: Iterable[str]) -> frozenset[str]:
    """Those that the publication does not hold; none while there is none: capture will make it hold all."""
    if not publication_exists(conn, publication):
        return frozenset()
    return frozenset(tables) - {f"{schema}.{table}" for schema, table in conn.execute(_PUBLISHED, [publication])}
