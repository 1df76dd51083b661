"""Parts of a table, read while the stream goes on: each under a snapshot of which is known what it sees.

A chunk alone says nothing of its place in the stream: the server writes a commit into its WAL first and lets others see
it only then, so a transaction that has been streamed may be missing in a snapshot taken later. `View` tells exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql

from instep.relation import Relation
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.snapshot import TextRow, copied_rows

Connection = psycopg.Connection[Any]
KeyTexts = Sequence[str]

_PATIENCE: Final = "SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '20s'"
"""Whoever reads a chunk also reads the stream: better a smaller chunk later than a silent connection."""


@dataclass(frozen=True, slots=True)
class View:
    """What a snapshot sees, by transaction ids of 64 bits.

    Attributes:
        oldest: every transaction below is over.
        next: every transaction from here on is unseen.
        running: those between that are unseen.
    """

    oldest: int
    next: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> View:
        """From `pg_snapshot`'s text, `xmin:xmax:xip_list`."""
        oldest, following, running = text.split(":")
        return cls(int(oldest), int(following), frozenset(map(int, filter(None, running.split(",")))))

    def full(self, xid: int) -> int:
        """All 64 bits of a transaction id of which the stream tells 32."""
        return self.next + (xid - self.next + (1 << 31)) % (1 << 32) - (1 << 31)

    def sees(self, xid: int) -> bool:
        """Whether a committed transaction (64 bits) is in the snapshot."""
        return xid < self.next and xid not in self.running


@contextmanager
def viewing(conn: Connection) -> Iterator[View]:
    """A read-only transaction under one snapshot, with what it sees.

    Raises:
        psycopg.Error: also `LockNotAvailable` and `QueryCanceled` of what is read in it.
    """
    conn.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; {_PATIENCE}")
    try:
        row = conn.execute("SELECT pg_current_snapshot()::text").fetchone()
        assert row is not None
        yield View.parse(row[0])
    finally:
        if not conn.closed:
            conn.execute("ROLLBACK")


class Part(NamedTuple):
    """Rows of a table whose key is above `after` and not above `upto` (None: no bound).

    Without columns to read by, the bounds are places of rows (`ctid`), which hold under one snapshot only.
    """

    after: KeyTexts | None = None
    upto: KeyTexts | None = None


def read_part(
    conn: Connection,
    table: Published,
    relation: Relation,
    order: Sequence[str],
    part: Part,
    *,
    condition: str = "",
    limit: int | None = None,
    last: bool = False,
) -> list[TextRow]:
    """Rows of a part in the order of `order`, columns in the relation's order.

    Args:
        conn: to the store.
        table: with the publication's row filter.
        relation: its columns.
        order: columns to read by; empty: no order.
        part: its bounds are texts of the columns in `order`, or of `ctid`.
        condition: further SQL that rows must meet.
        limit: most rows, None for all.
        last: only the row with the greatest key.

    Raises:
        psycopg.Error, ConnectionError: as the store says.
    """
    return list(copied_rows(conn, part_query(table, relation, order, part, condition, 1 if last else limit, last)))


def part_query(
    table: Published,
    relation: Relation,
    order: Sequence[str],
    part: Part = Part(),  # noqa: B008 - immutable
    condition: str = "",
    limit: int | None = None,
    descending: bool = False,
) -> sql.Composed:
    """The SELECT of `read_part`."""
    if table.select is not None:
        return _selecting(table.select, relation)
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in relation.columns)
    conditions: list[sql.Composable] = [sql.SQL(f"({text})") for text in (table.row_filter, condition) if text]
    conditions += _bounds(sql.SQL(", ").join(map(sql.Identifier, order or ("ctid",))), part)
    where = sql.SQL(" WHERE ") + sql.SQL(" AND ").join(conditions) if conditions else sql.SQL("")
    direction = sql.SQL(" DESC" if descending else "")
    by = sql.SQL(", ").join(sql.Identifier(name) + direction for name in order)
    return sql.SQL("SELECT {} FROM {}{}{}{}").format(
        columns,
        sql.Identifier(table.schema, table.name),
        where,
        sql.SQL(" ORDER BY ") + by if order else sql.SQL(""),
        sql.SQL("") if limit is None else sql.SQL(" LIMIT {}").format(sql.Literal(limit)),
    )


def _selecting(select: str, relation: Relation) -> sql.Composed:
    """The rows that a person's SELECT gives, in its order, as the table's: by the columns' names, as their types."""
    columns = [
        sql.SQL("q.{}::{}").format(sql.Identifier(column.name), sql.Identifier(column.type.schema, column.type.name))
        for column in relation.columns
    ]
    return sql.SQL("SELECT {} FROM ({}\n) q").format(sql.SQL(", ").join(columns), sql.SQL(select))


def read_row(conn: Connection, relation: Relation, key: KeyTexts) -> TextRow | None:
    """The row with this key as it is now; None: there is none. Raises as `read_part`."""
    names = sql.SQL(", ").join(map(sql.Identifier, relation.key))
    texts = sql.SQL(", ").join(map(sql.Literal, key))
    condition = sql.SQL("({}) = ({})").format(names, texts).as_string(conn)
    table = Published(relation.oid, relation.schema, relation.name)
    rows = read_part(conn, table, relation, (), Part(), condition=condition, limit=1)
    return rows[0] if rows else None


def _bounds(key: sql.Composable, part: Part) -> list[sql.Composable]:
    return [
        sql.SQL("({}) {} ({})").format(key, sql.SQL(sign), sql.SQL(", ").join(map(sql.Literal, bound)))
        for sign, bound in ((">", part.after), ("<=", part.upto))
        if bound is not None
    ]


def estimated_rows(conn: Connection, oid: int) -> int | None:
    """How many rows a table has, roughly; None: nobody knows, it was never analysed."""
    row = conn.execute(
        "SELECT sum(CASE WHEN c.reltuples < 0 THEN NULL ELSE c.reltuples END)::bigint,"
        " bool_or(c.reltuples < 0 AND pg_relation_size(c.oid) > 0)"
        " FROM pg_partition_tree(%(oid)s::oid::regclass) t JOIN pg_class c ON c.oid = t.relid WHERE t.isleaf"
        " UNION ALL SELECT c.reltuples::bigint, c.reltuples < 0 FROM pg_class c WHERE c.oid = %(oid)s"
        "  AND c.relkind = 'r' AND NOT c.relispartition",
        {"oid": oid},
    ).fetchall()
    known = [rows for rows, unknown in row if not unknown and rows is not None]
    return max(known) if known else None


class KeyOrder:
    """Compares keys as the store does: by itself where texts tell enough, else by asking the store.

    Asking touches no table: it would wait behind whoever alters it.

    Args:
        conn: to the store, outside any transaction.
        relation: the table.
        order: the key's columns.

    Raises:
        psycopg.Error: of the store.
    """

    _NUMBERS: Final = frozenset({"int2", "int4", "int8", "oid"})

    def __init__(self, conn: Connection, relation: Relation, order: Sequence[str]) -> None:
        self._conn = conn
        columns = {column.name: column for column in relation.columns}
        types = [columns[name].type for name in order]
        self._numeric = all(each.schema == "pg_catalog" and each.name in self._NUMBERS for each in types)
        self._row = sql.SQL(", ").join(sql.SQL("q.") + sql.Identifier(name) for name in order)
        collations = {} if self._numeric else _collations(conn, relation.oid)
        self._typed = [
            (sql.SQL("::" + columns[name].sql_type + collations.get(name, "") + " AS "), sql.Identifier(name))
            for name in order
        ]

    def within(self, key: KeyTexts, part: Part) -> bool:
        """Whether a key lies in a part.

        Raises:
            psycopg.Error: a type is not what it was.
        """
        if part.after is None and part.upto is None:
            return True
        if self._numeric:
            number = [int(text) for text in key]
            return (part.after is None or number > [int(text) for text in part.after]) and (
                part.upto is None or number <= [int(text) for text in part.upto]
            )
        given = [sql.Literal(text) + typed + name for (typed, name), text in zip(self._typed, key, strict=True)]
        query = sql.SQL("SELECT {} FROM (SELECT {}) q").format(
            sql.SQL(" AND ").join(_bounds(self._row, part)), sql.SQL(", ").join(given)
        )
        row = self._conn.execute(query).fetchone()
        return row is not None and row[0] is True


def _collations(conn: Connection, oid: int) -> dict[str, str]:
    """Per column that has one of its own, its COLLATE clause."""
    rows = conn.execute(
        "SELECT a.attname::text, format(' COLLATE %%I.%%I', n.nspname, c.collname) FROM pg_attribute a"
        " JOIN pg_collation c ON c.oid = a.attcollation JOIN pg_namespace n ON n.oid = c.collnamespace"
        " WHERE a.attrelid = %s AND a.attnum > 0 AND c.collname <> 'default'",
        (oid,),
    )
    return dict(rows.fetchall())


def committing(conn: Connection, xids: Iterable[int]) -> set[int]:
    """Those of the running transactions (64 bits) that may have written their commit already.

    One that waits for its client has not; of any other nobody can say.
    """
    wanted = list(xids)
    if not wanted:
        return set()
    rows = conn.execute(
        "SELECT backend_xid::text::bigint FROM pg_stat_activity"
        " WHERE backend_xid::text = ANY(%s) AND state = 'idle in transaction'",
        ([str(xid % (1 << 32)) for xid in wanted],),
    ).fetchall()
    idle = {row[0] for row in rows}
    return {xid for xid in wanted if xid % (1 << 32) not in idle}
