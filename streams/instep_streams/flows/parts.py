"""Intermediate keyed results, kept: a part's table equals its SELECT on the replica, but for keys noted as dirty.

While some are, the flow is evaluated by its own text instead. Either way the keys of the flow are found by the same
walks: from the part's changed (or dirty) keys on, as if the part were a captured table.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from psycopg import Connection

from instep.errors import FlowError
from instep_streams.flows.catalog import GIVEN, query, quote
from instep_streams.flows.check import check
from instep_streams.flows.compile import Plan
from instep_streams.flows.dirty import Dirty
from instep_streams.flows.evaluate import EVALUATION_ERRORS, Evaluation
from instep_streams.flows.images import Anchor, Wanted
from instep_streams.flows.intermediate import Part, Split, split
from instep_streams.flows.session import LOOKUPS, SCANS
from instep_streams.flows.tables import Tables

_STORAGE: Final = "WITH (fillfactor = 75, autovacuum_vacuum_scale_factor = 0.1)"
_ROW: Final = quote("*instep*")
_KEYS: Final = quote("*keys*")

log = logging.getLogger(__name__)


class KeptPart:
    """One part's table and its dirty keys.

    Args:
        conn: the pinned session; the caller begins and ends transactions.
        part: as compiled.

    Attributes:
        name: stands for it among the flows whose dirty keys are collected.
        waiting: keys may be written down as dirty: its table must not be read.
    """

    def __init__(self, conn: Connection[Any], part: Part) -> None:
        self._conn, self.part = conn, part
        self.name = part.plan.flow.name
        self._keys = part.plan.anchor
        self._types = {column.name: column.type for column in part.columns}
        self._dirty = Dirty(conn, f"{quote(part.table.schema)}.{quote(part.table.name + '_dirty')}")
        self._refresh = query(self._refresh_sql())
        self.waiting = True

    @property
    def statement(self) -> bytes:
        """The statement that brings some keys up to date, as psycopg takes it."""
        return self._refresh

    def create(self) -> None:
        """Make its table and fill it, in place of an older one."""
        table, keys = self.part.table.sql, ", ".join(map(quote, self._keys))
        self.drop()
        self._conn.execute(f"CREATE TABLE {table} {_STORAGE} AS {self.part.plan.sql} WITH NO DATA".encode())
        self._dirty.create()
        self._conn.execute("".join(f"SET LOCAL {name} = {value};" for name, value in SCANS.items()))
        named = " AND ".join(f"q.{quote(name)} IS NOT NULL" for name in self._keys)
        self._conn.execute(f"INSERT INTO {table} SELECT * FROM (\n{self.part.plan.sql}\n) AS q WHERE {named}".encode())
        self._conn.execute("".join(f"SET LOCAL {name} = {LOOKUPS[name]};" for name in SCANS))
        self._conn.execute(f"CREATE INDEX ON {table} ({keys}); ANALYZE {table}".encode())

    def drop(self) -> None:
        """Drop what it has in the state database."""
        self._conn.execute(f"DROP TABLE IF EXISTS {self.part.table.sql}, {self._dirty.table}".encode())

    def apply(self, anchors: Iterable[Anchor], most: int) -> Sequence[Anchor]:
        """Bring some dirty keys up to date, or write them down when there are more than `most`.

        Returns:
            The keys whose rows have changed, or may have.

        Raises:
            psycopg.DataError: the SELECT fails for the data of one of these keys.
        """
        listed = sorted(anchors)
        if not self.waiting and len(listed) <= most:
            return self._bring_up(listed)
        # while its table is behind, "unchanged" would be said of what documents have moved on from
        self._dirty.add(listed)
        self.waiting = True
        return listed

    def slice(self, count: int) -> None:
        """Bring some of the keys up to date that were written down; sets `waiting` False when none is left."""
        anchors, all_taken = self._dirty.take(count)
        if anchors:
            self._bring_up(sorted(anchors))
        self.waiting = not all_taken

    def _bring_up(self, anchors: Sequence[Anchor]) -> list[Anchor]:
        values = [list(column) for column in zip(*anchors, strict=True)]
        return self._conn.execute(self._refresh, values, prepare=True).fetchall()

    def _refresh_sql(self) -> str:
        """Compares the rows of the given keys with those held, by their text, and replaces them where they differ."""
        count = range(len(self._keys))
        typed = ", ".join(f'c{i}::{self._types[name]} AS "*k{i}"' for i, name in enumerate(self._keys))
        given, names = ", ".join(f"{GIVEN}::text[]" for _ in count), ", ".join(f"c{i}" for i in count)
        keys = ", ".join(f'"*k{i}"' for i in count)
        of_row = " AND ".join(f'q.{quote(name)} = k."*k{i}"' for i, name in enumerate(self._keys))
        held = " AND ".join(f'p.{quote(name)} = k."*k{i}"' for i, name in enumerate(self._keys))
        of_part = " AND ".join(f'p.{quote(name)} = ch."*k{i}"' for i, name in enumerate(self._keys))
        of_new = " AND ".join(f'n."*k{i}" = ch."*k{i}"' for i in count)
        columns = ", ".join(quote(column.name) for column in self.part.columns)
        table = self.part.table.sql
        texts = ", ".join(f'(ch."*k{i}")::text' for i in count)
        wanted = f"SELECT DISTINCT {typed} FROM unnest({given}) AS u({names}) ORDER BY {keys}"
        return f"""WITH {_KEYS} AS MATERIALIZED ({wanted}),
n AS MATERIALIZED (SELECT k.*, {_ROW}.* FROM {_KEYS} AS k CROSS JOIN
  LATERAL (SELECT * FROM (\n{self.part.plan.sql}\n) AS q WHERE {of_row} OFFSET 0) AS {_ROW}),
o AS MATERIALIZED (SELECT k.*, p.* FROM {_KEYS} AS k CROSS JOIN
  LATERAL (SELECT * FROM {table} p WHERE {held} OFFSET 0) AS p),
ch AS MATERIALIZED (SELECT k.* FROM {_KEYS} AS k
  LEFT JOIN (SELECT {keys}, array_agg(ROW({columns})::text ORDER BY ROW({columns})::text COLLATE "C") AS rows FROM n
    GROUP BY {keys}) AS a USING ({keys})
  LEFT JOIN (SELECT {keys}, array_agg(ROW({columns})::text ORDER BY ROW({columns})::text COLLATE "C") AS rows FROM o
    GROUP BY {keys}) AS b USING ({keys})
  WHERE a.rows IS DISTINCT FROM b.rows),
del AS (DELETE FROM {table} p USING ch WHERE {of_part}),
ins AS (INSERT INTO {table} ({columns}) SELECT {columns} FROM n WHERE EXISTS (SELECT FROM ch WHERE {of_new}))
SELECT {texts} FROM ch"""


class Parts:
    """The parts of one flow.

    Attributes:
        plan: the flow's SELECT over the parts' tables.
    """

    def __init__(self, conn: Connection[Any], found: Split) -> None:
        self.plan = found.plan
        self._kept = {each.name: each for each in (KeptPart(conn, part) for part in found.parts)}

    @property
    def kept(self) -> Sequence[KeptPart]:
        """Each of them."""
        return list(self._kept.values())

    @property
    def waiting(self) -> bool:
        """Some part is behind: the flow's own text must be evaluated."""
        return any(each.waiting for each in self._kept.values())

    def wanted(self) -> Iterable[tuple[str, Wanted]]:
        """What changes of captured tables the parts must know of."""
        for name, each in self._kept.items():
            plan = each.part.plan
            for table, walks in plan.walks.items():
                yield table, Wanted(name, plan.needed[table], walks)

    def apply(
        self, dirty: dict[str, list[set[Anchor]]], most: int,
        lookup: Callable[[str, Sequence[Sequence[str]]], list[Anchor]],
    ) -> Iterable[set[Anchor]]:  # fmt: skip
        """Take the parts' dirty keys out of `dirty`, bring the parts up to date; gives the flow's anchors they lead to.

        Args:
            dirty: dirty keys of flows and parts.
            most: more keys of a part than these are written down instead.
            lookup: runs a walk's SQL with one list of texts per image column.
        """
        for name, each in self._kept.items():
            anchors = set().union(*dirty.pop(name, ()))
            changed = each.apply(anchors, most) if anchors else ()
            for walk in self.plan.walks.get(each.part.table.id, ()) if changed else ():
                at = [each.part.plan.anchor.index(image) for image in each.part.named(walk.image)]
                values = {tuple(anchor[i] for i in at) for anchor in changed}
                if walk.sql is None:
                    yield values
                else:
                    found = lookup(walk.sql, [list(column) for column in zip(*values, strict=True)])
                    yield {row for row in found if None not in row}

    def slice(self, count: int) -> None:
        """One slice of what was written down, of the first part that waits."""
        next(each for each in self._kept.values() if each.waiting).slice(count)

    def look_again(self) -> None:
        """A step was rolled back, or this is a new session: keys may be written down."""
        for each in self._kept.values():
            each.waiting = True


def keep(conn: Connection[Any], tables: Tables, flow: Evaluation) -> Parts | None:
    """The parts of a flow, made anew where they are not those held; None where the flow does without."""
    plan, columns, number = flow.plan, flow.columns, flow.number
    found = split(plan, columns, tables.captured, lambda each: check(conn, each), f"part_{number}")
    version = "" if found is None else _version(found, tables)
    row = conn.execute("SELECT parts FROM instep.flows WHERE id = %s", (number,)).fetchone()
    held = row[0] if row is not None else ""
    if found is None:
        return None
    parts = Parts(conn, found)
    if held == version:
        return parts
    if held == f"off {version}":
        return None
    try:
        with conn.transaction():
            for each in parts.kept:
                each.create()
            if check(conn, found.plan) != columns:
                raise FlowError("SHAPE", "the output is another")
            _note(conn, number, version)
    except EVALUATION_ERRORS as exc:
        log.info("flow %s is evaluated without intermediate results: %s", plan.flow.name, exc)
        switch_off(conn, number, version)
        return None
    return parts


def use(evaluation: Evaluation, parts: Parts | None) -> None:
    """Evaluate a flow over its parts, where it has some, whenever none is behind."""
    if parts is None:
        evaluation.use(None, lambda: False)
    else:
        evaluation.use(parts.plan, lambda: not parts.waiting)


def wanted_by(plans: Mapping[str, Plan], parts: Mapping[str, Parts]) -> dict[str, list[Wanted]]:
    """What flows and their parts want to know of changes, per table id; parts' own tables among them."""
    found: dict[str, list[Wanted]] = {}
    for name, own in plans.items():
        plan = parts[name].plan if name in parts else own
        for table, walks in plan.walks.items():
            found.setdefault(table, []).append(Wanted(name, plan.needed[table], walks))
    for each in parts.values():
        for table, wanted in each.wanted():
            found.setdefault(table, []).append(wanted)
    return found


def switch_off(conn: Connection[Any], number: int, version: str = "") -> None:
    """A flow does without its parts from now on."""
    held = conn.execute("SELECT parts FROM instep.flows WHERE id = %s", (number,)).fetchone()
    known = version or (str(held[0]) if held is not None else "")
    _note(conn, number, f"off {known}")


def _note(conn: Connection[Any], number: int, text: str) -> None:
    conn.execute("UPDATE instep.flows SET parts = %s WHERE id = %s", (text, number))


def _version(found: Split, tables: Mapping[str, Any]) -> str:
    """Changes with the SELECTs and with the definitions of what they read."""
    told = [found.plan.sql]
    for part in found.parts:
        told += [part.plan.sql, *part.plan.anchor, *(f"{each.name} {each.type}" for each in part.columns)]
        told += [f"{table} {name} {tables[table].type_of(name)}" for table, n in part.plan.needed.items() for name in n]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:16]
