"""A flow's SELECT for a few keys on the store: those asked for, and some that the store itself draws."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from instep.errors import FlowError
from instep.protocols import Key
from instep.settings import Settings
from instep_connectors.postgres.session import store_failure
from instep_ops.flows import compiled
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.arrays import ArrayDumper
from instep_streams.flows.catalog import query
from instep_streams.flows.compile import Plan
from instep_streams.flows.session import LOOKUPS, PINNED, pin
from instep_streams.flows.statements import anchors_sql

_PATIENCE: Final = "10s"
"""How long one statement may keep the store busy."""
_DRAWN_FROM: Final = 10


@dataclass(frozen=True, slots=True)
class Sampled:
    """One flow, compiled for few keys.

    Attributes:
        plan: the compiled flow.
        columns: its output.
    """

    plan: Plan
    columns: tuple[DocumentColumn, ...]

    def anchor(self, key: Key) -> Key:
        """The part of a key by which the store is asked."""
        return tuple(key[self.plan.flow.key.index(name)] for name in self.plan.anchor)

    def draw(self, conn: psycopg.Connection[Any], count: int) -> set[Key]:
        """Some anchors of the store's own, by reading a few of their tables' pages.

        Raises:
            SourceError, ConnectionError: the store refuses, is too slow, or is gone.
        """
        found: set[Key] = set()
        if count < 1:
            return found
        for table, image in self.plan.roots:
            texts = ", ".join(f"({each})::text" for each in image)
            try:
                estimate = "SELECT reltuples::float8 FROM pg_catalog.pg_class WHERE oid = %s::regclass"
                (known,) = conn.execute(estimate, (table,)).fetchone() or (0.0,)
                part = min(100.0, 100.0 * count * _DRAWN_FROM / known) if known > 0 else 100.0
                # a page's rows are neighbours: more are read than taken
                rows = f'SELECT {texts} FROM {table} AS "r" TABLESAMPLE SYSTEM ({part:.8f}) LIMIT {count * _DRAWN_FROM}'
                sql = f"SELECT * FROM ({rows}) AS s ORDER BY random() LIMIT {count}"
                found |= {row for row in conn.execute(sql.encode()).fetchall() if None not in row}
            except psycopg.Error as exc:
                raise store_failure(exc) from exc
        return found

    def rows(self, conn: psycopg.Connection[Any], anchors: Collection[Key]) -> dict[Key, str]:
        """The documents of some anchors as JSON texts, by key.

        Raises:
            FlowError: the SELECT fails for one of them, or a key comes twice.
            SourceError, ConnectionError: the store refuses, is too slow, or is gone.
        """
        if not anchors:
            return {}
        values = [list(column) for column in zip(*sorted(anchors), strict=True)]
        types = {column.name: column.type for column in self.columns}
        try:
            conn.adapters.register_dumper(list, ArrayDumper)
            rows = conn.execute(query(anchors_sql(self.plan, types)), values).fetchall()
        except psycopg.errors.QueryCanceled as exc:
            raise store_failure(exc) from exc
        except (psycopg.ProgrammingError, psycopg.DataError) as exc:
            words = " ".join(str(exc).splitlines()[0].split())
            raise FlowError("RESOLVE", f"The store refuses flow {self.plan.flow.name}: {words}.") from None
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
        found = {tuple(key): text for *key, text, _ in rows}
        if len(found) < len(rows):
            raise FlowError("KEY_NOT_UNIQUE", f"Flow {self.plan.flow.name}: a key is not unique in the store.")
        return found


def settle(conn: psycopg.Connection[Any]) -> None:
    """Pin a store's session as a worker's is, and let no statement take long."""
    pin(conn, PINNED | LOOKUPS | {"statement_timeout": _PATIENCE})


def sampled(settings: Settings, flow: str) -> Sampled:
    """Compile a flow against its store; raises as `flows.compiled`."""
    with compiled(settings, flow) as (_, plan, columns, _):
        return Sampled(plan, columns)
