"""Images of changed rows: what the flows need of a row before and after, and the keys it leads to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from instep_streams.flows.catalog import quote
from instep_streams.flows.walks import Walk

Anchor = tuple[str, ...]
"""One value of a flow's anchor columns, as PostgreSQL texts."""


class Wanted(NamedTuple):
    """What one flow wants to know of changes of one table.

    Attributes:
        flow: its name.
        columns: a row counts as changed when one of these has changed (in its text, not only by `=`).
        walks: how its images lead to anchors.
    """

    flow: str
    columns: tuple[str, ...]
    walks: tuple[Walk, ...]


class ImageColumns:
    """The columns that a statement on one table returns: per flow whether it matters, then old and new images."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self._wanted = wanted
        self.expressions = list(dict.fromkeys(e for each in wanted for walk in each.walks for e in walk.image))

    def __bool__(self) -> bool:
        return bool(self._wanted)

    def names(self) -> list[str]:
        """Names of the returned columns, in order."""
        count = range(len(self.expressions))
        return [f"f{i}" for i in range(len(self._wanted))] + [f"o{i}" for i in count] + [f"n{i}" for i in count]

    def changed(self) -> str:
        """The rest of an INSERT or UPDATE that stands in a CTE `ups (`: give the rows that matter to some flow."""
        if not self._wanted:
            return ""
        flags = [f"{_differs(each.columns)} AS f{i}" for i, each in enumerate(self._wanted)]
        old = [f"({each.replace(_ROW, 'old.')})::text AS o{i}" for i, each in enumerate(self.expressions)]
        new = [f"({each.replace(_ROW, 'new.')})::text AS n{i}" for i, each in enumerate(self.expressions)]
        matter = " OR ".join(f"f{i}" for i in range(len(flags)))
        return f" RETURNING {', '.join([*flags, *old, *new])}) SELECT * FROM ups WHERE {matter}"

    def of_deleted(self) -> list[str]:
        """The returned columns of a DELETE from `r`: all flows, only old images."""
        flags = [f"true AS f{i}" for i in range(len(self._wanted))]
        old = [f"({each.replace(_ROW, 'r.')})::text AS o{i}" for i, each in enumerate(self.expressions)]
        return [*flags, *old, *(f"NULL::text AS n{i}" for i in range(len(self.expressions)))]

    def returned(self) -> str:
        """The RETURNING clause of a DELETE from `r`."""
        return f" RETURNING {', '.join(self.of_deleted())}" if self._wanted else ""


_ROW = '"r".'


def _differs(columns: Sequence[str]) -> str:
    old = ", ".join(f"old.{quote(name)}" for name in columns)
    new = ", ".join(f"new.{quote(name)}" for name in columns)
    # the images, not the values: 1.0 and 1.00 are equal but give different documents, and json has no `=`
    return f"NOT pg_catalog.record_image_eq(ROW({old}), ROW({new}))"


class Images:
    """Collects the images of one batch.

    Args:
        wanted: what the flows want, per table id.
    """

    def __init__(self, wanted: Mapping[str, Sequence[Wanted]]) -> None:
        self._wanted = wanted
        self._rows: dict[str, list[tuple[Any, ...]]] = defaultdict(list)

    def add(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        """Rows as a statement with `ImageColumns` returned them."""
        self._rows[table] += rows

    def anchors(
        self, lookup: Callable[[str, Sequence[Sequence[str]]], Sequence[Anchor]]
    ) -> dict[str, list[set[Anchor]]]:
        """The dirty anchors of each flow, a set for each way that led to some.

        Args:
            lookup: runs a walk's SQL with one list of texts per image column; called after the whole batch is applied.
        """
        dirty: dict[str, list[set[Anchor]]] = defaultdict(list)
        walked: dict[str, set[Anchor]] = defaultdict(set)
        flows: dict[str, set[str]] = defaultdict(set)
        for table, rows in self._rows.items():
            wanted = self._wanted[table]
            at = {each: i for i, each in enumerate(ImageColumns(wanted).expressions)}
            for flag, each in enumerate(wanted):
                for walk in each.walks:
                    values = _values(rows, flag, [len(wanted) + at[e] for e in walk.image], len(at))
                    if walk.sql is None:
                        dirty[each.flow].append(values)
                    elif values:
                        walked[walk.sql] |= values
                        flows[walk.sql].add(each.flow)
        for sql, values in walked.items():
            found = {row for row in lookup(sql, [list(each) for each in zip(*values, strict=True)]) if None not in row}
            for flow in flows[sql]:
                dirty[flow].append(found)
        return {flow: some for flow, sets in dirty.items() if (some := [each for each in sets if each])}


def divide(found: Iterable[set[Anchor]], most: int) -> tuple[set[Anchor], set[Anchor]]:
    """The anchors to be evaluated at once, and those that can wait: of one large change, not of all changes beside it.

    Args:
        found: the anchors of each way.
        most: how many at once.
    """
    now: set[Anchor] = set()
    later: set[Anchor] = set()
    for anchors in sorted(found, key=len):
        if len(now) + len(anchors) > most:
            later |= anchors
        else:
            now |= anchors
    return now, later - now


def _values(rows: Sequence[tuple[Any, ...]], flag: int, old: Sequence[int], width: int) -> set[Anchor]:
    changed = [row for row in rows if row[flag]]
    if len(old) == 1:  # mostly: a set of texts costs a fraction of a set of tuples
        (at,) = old
        texts = {row[at] for row in changed} | {row[at + width] for row in changed}
        return {(each,) for each in texts if each is not None}
    new = [i + width for i in old]
    found = {tuple([row[i] for i in each]) for row in changed for each in (old, new)}
    return {each for each in found if None not in each}
