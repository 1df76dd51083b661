"""The replica: the captured tables as real tables of the state database, shared by all flows of a source.

The position rule: a row keeps the number of the journal entry that brought it; a strictly older one is dropped, an
equal one is applied again. A deleted row leaves its number behind, so that an older copy cannot bring it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from psycopg import Connection

from instep.change import ABSENT, Op, Row, Value
from instep.errors import StateError
from instep_streams.flows.catalog import GIVEN, POSITION, Table, query, quote
from instep_streams.flows.filling import Filling, Positioned
from instep_streams.flows.images import ImageColumns, Images, Wanted
from instep_streams.flows.rows import RowChange, RowKey
from instep_streams.flows.tables import Tables


@dataclass(slots=True)
class _Pending:
    """What is to happen to one row: the last change of it, with absent values filled from those before.

    Attributes:
        position: of the change.
        row: the new row, None when it is deleted.
        last: a deleted row's last values.
        partial: the new row has absent values still.
    """

    position: int
    row: Row | None
    last: Row | None = None
    partial: bool = False


_TableBatch = dict[RowKey, _Pending]


class Replica:
    """Applies changes to the replica's tables, inside the caller's transaction.

    Args:
        conn: the pinned session.
        tables: the tables it holds.
    """

    def __init__(self, conn: Connection[Any], tables: Tables) -> None:
        self._conn = conn
        self._tables = tables
        self._filling = Filling(conn)
        self._wanted: Mapping[str, Sequence[Wanted]] = {}
        self._statements: dict[tuple[str, frozenset[str] | None], str] = {}

    def want(self, wanted: Mapping[str, Sequence[Wanted]]) -> None:
        """Set which images of changed rows the flows need, per table id."""
        self._wanted = wanted
        self._statements.clear()

    def forget_statements(self) -> None:
        """A table has changed: its statements are made anew."""
        self._statements.clear()

    def apply(self, changes: Iterable[Positioned]) -> Images:
        """Apply changes, each with its position, in order; gives the images of the rows that changed.

        Raises:
            StateError: a change without a value for a column whose stored value is missing.
        """
        images = Images(self._wanted)
        batches: dict[str, tuple[Table | None, _TableBatch]] = {}
        for position, change in self._filled(list(changes)):
            name = change.table
            if name not in batches:
                batches[name] = self._tables.get(name), {}
            table, batch = batches[name]
            if table is None:
                continue  # keyless: no flow can read it
            if change.op is Op.TRUNCATE:
                del batches[name]
                self._flush(table, batch, images)
                self._truncate(table, position, images)
            else:
                self._add(table, batch, position, change)
        for table, batch in batches.values():
            if table is not None:
                self._flush(table, batch, images)
        return images

    def _filled(self, changes: list[Positioned]) -> list[Positioned]:
        """Fill tables that no flow reads yet, when all is a snapshot's; gives the changes that are left."""
        if any(change.op is not Op.READ for _, change in changes):
            return changes
        of_table: dict[str, list[Positioned]] = {}
        for each in changes:
            of_table.setdefault(each[1].table, []).append(each)
        left = []
        for name, rows in of_table.items():
            table = None if self._wanted.get(name) else self._tables.get(name)
            if table is None or not self._filling.fill(table, self._tables.gone(name), rows):
                left += rows
        return left

    def _add(self, table: Table, batch: _TableBatch, position: int, change: RowChange) -> None:
        before = batch.get(change.key)
        if before is not None and position < before.position:
            return
        if change.op is Op.DELETE or change.row is None:
            last = before.row or before.last if before is not None else None
            batch[change.key] = _Pending(position, None, last)
            return
        row = change.row
        if row.keys() != table.names:
            row = {column.name: row.get(column.name, column.default) for column in table.columns}
        partial = ABSENT in row.values()
        if partial:
            row = self._filled_in(table, batch, dict(row), before, change.moved_from)
            partial = ABSENT in row.values()
        batch[change.key] = _Pending(position, row, None, partial)

    def _filled_in(
        self, table: Table, batch: _TableBatch, row: dict[str, Value], before: _Pending | None,
        moved_from: RowKey | None,
    ) -> Row:  # fmt: skip
        """Take what the change does not carry from earlier in the batch, or from under the row's old key."""
        origin = before
        if moved_from is not None:
            origin = batch.get(moved_from)
        known = (origin.row or origin.last or {}) if origin is not None else {}
        for name, value in row.items():
            if value is ABSENT:
                row[name] = known.get(name, ABSENT)
        if moved_from is not None and ABSENT in row.values():
            stored = self._stored(table, moved_from)
            for name, value in row.items():
                if value is ABSENT:
                    row[name] = stored[name]
        return row

    def _stored(self, table: Table, key: RowKey) -> dict[str, str | None]:
        names = ", ".join(f"({quote(column.name)})::text" for column in table.columns)
        match = " AND ".join(f"{quote(name)} = {GIVEN}::text::{table.type_of(name)}" for name in table.key)
        found = self._conn.execute(query(f"SELECT {names} FROM {table.sql} WHERE {match}"), key).fetchone()
        if found is None:
            raise _missing(table)
        return dict(zip((column.name for column in table.columns), found, strict=True))

    def _flush(self, table: Table, batch: _TableBatch, images: Images) -> None:
        deleted, complete = [], []
        partial: dict[frozenset[str], list[_Pending]] = {}
        for key, each in batch.items():
            if each.row is None:
                deleted.append((*key, each.position))
            elif each.partial:
                partial.setdefault(frozenset(n for n, v in each.row.items() if v is ABSENT), []).append(each)
            else:
                complete.append(each)
        if deleted:
            self._run(table, None, [list(column) for column in zip(*deleted, strict=True)], images)
        if complete:
            self._upsert(table, frozenset(), complete, images)
        for absent, rows in partial.items():
            self._require_stored(table, rows)
            self._upsert(table, absent, rows, images)

    def _upsert(self, table: Table, absent: frozenset[str], rows: Sequence[_Pending], images: Images) -> None:
        values = [[each.row[c.name] for each in rows if each.row] for c in table.columns if c.name not in absent]
        self._run(table, absent, [*values, [each.position for each in rows]], images)

    def _run(self, table: Table, absent: frozenset[str] | None, values: list[Any], images: Images) -> None:
        sql = self._statements.get((table.id, absent))
        if sql is None:
            wanted = ImageColumns(self._wanted.get(table.id, ()))
            if absent is None:
                sql = delete_sql(table, self._tables.gone(table.id), wanted)
            elif absent:
                sql = update_sql(table, absent, wanted)
            else:
                sql = upsert_sql(table, self._tables.gone(table.id), wanted)
            self._statements[table.id, absent] = sql
        found = self._conn.execute(query(sql), values, prepare=True)
        if found.description is not None:
            images.add(table.id, found.fetchall())

    def _require_stored(self, table: Table, rows: Sequence[_Pending]) -> None:
        keys = [[each.row[name] for each in rows if each.row] for name in table.key]
        positions = [each.position for each in rows]
        gone = self._tables.gone(table.id)
        stored = f"SELECT FROM {table.sql} r WHERE {_same_key(table, 'r', 'd')}"
        newer = f"SELECT FROM {gone} g WHERE {_same_key(table, 'g', 'd')} AND g.{_POS} >= d.{_POS}"
        sql = f"{_given(table, table.key)} SELECT 1 FROM d WHERE NOT EXISTS ({stored}) AND NOT EXISTS ({newer}) LIMIT 1"
        found = self._conn.execute(query(sql), [*keys, positions]).fetchone()
        if found is not None:
            raise _missing(table)

    def _truncate(self, table: Table, position: int, images: Images) -> None:
        wanted = ImageColumns(self._wanted.get(table.id, ()))
        sql = truncate_sql(table, self._tables.gone(table.id), wanted)
        found = self._conn.execute(query(sql), (position, position))
        if wanted:
            images.add(table.id, found.fetchall())


_POS: Final = quote(POSITION)


def _missing(table: Table) -> StateError:
    return StateError(
        f"The replica lacks a row of {table.id} that the store has changed in part.",
        "Rebuild the replica: stop the worker, drop its state database and start it again.",
    )


def _given(table: Table, names: Iterable[str]) -> str:
    """The rows of this statement as a CTE `d`: one text[] parameter per column, then the positions."""
    names = list(names)
    select = ", ".join(f"c{i}::{table.type_of(name)} AS {quote(name)}" for i, name in enumerate(names))
    given = ", ".join(f"{GIVEN}::text[]" for _ in names)
    columns = ", ".join(f"c{i}" for i in range(len(names)))
    return (
        f"WITH d AS MATERIALIZED (SELECT {select}, p AS {_POS}"
        f" FROM unnest({given}, {GIVEN}::int8[]) AS u({columns}, p))"
    )  # fmt: skip


def _same_key(table: Table, left: str, right: str) -> str:
    return " AND ".join(f"{left}.{quote(name)} = {right}.{quote(name)}" for name in table.key)


def upsert_sql(table: Table, gone: str, wanted: ImageColumns) -> str:
    """Insert or replace whole rows by the position rule; returns what `wanted` asks for of the old and new row."""
    names = [column.name for column in table.columns]
    columns = ", ".join(quote(name) for name in [*names, POSITION])
    keys = ", ".join(quote(name) for name in table.key)
    updates = ", ".join(f"{quote(n)} = EXCLUDED.{quote(n)}" for n in [*names, POSITION] if n not in table.key)
    return (
        f"{_given(table, names)}{', ups AS (' if wanted else ' '}"
        f"INSERT INTO {table.sql} AS r ({columns}) SELECT {columns} FROM d"
        f" WHERE NOT EXISTS (SELECT FROM {gone} g WHERE {_same_key(table, 'g', 'd')} AND g.{_POS} > d.{_POS})"
        f" ON CONFLICT ({keys}) DO UPDATE SET {updates} WHERE r.{_POS} <= EXCLUDED.{_POS}{wanted.changed()}"
    )


def update_sql(table: Table, absent: frozenset[str], wanted: ImageColumns) -> str:
    """Update rows of which some columns are not known: those keep their stored value."""
    names = [column.name for column in table.columns if column.name not in absent]
    updates = ", ".join(f"{quote(n)} = d.{quote(n)}" for n in [*names, POSITION] if n not in table.key)
    return (
        f"{_given(table, names)}{', ups AS (' if wanted else ' '}UPDATE {table.sql} AS r SET {updates} FROM d"
        f" WHERE {_same_key(table, 'r', 'd')} AND r.{_POS} <= d.{_POS}{wanted.changed()}"
    )


def delete_sql(table: Table, gone: str, wanted: ImageColumns) -> str:
    """Delete rows and keep their positions."""
    keys = ", ".join(quote(name) for name in table.key)
    return (
        f"{_given(table, table.key)}, gone AS (INSERT INTO {gone} AS g ({keys}, {_POS}) SELECT {keys}, {_POS} FROM d"
        f" ON CONFLICT ({keys}) DO UPDATE SET {_POS} = greatest(g.{_POS}, EXCLUDED.{_POS}))"
        f" DELETE FROM {table.sql} r USING d WHERE {_same_key(table, 'r', 'd')} AND r.{_POS} <= d.{_POS}"
        f"{wanted.returned()}"
    )


def truncate_sql(table: Table, gone: str, wanted: ImageColumns) -> str:
    """Delete every row up to a position (two parameters, both the position)."""
    keys = ", ".join(quote(name) for name in table.key)
    returned = ", ".join(f"r.{quote(name)}" for name in table.key)
    return (
        f"WITH del AS (DELETE FROM {table.sql} r WHERE r.{_POS} <= {GIVEN}"
        f" RETURNING {', '.join([returned, *wanted.of_deleted()])}),"
        f" gone AS (INSERT INTO {gone} AS g ({keys}, {_POS}) SELECT {keys}, {GIVEN} FROM del"
        f" ON CONFLICT ({keys}) DO UPDATE SET {_POS} = greatest(g.{_POS}, EXCLUDED.{_POS}))"
        f" SELECT {', '.join(wanted.names()) or '1'} FROM del"
    )
