"""Evaluate a flow's own SELECT for some keys, compare with what was last emitted, keep what is new: one statement."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, Final, NamedTuple, TypeVar

import psycopg
from psycopg import Connection

from instep.errors import FlowError
from instep.protocols import Key
from instep_schemas.documents import DocumentColumn
from instep_streams.flows.catalog import GIVEN, query, quote
from instep_streams.flows.compile import Plan
from instep_streams.flows.dirty import ALL, Dirty
from instep_streams.flows.images import Anchor
from instep_streams.flows.layout import Share
from instep_streams.flows.refusals import refuse
from instep_streams.flows.session import LOOKUPS, SCANS
from instep_streams.flows.statements import anchors_sql, key_texts, lookup_sql, whole_sql

Found = TypeVar("Found")

_MANY: Final = 100_000
_LARGE_PART: Final = 0.1
"""Above both, the SELECT is run once for all keys, in one step: a sixth of the work of slices, but others wait."""

_NEVER_SENT: Final = 0
"""A digest that no document has: a key's next document, or its end, is news whatever it is."""
_STORAGE: Final = "WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.1)"


EVALUATION_ERRORS: Final = (
    FlowError, psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError,
    psycopg.errors.ProgramLimitExceeded,
)  # fmt: skip
"""The SELECT's own faults on some data: division by zero, a text that is no number, a key not unique or too long."""


class FlowFault(Exception):
    """A flow's SELECT failed within a step of several flows; the step is done again without it.

    Attributes:
        of_part: it was the SELECT of an intermediate result.
    """

    def __init__(self, flow: str, error: Exception, *, of_part: bool = False) -> None:
        super().__init__(flow)
        self.flow, self.of_part = flow, of_part
        self.error = (str(error).splitlines() or [""])[0]


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

    Attributes:
        dirty: what was put off.
    """

    def __init__(self, conn: Connection[Any], plan: Plan, columns: Sequence[DocumentColumn], number: int) -> None:
        self._conn = conn
        self.plan, self.number = plan, number
        self.columns = tuple(columns)
        self._types = {column.name: column.type for column in columns}
        self._out, self._pending = f"instep.out_{number}", f"instep.pending_{number}"
        self.dirty = Dirty(conn, f"instep.dirty_{number}")
        self._single = sorted(plan.anchor) == sorted(plan.flow.key)
        self._own = self._lookup = lookup_sql(plan, self._types, self._out)
        self._ready: Callable[[], bool] = lambda: False
        self.share = Share()
        self._has_pending = True
        self._again = True
        self.waiting = True
        self.fault: Exception | None = None

    @property
    def statement(self) -> bytes:
        """The statement that evaluates some anchors by the user's own text, as psycopg takes it."""
        return self._own

    def use(self, plan: Plan | None, ready: Callable[[], bool]) -> None:
        """Evaluate this plan, which gives the same documents, whenever it is ready; None: never."""
        self._lookup = self._own if plan is None else lookup_sql(plan, self._types, self._out)
        self._ready = ready

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
                f"CREATE TABLE {self._pending} ({keys}, \"*doc\" text, \"*h\" bigint, {primary})".encode()
            )  # fmt: skip
            self.dirty.create()
        except psycopg.errors.UndefinedObject as exc:
            message = (exc.diag.message_primary or "").rstrip(".")
            raise refuse("KEY", f"Flow {self.plan.flow.name}: the key", message) from None

    def evaluate(self, anchors: Sequence[Anchor], batch: int) -> list[Emitted]:
        """The documents of some anchors that differ from what was last emitted.

        Raises:
            FlowError: KEY_NOT_UNIQUE.
            psycopg.DataError: the SELECT fails for the data of one of these keys.
        """
        anchors = [each for each in anchors if self.share.has(each)] if self.share.of > 1 else anchors
        if not anchors:
            return []
        values = [list(column) for column in zip(*anchors, strict=True)]
        if self._has_pending:
            self._conn.execute(query(self._forget_pending()), values)
        numbers = [batch] * (2 if self._single else 3)
        try:
            lookup = self._lookup if self._ready() else self._own
            rows = self._conn.execute(lookup, [*values, *numbers], prepare=True).fetchall()
        except psycopg.errors.UniqueViolation:
            raise self._not_unique() from None
        except psycopg.errors.CardinalityViolation as exc:  # also of a scalar subquery of the SELECT's own
            if "MERGE" in (exc.diag.message_primary or ""):
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
        self._conn.execute(f"TRUNCATE {self._pending}")
        self.dirty.clear()
        self._conn.execute("".join(f"SET LOCAL {name} = {value};" for name, value in SCANS.items()))
        try:
            self._conn.execute(whole_sql(self.plan, self._out, self._pending, self.share))
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
SELECT {key_texts(self.plan.flow.key, "p")}, "*doc", "*h", false FROM p"""
        rows = self._conn.execute(query(sql), (count, batch)).fetchall()
        self._has_pending = len(rows) == count
        if rows and not self._has_pending:  # or a plan from when it was empty would read all of it for each batch
            self._conn.execute(f"ANALYZE {self._out}")
        return [self._emitted(row, batch) for row in rows]

    def put_off(self, anchors: Iterable[Anchor]) -> None:
        """Keep dirty anchors for later slices."""
        self.dirty.add(anchors)
        self.waiting = True

    def put_off_all(self) -> None:
        """Make every anchor dirty: those of the key's tables and those that were emitted."""
        sources = [f'SELECT {_anchor_array(anchor)} FROM {table} AS "r"' for table, anchor in self.plan.roots]
        own = _anchor_array([f"o.{quote(name)}" for name in self.plan.anchor])
        sources.append(f'SELECT {own} FROM {self._out} o WHERE "*h" IS NOT NULL')
        self.dirty.clear()
        self.dirty.add_selected(
            f"SELECT a FROM ({' UNION '.join(sources)}) AS u(a) WHERE array_position(a, NULL) IS NULL"
        )
        self.waiting = True

    def emitted_estimate(self) -> int:
        """Roughly how many keys have been emitted, from the planner's statistics."""
        row = self._conn.execute("SELECT reltuples FROM pg_class WHERE oid = %s::regclass", (self._out,)).fetchone()
        return max(0, int(row[0])) if row else 0

    def is_many(self, anchors: Sized) -> bool:
        """Whether it is better to look at all keys than at these."""
        return len(anchors) > _MANY and len(anchors) > _LARGE_PART * self.emitted_estimate()

    @property
    def seeding(self) -> bool:
        """Whether the next slice is of a whole evaluation."""
        return self._has_pending

    def look_again(self) -> None:
        """A step was rolled back: what was put off may still be there."""
        self._has_pending = self._again = self.waiting = True

    @property
    def failing(self) -> bool:
        """Whether keys are put off because their evaluation failed."""
        return self.dirty.failing

    def slice(self, count: int, batch: int) -> list[Emitted]:
        """Work on what was put off: at most so many keys; sets `waiting` False when nothing is left.

        A key whose evaluation fails is put aside and its error kept in `fault`; the others are not held up by it. It is
        tried again by the first slice that finds nothing else waiting.
        """
        self.fault = None
        if self._has_pending:
            found = self.next_pending(count, batch)
            if found:
                return found
        if (self._again or not self.waiting) and self.dirty.bound == ALL:  # else with the next release
            self.dirty.retry()
            self._again = False
        anchors, all_taken = self.dirty.take(count)
        self.waiting = not all_taken
        return self._isolating(sorted(anchors), lambda some: self.evaluate(some, batch))

    def _isolating(
        self, anchors: Sequence[Anchor], work: Callable[[Sequence[Anchor]], list[Found]]
    ) -> list[Found]:  # fmt: skip
        """Work on keys by halves until only those that fail are left; they are put aside."""
        try:
            with self._conn.transaction():
                return work(anchors)
        except EVALUATION_ERRORS as exc:
            if len(anchors) == 1:
                with self._conn.transaction():
                    self.dirty.add(anchors, failed=True)
                self.fault = exc
                return []
        half = len(anchors) // 2
        return self._isolating(anchors[:half], work) + self._isolating(anchors[half:], work)

    def unsent(self, marker: int) -> list[Emitted]:
        """What was committed after the batch of the last marker, from the state as it is now.

        A key that cannot be evaluated now is put aside; it comes out as soon as it can.
        """
        self.fault = None
        keys = self.plan.flow.key
        sql = f'SELECT {key_texts(keys, "o")}, "*h", "*batch" FROM {self._out} o WHERE "*batch" > {GIVEN}'
        rows = self._conn.execute(query(sql), (marker,)).fetchall()
        if not rows:
            return []
        gone = [Emitted(self.plan.flow.name, tuple(row[:-2]), None, "", row[-1]) for row in rows if row[-2] is None]
        batches = {tuple(row[:-2]): row[-1] for row in rows if row[-2] is not None}
        at = [keys.index(name) for name in self.plan.anchor]
        anchors = {tuple(key[i] for i in at) for key in batches}
        found = self._isolating(sorted(anchors), self._documents) if anchors else []
        live = [row for row in found if tuple(row[:-2]) in batches]
        self._sent_instead({**dict.fromkeys(batches, _NEVER_SENT), **{tuple(row[:-2]): row[-1] for row in live}})
        return gone + [self._emitted((*row, False), batches[tuple(row[:-2])]) for row in live]

    def _sent_instead(self, digests: Mapping[Key, int]) -> None:
        """Keep what goes out late: a dirty key's document is newer than the one that was not sent, or there is none."""
        names = self.plan.flow.key
        given = ", ".join(f"{GIVEN}::text[]" for _ in names)
        columns = ", ".join(f"c{i}" for i in range(len(names)))
        match = " AND ".join(f"o.{quote(name)} = u.c{i}::{self._types[name]}" for i, name in enumerate(names))
        self._conn.execute(
            query(
                f'UPDATE {self._out} o SET "*h" = u.h FROM unnest({given}, {GIVEN}::int8[]) AS u({columns}, h)'
                f' WHERE {match} AND o."*h" <> u.h'
            ),
            [*([key[i] for key in digests] for i in range(len(names))), list(digests.values())],
        )

    def _documents(self, anchors: Sequence[Anchor]) -> list[tuple[Any, ...]]:
        values = [list(column) for column in zip(*anchors, strict=True)]
        return self._conn.execute(query(anchors_sql(self.plan, self._types)), values).fetchall()

    def tell(self, fault: str) -> None:
        """Let people see why some keys cannot be evaluated; empty when all can."""
        self._conn.execute("UPDATE instep.flows SET fault = %s WHERE id = %s", (fault, self.number))

    def forget_tombstones(self, marker: int) -> None:
        """Forget keys whose tombstone has been published."""
        self._conn.execute(f'DELETE FROM {self._out} WHERE "*h" IS NULL AND "*batch" <= %s', (marker,))

    def adopt(self, keys: Iterable[tuple[Key, str]]) -> None:
        """Take keys and digests that stand in the flow topic as what was emitted, in place of what is held."""
        at = [self.plan.flow.key.index(name) for name in self.plan.anchor]
        rows = [(key, digest) for key, digest in keys if self.share.has([key[i] for i in at])]
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
        match = " AND ".join(
            f"p.{quote(name)} = u.c{i}::{self._types[name]}" for i, name in enumerate(self.plan.anchor)
        )
        given = ", ".join(f"{GIVEN}::text[]" for _ in self.plan.anchor)
        columns = ", ".join(f"c{i}" for i in range(len(self.plan.anchor)))
        return f"DELETE FROM {self._pending} p USING unnest({given}) AS u({columns}) WHERE {match}"

    def _emitted(self, row: tuple[Any, ...], batch: int) -> Emitted:
        document = row[-3]
        digest = "" if document is None else f"{row[-2] & 0xFFFFFFFFFFFFFFFF:016x}"
        return Emitted(self.plan.flow.name, row[:-3], document, digest, batch)

    def _not_unique(self) -> FlowError:
        return refuse("KEY_NOT_UNIQUE", f"Flow {self.plan.flow.name}, key ({', '.join(self.plan.flow.key)})")


def _anchor_array(expressions: Sequence[str]) -> str:
    return f"ARRAY[{', '.join(f'({each})::text' for each in expressions)}]"


def _signed(digest: str) -> int | None:
    if not digest:
        return None
    number = int(digest, 16)
    return number - (1 << 64) if number >> 63 else number
