"""Read whole tables as of a slot's exported snapshot, by COPY.

COPY is read as it arrives: however large a table is, only what the socket holds is in memory, and a reader that stops
reading stops the server. The same output functions make the text as in the stream, under the same pinned settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import pq, sql
from psycopg.errors import UndefinedObject, error_from_result

from instep.relation import Relation
from instep_connectors.postgres.catalog import Catalog
from instep_connectors.postgres.publication import Published
from instep_connectors.postgres.session import connect, passing

_ESCAPE: Final = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPED: Final = {
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}

TextRow = tuple[bytes | None, ...]


def parse_copy_line(line: bytes) -> TextRow:
    """One line of COPY's text format, newline included, as column texts; None for NULL.

    Raises:
        ValueError: not a whole line.
    """
    if line[-1:] != b"\n":
        raise ValueError("a COPY line without its end")
    fields = line[:-1].split(b"\t")
    if b"\\" not in line:
        return tuple(fields)
    return tuple(
        None if field == b"\\N" else _ESCAPE.sub(_unescape, field) if b"\\" in field else field for field in fields
    )


def _unescape(match: re.Match[bytes]) -> bytes:
    return _ESCAPED.get(match[1], match[1])


def copied_rows(conn: psycopg.Connection[Any], query: sql.Composable) -> Iterator[TextRow]:
    """The rows of a query as texts.

    Raises:
        ConnectionError: lost meanwhile.
    """
    try:
        with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY ({}) TO STDOUT").format(query)) as copy:
            for line in copy:
                yield parse_copy_line(bytes(line))
    except psycopg.Error as exc:
        raise passing(exc) from exc


def _lines(conn: pq.abc.PGconn, command: bytes) -> Iterator[bytes]:
    """What a COPY gives, by libpq's own calls: psycopg's take several times as long as all else that is done to a row.

    A caller that stops in the middle must close the connection.
    """
    result = conn.exec_(command)
    if result.status == pq.ExecStatus.COPY_OUT:
        receive = conn.get_copy_data
        while True:
            size, data = receive(0)
            if size < 0:
                break
            yield bytes(data)
        received = conn.get_result()
        assert received is not None
        result = received
        while conn.get_result() is not None:
            pass
    if result.status == pq.ExecStatus.FATAL_ERROR:
        raise error_from_result(result)


class Snapshot:
    """A transaction pinned to an exported snapshot, its tables locked against a rewrite.

    Args:
        dsn: the user's connection string.
        application: our name in the store.
        exported: the snapshot's identifier.
        tables: everything that will be read.

    Raises:
        psycopg.Error: a table may not be read (`publication.check_readable` asks beforehand).
        ConnectionError: the store or the exported snapshot is gone.
    """

    def __init__(self, dsn: str, application: str, exported: str, tables: Sequence[Published]) -> None:
        self._conn: psycopg.Connection[Any] = connect(dsn, application)
        try:
            self._conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self._conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(exported)))
            for table in tables:
                name = sql.Identifier(table.schema, table.name)
                self._conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(name))
        except UndefinedObject:
            self.close()
            raise ConnectionError("The slot's exported snapshot ended with its connection.") from None
        except psycopg.Error as exc:
            self.close()
            raise passing(exc) from exc
        except BaseException:
            self.close()
            raise

    def next_transaction(self) -> int:
        """The first transaction id that the snapshot does not see, 32 bits."""
        row = self._conn.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        return int(row[0]) & 0xFFFFFFFF

    def relations(self, tables: Sequence[Published], *, primary_first: bool = False) -> dict[int, Relation]:
        """The tables' definitions as of the snapshot, by OID; `primary_first`: see `Catalog`."""
        return Catalog(self._conn, primary_first=primary_first).relations(
            {table.oid: table.columns for table in tables}
        )

    def rows(self, table: Published, relation: Relation) -> Iterator[TextRow]:
        """Every row of a table, columns in the relation's order.

        Raises:
            ConnectionError: lost meanwhile.
        """
        columns = sql.SQL(", ").join(sql.Identifier(c.name) for c in relation.columns)
        where = sql.SQL(" WHERE ") + sql.SQL(table.row_filter) if table.row_filter else sql.SQL("")
        query = sql.SQL("SELECT {} FROM {}{}").format(columns, sql.Identifier(table.schema, table.name), where)
        for row in copied_rows(self._conn, query):
            yield row if relation.columns else ()

    def lines(self, query: sql.Composable) -> Iterator[bytes]:
        """What COPY gives for a query, line by line.

        Raises:
            ConnectionError: lost meanwhile.
        """
        try:
            yield from _lines(self._conn.pgconn, sql.SQL("COPY ({}) TO STDOUT").format(query).as_bytes(self._conn))
        except psycopg.Error as exc:
            raise passing(exc) from exc

    @contextmanager
    def own_path(self) -> Iterator[None]:
        """Names without a schema are looked up as the user's role has it: of the user's own SQL."""
        self._conn.execute("SET LOCAL search_path TO DEFAULT")
        yield
        self._conn.execute("SET LOCAL search_path = pg_catalog")

    def sizes(self, tables: Sequence[Published]) -> dict[int, tuple[int | None, int]]:
        """Per table OID how many rows it has, roughly (None: not known), and its bytes."""
        rows = self._conn.execute(
            "SELECT o, sum(CASE WHEN c.reltuples < 0 THEN NULL ELSE c.reltuples END)::bigint,"
            " sum(pg_table_size(c.oid))::bigint FROM unnest(%s::oid[]) o"
            " JOIN pg_class c ON c.oid = o OR c.oid IN (SELECT t.relid FROM pg_partition_tree(o) t WHERE t.isleaf)"
            " GROUP BY o",
            ([table.oid for table in tables],),
        ).fetchall()
        return {int(oid): (None if count is None else int(count), int(size)) for oid, count, size in rows}

    def blocks(self, table: Published) -> int:
        """How many blocks a table's rows have, without those of long values; 0 for a partitioned table.

        Raises:
            ConnectionError: lost meanwhile.
        """
        try:
            row = self._conn.execute(
                "SELECT pg_relation_size(%s::oid) / current_setting('block_size')::int", (table.oid,)
            ).fetchone()
        except psycopg.Error as exc:
            raise passing(exc) from exc
        assert row is not None
        return int(row[0])

    def close(self) -> None:
        """End the transaction and the connection. Safe to call twice."""
        self._conn.close()
