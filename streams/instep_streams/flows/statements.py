"""A flow's statements: the user's SELECT, wrapped.

`OFFSET 0` keeps the wrapper a subquery: the key becomes a parameter that PostgreSQL pushes through GROUP BY, DISTINCT,
windows, UNION and across outer-join equalities into derived tables. Without it every batch reads whole tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from instep_streams.flows.catalog import GIVEN, query, quote
from instep_streams.flows.compile import Plan
from instep_streams.flows.layout import Share

_ROW: Final = quote("*instep*")
"""Alias of the user's SELECT: a name that an output column cannot have by accident."""
_KEYS: Final = quote("*keys*")
"""The wanted anchors: a name that no table of the user's SELECT has, which is read beside it."""
_SEED: Final = 0
_ALL: Final = Share()


def key_texts(names: Sequence[str], alias: str) -> str:
    """Columns as text."""
    return ", ".join(f"({alias}.{quote(name)})::text" for name in names)


def _given(plan: Plan, types: dict[str, str]) -> str:
    """The wanted anchors as a CTE: one text[] parameter per anchor column; in order, as indexes hold them."""
    typed = ", ".join(f"c{i}::{types[name]} AS k{i}" for i, name in enumerate(plan.anchor))
    arrays = ", ".join(f"{GIVEN}::text[]" for _ in plan.anchor)
    columns = ", ".join(f"c{i}" for i in range(len(plan.anchor)))
    order = ", ".join(f"k{i}" for i in range(len(plan.anchor)))
    given = f"SELECT DISTINCT {typed} FROM unnest({arrays}) AS u({columns}) ORDER BY {order}"
    return f"{_KEYS} AS MATERIALIZED ({given})"


def _of_key(plan: Plan) -> str:
    """The user's SELECT for the anchor in `k`, as a LATERAL subquery."""
    match = " AND ".join(f"q.{quote(name)} = k.k{i}" for i, name in enumerate(plan.anchor))
    return f"LATERAL (SELECT * FROM (\n{plan.sql}\n) AS q WHERE {match} OFFSET 0) AS {_ROW}"


def _rows(plan: Plan) -> str:
    """Keys, documents and hashes of the anchors in `k`; rows with a NULL in the key are no documents."""
    keys = ", ".join(f"{_ROW}.{quote(name)}" for name in plan.flow.key)
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    return (
        f'SELECT {keys}, row_to_json({_ROW})::text AS "*doc",'
        f' hashtextextended(row_to_json({_ROW})::text, {_SEED}) AS "*h"'
        f" FROM {_KEYS} AS k CROSS JOIN {_of_key(plan)} WHERE {named}"
    )


def anchors_sql(plan: Plan, types: dict[str, str]) -> str:
    """Key texts, document and hash of every row of the anchors given as one text[] parameter each."""
    texts = key_texts(plan.flow.key, "x")
    return f'WITH {_given(plan, types)} SELECT {texts}, "*doc", "*h" FROM ({_rows(plan)}) x'


def lookup_sql(plan: Plan, types: dict[str, str], out: str) -> bytes:
    """Evaluate the anchors given as one text[] parameter each, then the batch number (twice, or three times).

    Gives key texts, document or NULL, hash, and whether a key came twice.
    """
    single = sorted(plan.anchor) == sorted(plan.flow.key)
    return query((_single_sql if single else _several_sql)(plan, types, out))


def _single_sql(plan: Plan, types: dict[str, str], out: str) -> str:
    """The anchor is the key: one pass, no row is a tombstone."""
    at = {name: i for i, name in enumerate(plan.anchor)}
    own = ", ".join(f"coalesce({_ROW}.{quote(name)}, k.k{at[name]}) AS {quote(name)}" for name in plan.flow.key)
    first = f"{_ROW}.{quote(plan.anchor[0])}"
    return f"""WITH {_given(plan, types)},
e AS MATERIALIZED (SELECT {own}, CASE WHEN {first} IS NOT NULL THEN row_to_json({_ROW})::text END AS "*doc"
  FROM {_KEYS} AS k LEFT JOIN {_of_key(plan)} ON true),
{_merged(plan, out, f'SELECT *, hashtextextended("*doc", {_SEED}) AS "*h" FROM e')}
SELECT {key_texts(plan.flow.key, "ch")}, "*doc", "*h", (SELECT count(*) FROM e) > (SELECT count(*) FROM {_KEYS})
FROM ch"""


def _several_sql(plan: Plan, types: dict[str, str], out: str) -> str:
    """An anchor owns several keys: those that were emitted and have no row now are tombstones."""
    keys = ", ".join(map(quote, plan.flow.key))
    mine = " AND ".join(f"o.{quote(name)} = k.k{i}" for i, name in enumerate(plan.anchor))
    there = " AND ".join(f"e.{quote(name)} = o.{quote(name)}" for name in plan.flow.key)
    gone = ", ".join(f"o.{quote(name)}" for name in plan.flow.key)
    return f"""WITH {_given(plan, types)},
e AS MATERIALIZED ({_rows(plan)}),
{_merged(plan, out, "SELECT * FROM e")},
gone AS (UPDATE {out} o SET "*h" = NULL, "*batch" = {GIVEN}::int8 FROM {_KEYS} AS k WHERE {mine} AND o."*h" IS NOT NULL
  AND NOT EXISTS (SELECT FROM e WHERE {there}) RETURNING {gone}),
twice AS (SELECT count(*) > count(DISTINCT ({keys})) AS found FROM e)
SELECT {key_texts(plan.flow.key, "ch")}, "*doc", "*h", (SELECT found FROM twice) FROM ch
UNION ALL SELECT {key_texts(plan.flow.key, "gone")}, NULL, NULL, (SELECT found FROM twice) FROM gone"""


def _merged(plan: Plan, out: str, rows: str) -> str:
    """Bring what was emitted up to date with `rows`; a CTE of those that differ from it; takes the batch number twice.

    MERGE finds each key once; INSERT … ON CONFLICT behind a comparison would find it twice.
    """
    keys = ", ".join(map(quote, plan.flow.key))
    same = " AND ".join(f"o.{quote(name)} = n.{quote(name)}" for name in plan.flow.key)
    new = ", ".join(f"n.{quote(name)}" for name in plan.flow.key)
    return f"""ch AS (MERGE INTO {out} AS o USING ({rows}) AS n ON {same}
  WHEN MATCHED AND o."*h" IS DISTINCT FROM n."*h" THEN UPDATE SET "*h" = n."*h", "*batch" = {GIVEN}::int8
  WHEN NOT MATCHED AND n."*h" IS NOT NULL THEN INSERT ({keys}, "*h", "*batch") VALUES ({new}, n."*h", {GIVEN}::int8)
  RETURNING {new}, n."*doc", n."*h")"""


def select_sql(plan: Plan) -> str:
    """Every document of the flow: key texts, document text, hash. Runs the same on the store and on the replica."""
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    return (
        f"SELECT {key_texts(plan.flow.key, _ROW)}, row_to_json({_ROW})::text,"
        f" hashtextextended(row_to_json({_ROW})::text, {_SEED}) FROM (\n{plan.sql}\n) AS {_ROW} WHERE {named}"
    )


def whole_sql(plan: Plan, out: str, pending: str, share: Share = _ALL) -> bytes:
    """Put every key whose document differs from the emitted one, or is gone, into the pending table."""
    keys = ", ".join(map(quote, plan.flow.key))
    named = " AND ".join(f"{_ROW}.{quote(name)} IS NOT NULL" for name in plan.flow.key)
    same = " AND ".join(f"o.{quote(name)} = e.{quote(name)}" for name in plan.flow.key)
    own = ", ".join(f"{_ROW}.{quote(name)}" for name in plan.flow.key)
    mine = share.condition([f"{_ROW}.{quote(name)}" for name in plan.anchor])
    sql = f"""INSERT INTO {pending} ({keys}, "*doc", "*h")
WITH e AS MATERIALIZED (SELECT {own}, row_to_json({_ROW})::text AS "*doc",
  hashtextextended(row_to_json({_ROW})::text, {_SEED}) AS "*h" FROM (\n{plan.sql}\n) AS {_ROW} WHERE {named}{mine})
SELECT {", ".join(f"e.{quote(name)}" for name in plan.flow.key)}, e."*doc", e."*h" FROM e LEFT JOIN {out} o ON {same}
  WHERE e."*h" IS DISTINCT FROM o."*h"
UNION ALL SELECT {", ".join(f"o.{quote(name)}" for name in plan.flow.key)}, NULL, NULL FROM {out} o
  WHERE o."*h" IS NOT NULL AND NOT EXISTS (SELECT FROM e WHERE {same})"""
    return sql.encode()
