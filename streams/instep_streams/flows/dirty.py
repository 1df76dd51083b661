"""Keys that are written down as dirty, to be evaluated later: in rows of some hundred keys each.

A row per key would cost as much to write as the key costs to evaluate, and the step that writes holds up all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from psycopg import Connection

from instep_streams.flows.images import Anchor

COLUMNS: Final = (
    "(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, anchors json NOT NULL, keys int NOT NULL,"
    " failed boolean NOT NULL DEFAULT false)"
)
_ROW: Final = 100
ALL: Final = (1 << 63) - 1
"""A bound that no row is above."""
_STORAGE: Final = "WITH (autovacuum_vacuum_scale_factor = 0.1)"


class Dirty:
    """A table of dirty keys; a key may be in it more than once.

    Args:
        conn: the pinned session; the caller begins and ends transactions.
        table: its quoted, qualified name.

    Attributes:
        bound: rows above it are not taken: they wait for their flow's time.
    """

    def __init__(self, conn: Connection[Any], table: str) -> None:
        self._conn, self.table = conn, table
        self.bound = ALL

    def create(self) -> None:
        """Create the table."""
        self._conn.execute(f"CREATE TABLE {self.table} {COLUMNS} {_STORAGE}".encode())

    def clear(self) -> None:
        """Forget all."""
        self._conn.execute(f"TRUNCATE {self.table}".encode())

    def add(self, anchors: Iterable[Anchor], *, failed: bool = False) -> None:
        """Write keys down; those that failed are left alone until `retry`."""
        listed = list(anchors)
        parts = [listed[at : at + _ROW] for at in range(0, len(listed), _ROW)]
        sql = (
            f"INSERT INTO {self.table} (anchors, keys, failed) SELECT a::json, n, %s"
            " FROM unnest(%s::text[], %s::int[]) AS u(a, n)"
        )
        # JSON, which Python writes fast: a change of many keys must not hold up others while it is only noted
        self._conn.execute(sql.encode(), (failed, [json.dumps(each) for each in parts], [len(each) for each in parts]))

    def add_selected(self, query: str) -> None:
        """Write down what a query gives: one column of text[]."""
        numbered = f"SELECT a, (row_number() OVER () - 1) / {_ROW} AS n FROM ({query}) AS u(a)"
        grouped = f"SELECT json_agg(a), count(*) FROM ({numbered}) AS g GROUP BY n"
        self._conn.execute(f"INSERT INTO {self.table} (anchors, keys) {grouped}".encode())

    def take(self, count: int) -> tuple[set[Anchor], bool]:
        """Take out about so many keys that have not failed, oldest first; and whether that was all."""
        oldest = (
            f"SELECT id, sum(keys) OVER (ORDER BY id) - keys AS before FROM"
            f" (SELECT id, keys FROM {self.table} WHERE NOT failed AND id <= %s ORDER BY id LIMIT %s) AS t"
        )
        some = f"id = ANY(ARRAY(SELECT id FROM ({oldest}) AS o WHERE before < %s))"
        rows = self._conn.execute(
            f"DELETE FROM {self.table} WHERE {some} RETURNING anchors".encode(), (self.bound, count, count)
        ).fetchall()
        found = [tuple(anchor) for (anchors,) in rows for anchor in anchors]
        return set(found), len(found) < count

    def last(self) -> int:
        """The highest row, 0 when there is none."""
        row = self._conn.execute(f"SELECT coalesce(max(id), 0) FROM {self.table}".encode()).fetchone()
        return int(row[0]) if row else 0

    def above(self) -> int:
        """How many keys wait above the bound."""
        sql = f"SELECT coalesce(sum(keys), 0) FROM {self.table} WHERE id > %s"
        row = self._conn.execute(sql.encode(), (self.bound,)).fetchone()
        return int(row[0]) if row else 0

    def forget_above(self) -> None:
        """Forget what waits above the bound."""
        self._conn.execute(f"DELETE FROM {self.table} WHERE id > %s".encode(), (self.bound,))

    def retry(self) -> None:
        """Let those that failed be taken again."""
        self._conn.execute(f"UPDATE {self.table} SET failed = false WHERE failed".encode())

    @property
    def failing(self) -> bool:
        """Whether some have failed."""
        return self._conn.execute(f"SELECT EXISTS (SELECT FROM {self.table} WHERE failed)".encode()).fetchone() == (
            True,
        )
