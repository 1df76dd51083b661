"""Tables that Debezium has not written yet: it makes a topic with the first row; until then the store is asked."""

from __future__ import annotations

from contextlib import closing
from typing import Any, Final

import psycopg

from instep.settings import SourceSettings
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.session import connect, store_failure
from instep_schemas.derive import derive
from instep_schemas.wire import Unsupported, WireOptions
from instep_streams.flows.catalog import Table
from instep_streams.flows.feed import named
from instep_streams.flows.inbox import table_of

_TABLES: Final = """
SELECT c.oid::bigint, n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname <> 'information_schema'
  AND n.nspname NOT LIKE 'pg\\_%'"""


def store_tables(source: str, settings: SourceSettings) -> list[Table]:
    """The source's tables as Debezium's schemas would tell them, had it written a row.

    Raises:
        SourceError: the store refuses.
        ConnectionError: it is not there.
    """
    options = WireOptions(source, "", profile="debezium")
    with closing(connect(settings.dsn.reveal(), f"instep worker {source}")) as conn:
        try:
            rows: list[Any] = conn.execute(_TABLES.encode()).fetchall()
            oids = [oid for oid, name in rows if named(settings.tables, name)]
            relations = Catalog(conn, primary_first=True).relations(dict.fromkeys(oids))
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
    found = []
    for relation in relations.values():
        try:
            schemas = derive(relation, options)
        except Unsupported:
            continue  # Debezium cannot write it either
        found.append(table_of(schemas.key_text, schemas.value_text))
    return found
