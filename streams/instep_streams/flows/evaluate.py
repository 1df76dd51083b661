"""Evaluate a flow's own SELECT for some keys, compare with what was last emitted, keep what is new: one statement.

`OFFSET 0` keeps the wrapper a subquery: the key becomes a parameter that PostgreSQL pushes through GROUP BY, DISTINCT,
windows, UNION and across outer-join equalities into derived tables. Without it every batch reads whole tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import Connection

from instep.errors import FlowError
from instep.protocols import Key
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import GIVEN, query, quote
from instep_streams.flows.compile import Plan
from instep_streams.flows.images import Anchor
from instep_streams.flows.refusals import refuse
from instep_streams.flows.session import LOOKUPS, SCANS

_ROW: Final = quote("*instep*")
"""Alias of the user's SELECT: a name that an output column cannot have by accident."""
_SEED: Final = 0
_STORAGE: Final = "WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.1)"


EVALUATION_ERRORS: Final = (FlowError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)
"""The SELECT's own faults on some data: division by zero, a text that is no number, a key that is not unique."""


class Emitted(NamedTuple):
    """One document version to be published.

    Attributes:
        flow: the flow's name.
        key: the key columns' texts, in the flow's order.
        document: PostgreSQL's `row_to_json` text, or None for a tombstone.
        digest: 16 hexadecimal digits; empty for a tombstone.
        batch: the worker batch that made it.
    """

    flow: str
    key: Key
    document: str | None
    digest: str
    batch: int


class Evaluation:
    """One deployed flow's statements and tables (`instep.out_<n>`, `dirty_<n>`, `pending_<n>`).

    Args:
        conn: the pinned session; the caller begins and ends transactions.
        plan: the compiled flow.
        columns: its output columns.
        number: the flow's number in `instep.flows`.
    """

    def __init__(self, conn: Connection[Any], plan: Plan, columns: Sequence[DocumentColumn], number: int) -> None:
        self._conn = conn
        self.plan = plan
        self.columns = tuple(columns)
        self._types = {column.name: column.type for column in columns}
        self._out, self._dirty, self._pending = (f"instep.{name}_{number}" for name in ("out", "dirty", "pending"))
        self._single = sorted(plan.anchor) == sorted(plan.flow.key)
        self._lookup = lookup_sql(plan, self._types, self._out)
        self._has_pending = True
        self.waiting = True
        self.fault: Exception | None = None

    def create(self) -> None:
        """Create its tables.

        Raises:
            FlowError: KEY when a key column's type cannot be compared.
        """
        keys = ", ".join(f"{quote(name)} {self._types[name]} NOT NULL" for name in self.plan.flow.key)
        order = [*self.plan.anchor, *(name for name in self.plan.flow.key if name not in self.plan.anchor)]
        primary = f"PRIMARY KEY ({', '.join(map(quote, order))})"
        try:
            self._conn.execute(
                f"CREATE TABLE {self._out} ({keys}, \"*h\" bigint, \"*batch\" bigint NOT NULL, {primary}) {_STORAGE};"
                f"CREATE TABLE {self._pending} ({keys}, \"*doc\" text, \"*h\" bigint, {primary});"
                f"CREATE TABLE {self._dirty} (anchor text[] PRIMARY KEY) {_STORAGE}".encode()
            )  # fmt: skip
        except psycopg.errors.UndefinedObject as exc:
            message = (exc.diag.message_primary or "").rstrip(".")
            raise refuse("KEY", f"Flow {self.plan.flow.name}: the key", message) from None

    def evaluate(self, anchors: Sequence[Anchor], batch: int) -> list[Emitted]:
        """The documents of some anchors that differ from what was last emitted.

        Raises:
            FlowError: KEY_NOT_UNIQUE.
            psycopg.DataError: the SELECT fails for the data of one of these keys.
        """
        if not anchors:
            return []
        values = [list(column) for column in zip(*anchors, strict=True)]
        if self._has_pending:
            self._conn.execute(query(self._forget_pending()), values)
        numbers = [batch] if self._single else [batch, batch]
        try:
            rows = self._conn.execute(self._lookup, [*values, *numbers], prepare=True).fetchall()
        except psycopg.errors.CardinalityViolation as exc:
            if "ON CONFLICT" in (exc.diag.message_primary or ""):
                raise self._not_unique() from None
            raise
        if rows and rows[0][-1]:
            raise self._not_unique()
        return [self._emitted(row, batch) for row in rows]

    def evaluate_all(self) -> None:
        """Evaluate every key at once and put what differs from the last emission aside, for `next_pending`.

        Raises:
            FlowError: KEY_NOT_UNIQUE.
            psycopg.DataError: the SELECT fails for the data of some key.
        """
        self._conn.execute(f"TRUNCATE {self._pending}, {self._dirty}")
        self._conn.execute("".join(f"SET LOCAL {name} = {value};" for name, value in SCANS.items()))
        try:
            self._conn.execute(whole_sql(self.plan, self._out, self._pending))
        except psycopg.errors.UniqueViolation:
            raise self._not_unique() from None
        self._conn.execute("".join(f"SET LOCAL {name} = {LOOKUPS[name]};" for name in SCANS))
        self._has_pending = self.waiting = True

    def next_pending(self, count: int, batch: int) -> list[Emitted]:
        """Take some of what `evaluate_all` put aside."""
        keys = ", ".join(map(quote, self.plan.flow.key))
        some = f"ctid = ANY(ARRAY(SELECT ctid FROM {self._pending} LIMIT {GIVEN}))"
        sql = f"""WITH p AS (DELETE FROM {self._pending} WHERE {some} RETURNING *),
up AS (INSERT INTO {self._out} ({keys}, "*h", "*batch") SELECT {keys}, "*h", {GIVEN} FROM p
  ON CONFLICT ({keys}) DO UPDATE SET "*h" = EXCLUDED."*h", "*batch" = EXCLUDED."*batch")
SELECT {_texts(self.plan.flow.key, "p")}, "*doc", "*h", false FROM p"""
        rows = self._conn.execute(query(sql), (count, batch)).fetchall()
        self._has_pending = len(rows) == count
        return [self._emitted(row, batch) for row in rows]

    def put_off(self, anchors: Iterable[Anchor]) -> None:
        """Keep dirty anchors for later slices."""
        sql = f"INSERT INTO {self._dirty} SELECT a::text[] FROM unnest(%s::text[]) AS u(a) ON CONFLICT DO NOTHING"
        self._conn.execute(sql, ([_array(anchor) for anchor in anchors],))
        self.waiting = True

    def next_dirty(self, count: int) -> list[Anchor]:
        """Take some of the dirty anchors that were put off."""
        some = f"ctid = ANY(ARRAY(SELECT ctid FROM {self._dirty} LIMIT %s))"
        rows = self._conn.execute(f"DELETE FROM {self._dirty} WHERE {some} RETURNING anchor", (count,)).fetchall()
        return [tuple(anchor) for (anchor,) in rows]

    def put_off_all(self) -> None:
        """Make every anchor dirty: those of the key's tables and those that were emitted."""
        sources = [
            f'SELECT {_anchor_array(walk.image)} FROM {self._sql_name(table)} AS "r"'
            for table, walks in self.plan.walks.items()
            for walk in walks
            if not walk.via
        ]
        own = _anchor_array([f"o.{quote(name)}" for name in self.plan.anchor])
        sources.append(f'SELECT {own} FROM {self._out} o WHERE "*h" IS NOT NULL')
        every = " UNION ".join(sources)
        self._conn.execute(
            f"INSERT INTO {self._dirty} SELECT a FROM ({every}) AS u(a) WHERE array_position(a, NULL) IS NULL"
            " ON CONFLICT DO NOTHING".encode()
        )
        self.waiting = True

    @staticmethod
    def _sql_name(table: str) -> str:
        schema, _, name = table.partition(".")
        return f"{quote(schema)}.{quote(name)}"

    def emitted_estimate(self) -> int:
        """Roughly how many keys have been emitted, from the planner's statistics."""
        row = self._conn.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (self._out,)).fetchone()
        return max(0, int(row[0])) if row else 0

    @property
    def seeding(self) -> bool:
        """Whether the next slice is of a whole evaluation."""
        return self._has_pending

    def look_again(self) -> None:
        """A step was rolled back: what was put off may still be there."""
        self._has_pending = self.waiting = True

    def slice(self, count: int, batch: int) -> list[Emitted]:
        """Work on what was put off: at most so many keys; sets `waiting` False when nothing is left.

        A key whose evaluation fails is put off again and its error kept in `fault`; the others are not held up by it.
        """
        self.fault = None
        if self._has_pending:
            found = self.next_pending(count, batch)
            if found:
                return found
        anchors = self.next_dirty(count)
        self.waiting = len(anchors) == count
        return self._isolating(anchors, batch)

    def _isolating(self, anchors: Sequence[Anchor], batch: int) -> list[Emitted]:
        try:
            with self._conn.transaction():
                return self.evaluate(anchors, batch)
        except EVALUATION_ERRORS as exc:
            if len(anchors) == 1:
                self.put_off(anchors)
                self.waiting = False
                self.fault = exc
                return []
        half = len(anchors) // 2
        return self._isolating(anchors[:half], batch) + self._isolating(anchors[half:], batch)

    def unsent(self, marker: int) -> list[Emitted]:
        """What was committed after the batch of the last marker, from the state as it is now."""
        keys = self.plan.flow.key
        sql = f'SELECT {_texts(keys, "o")}, "*h", "*batch" FROM {self._out} o WHERE "*batch" > {GIVEN}'
        rows = self._conn.execute(query(sql), (marker,)).fetchall()
        if not rows:
            return []
        batches = {tuple(row[:-2]): row[-1] for row in rows}
        gone = [Emitted(self.plan.flow.name, tuple(row[:-2]), None, "", row[-1]) for row in rows if row[-2] is None]
        at = [keys.index(name) for name in self.plan.anchor]
        anchors = {tuple(row[i] for i in at) for row in rows if row[-2] is not None}
        found = self._documents(sorted(anchors)) if anchors else []
        live = [self._emitted((*row, False), batches[tuple(row[:-2])]) for row in found if tuple(row[:-2]) in batches]
        return gone + live

    def _documents(self, anchors: Sequence[Anchor]) -> list[tuple[Any, ...]]:
        values = [list(column) for column in zip(*anchors, strict=True)]
        texts = _texts(self.plan.flow.key, "x")
        sql = f"WITH {_given(self.plan, self._types)} SELECT {texts}, doc, h FROM ({_rows(self.plan)}) x"
        return self._conn.execute(query(sql), values).fetchall()

    def forget_tombstones(self, marker: int) -> None:
        """Forget keys whose tombstone has been published."""
        self._conn.execute(f'DELETE FROM {self._out} WHERE "*h" IS NULL AND "*batch" <= %s', (marker,))

    def adopt(self, keys: Iterable[tuple[Key, str]]) -> None:
        """Take keys and digests that stand in the flow topic as what was emitted, in place of what is held."""
        rows = list(keys)
        self._conn.execute(f"TRUNCATE {self._out}")
        names = self.plan.flow.key
        typed = ", ".join(f"c{i}::{self._types[name]}" for i, name in enumerate(names))
        given = ", ".join(f"{GIVEN}::text[]" for _ in names)
        columns = ", ".join(f"c{i}" for i in range(len(names)))
        target = f'{self._out} ({", ".join(map(quote, names))}, "*h", "*batch")'
        source = f"unnest({given}, {GIVEN}::int8[]) AS u({columns}, h)"
        values = [[key[i] for key, _ in rows] for i in range(len(names))]
        self._conn.execute(
            query(f"INSERT INTO {target} SELECT {typed}, h, 0 FROM {source} ON CONFLICT DO NOTHING"),
            [*values, [_signed(digest) for _, digest in rows]],
        )

    def _forget_pending(self) -> str:
        match = " AND ".join(f"p.{quote(name)} = c{i}::{self._types[name]}" for i, name in enumerate(self.plan.anchor))
        given = ", ".join(f"{GIVEN}::text[]" for _ in self.plan.anchor)
        columns = ", ".join(f"c{i}" for i in range(len(self.plan.anchor)))
        return f"DELETE FROM {self._pending} p USING unnest({given}) AS u({columns}) WHERE {match}"

    def _emitted(self, row: tuple[Any, ...], batch: int) -> Emitted:
        *key, document, number, _ = row
        digest = "" if document is None else f"{number & 0xFFFFFFFFFFFFFFFF:016x}"
        return Emitted(self.plan.flow.name, tuple(key), document, digest, batch)

    def _not_unique(self) -> FlowError:
        return refuse("KEY_NOT_UNIQUE", f"Flow {self.plan.flow.name}, key ({', '.join(self.plan.flow.key)})")


def _array(values: Sequence[str]) -> str:
    """An array literal of texts."""
    return "{" + ",".join('"' + each.replace("\\", "\\\\").replace('"', '\\"') + '"' for each in values) + "}"


def _anchor_array(expressions: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(f'({each})::text' for each in expressions)}]"


def _signed(digest: str) -> int | None:
    if not digest:
        return None
    number = int(digest, 16)
    return number - (1 << 64) if number >> 63 else number


def _texts(names: Sequence[str], alias: str) -> str:
    return ", ".join(f"({alias}.{quote(name)})::text" for name in names)


def _given(plan: Plan, types: dict[str, str]) -> str:
    """The wanted anchors as CTE `k`: one text[] parameter per anchor column."""
    typed = ", ".join(f"c{i}::{types[name]} AS k{i}" for i, name in enumerate(plan.anchor))
    given = ", ".join(f"{GIVEN}::text[]" for _ in plan.anchor)
    columns = ", ".join(f"c{i}" for i in range(len(plan.anchor)))
    return f"k AS MATERIALIZED (SELECT DISTINCT {typed} FROM unnest({given}) AS u({columns}))"


def _of_key(plan: Plan) -> str:
    """The user's SELECT for the anchor in `k`, as a LATERAL subquery."""
    match = " AND ".join(f"q.{quote(name)} = k.k{i}" for i, name in enumerate(plan.anchor))
    return f"LATERAL (SELECT * FROM (\n{plan.sql}\n) AS q WHERE {match} OFFSET 0) AS {_ROW}"


def _rows(plan: Plan) -> str:
    """Keys, documents and hashes of the anchors in `k`; rows with a NULL in the key are no documents."""
    keys = ", ".join(f"{_ROW}.{quote(name)}" for name in plan.flow.key)
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    return (
        f"SELECT {keys}, row_to_json({_ROW})::text AS doc, hashtextextended(row_to_json({_ROW})::text, {_SEED}) AS h"
        f" FROM k CROSS JOIN {_of_key(plan)} WHERE {named}"
    )


def lookup_sql(plan: Plan, types: dict[str, str], out: str) -> bytes:
    """Evaluate the anchors given as one text[] parameter each, then the batch number (once or twice).

    Gives key texts, document or NULL, hash, and whether a key came twice.
    """
    single = sorted(plan.anchor) == sorted(plan.flow.key)
    return query((_single_sql if single else _several_sql)(plan, types, out))


def _single_sql(plan: Plan, types: dict[str, str], out: str) -> str:
    """The anchor is the key: one pass, no row is a tombstone."""
    at = {name: i for i, name in enumerate(plan.anchor)}
    keys = ", ".join(map(quote, plan.flow.key))
    own = ", ".join(f"coalesce({_ROW}.{quote(name)}, k.k{at[name]}) AS {quote(name)}" for name in plan.flow.key)
    first = f"{_ROW}.{quote(plan.anchor[0])}"
    last = " AND ".join(f"o.{quote(name)} = k.k{i}" for i, name in enumerate(plan.anchor))
    hashed = f"SELECT *, hashtextextended(doc, {_SEED}) AS h FROM e"
    return f"""WITH {_given(plan, types)},
e AS MATERIALIZED (SELECT {own}, CASE WHEN {first} IS NOT NULL THEN row_to_json({_ROW})::text END AS doc, o.h AS oh
  FROM k LEFT JOIN {_of_key(plan)} ON true
  LEFT JOIN LATERAL (SELECT "*h" AS h FROM {out} o WHERE {last} OFFSET 0) AS o ON true),
ch AS MATERIALIZED (SELECT * FROM ({hashed}) AS z WHERE h IS DISTINCT FROM oh),
up AS (INSERT INTO {out} ({keys}, "*h", "*batch") SELECT {keys}, h, {GIVEN}::int8 FROM ch
  ON CONFLICT ({keys}) DO UPDATE SET "*h" = EXCLUDED."*h", "*batch" = EXCLUDED."*batch")
SELECT {_texts(plan.flow.key, "ch")}, doc, h, (SELECT count(*) FROM e) > (SELECT count(*) FROM k) FROM ch"""


def _several_sql(plan: Plan, types: dict[str, str], out: str) -> str:
    """An anchor owns several keys: those that were emitted and have no row now are tombstones."""
    keys = ", ".join(map(quote, plan.flow.key))
    last = " AND ".join(f"o.{quote(name)} = x.{quote(name)}" for name in plan.flow.key)
    mine = " AND ".join(f"o.{quote(name)} = k.k{i}" for i, name in enumerate(plan.anchor))
    there = " AND ".join(f"e.{quote(name)} = o.{quote(name)}" for name in plan.flow.key)
    gone = ", ".join(f"o.{quote(name)}" for name in plan.flow.key)
    return f"""WITH {_given(plan, types)},
x AS MATERIALIZED ({_rows(plan)}),
e AS MATERIALIZED (SELECT x.*, o.h AS oh FROM x
  LEFT JOIN LATERAL (SELECT "*h" AS h FROM {out} o WHERE {last} OFFSET 0) AS o ON true),
ch AS MATERIALIZED (SELECT * FROM e WHERE h IS DISTINCT FROM oh),
up AS (INSERT INTO {out} ({keys}, "*h", "*batch") SELECT {keys}, h, {GIVEN}::int8 FROM ch
  ON CONFLICT ({keys}) DO UPDATE SET "*h" = EXCLUDED."*h", "*batch" = EXCLUDED."*batch"),
gone AS (UPDATE {out} o SET "*h" = NULL, "*batch" = {GIVEN}::int8 FROM k WHERE {mine} AND o."*h" IS NOT NULL
  AND NOT EXISTS (SELECT FROM e WHERE {there}) RETURNING {gone}),
twice AS (SELECT count(*) > count(DISTINCT ({keys})) AS found FROM e)
SELECT {_texts(plan.flow.key, "ch")}, doc, h, (SELECT found FROM twice) FROM ch
UNION ALL SELECT {_texts(plan.flow.key, "gone")}, NULL, NULL, (SELECT found FROM twice) FROM gone"""


def select_sql(plan: Plan) -> str:
    """Every document of the flow: key texts, document text, hash. Runs the same on the store and on the replica."""
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    return (
        f"SELECT {_texts(plan.flow.key, _ROW)}, row_to_json({_ROW})::text,"
        f" hashtextextended(row_to_json({_ROW})::text, {_SEED}) FROM (\n{plan.sql}\n) AS {_ROW} WHERE {named}"
    )


def whole_sql(plan: Plan, out: str, pending: str) -> bytes:
    """Put every key whose document differs from the emitted one, or is gone, into the pending table."""
    keys = ", ".join(map(quote, plan.flow.key))
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    same = " AND ".join(f"o.{quote(name)} = e.{quote(name)}" for name in plan.flow.key)
    own = ", ".join(f"{_ROW}.{quote(name)}" for name in plan.flow.key)
    sql = f"""INSERT INTO {pending} ({keys}, "*doc", "*h")
WITH e AS MATERIALIZED (SELECT {own}, row_to_json({_ROW})::text AS "*doc",
  hashtextextended(row_to_json({_ROW})::text, {_SEED}) AS "*h" FROM (\n{plan.sql}\n) AS {_ROW} WHERE {named})
SELECT {", ".join(f"e.{quote(name)}" for name in plan.flow.key)}, e."*doc", e."*h" FROM e LEFT JOIN {out} o ON {same}
  WHERE e."*h" IS DISTINCT FROM o."*h"
UNION ALL SELECT {", ".join(f"o.{quote(name)}" for name in plan.flow.key)}, NULL, NULL FROM {out} o
  WHERE o."*h" IS NOT NULL AND NOT EXISTS (SELECT FROM e WHERE {same})"""
    return sql.encode()
