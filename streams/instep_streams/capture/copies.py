"""Copies of tables that are under way while the stream goes on: what is left of each, and what must wait. Pure.

A *first* copy is of a table whose rows were never captured: until a part of it is copied, changes of rows in that part
are left out, because the copy will have them; a reader never meets a change of a row that it does not have. Deletes are
written all the same: of a row that never came they do no harm, and a copy repeated after a kill may have brought it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from instep_connectors.postgres.chunks import KeyOrder, Part, View
from instep_connectors.postgres.pgoutput import RawRow
from instep_connectors.postgres.snapshot import TextRow
from instep_streams.capture.tables import CapturedTable

Bounds = list[list[str] | None]


@dataclass
class Copy:
    """One table to copy.

    Attributes:
        table: `schema.table`.
        condition: SQL text that its rows must meet, empty for all.
        order: columns to read by; empty until the key is known.
        ranges: the parts that are left, each `[after, upto]` in texts of `order`.
        first: see the module.
        clear: the topic must be cleared (TRUNCATE) before the copy starts.
        rows: rows written so far.
        total: rows there are, roughly; None: not known.
        request: who asked, to find it again.
        ghosts: keys of rows that moved out of a part not copied yet and are gone from the store: the stream will tell
            so, and until then no change of them can be written.
    """

    table: str
    condition: str = ""
    order: list[str] = field(default_factory=list)
    ranges: list[Bounds] = field(default_factory=lambda: [[None, None]])
    first: bool = False
    clear: bool = False
    rows: int = 0
    total: int | None = None
    request: str = ""
    ghosts: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Standstill:
    """Tables to copy at one place of the stream, which waits meanwhile: Debezium's blocking snapshot.

    Attributes:
        tables: regular expressions of `schema.table`.
        selects: per such expression the SELECT to read instead of the table.
        place: the change that asked: its commit LSN, and its number within the transaction.
        lsn: the change's own LSN.
        transaction: its id, 32 bits.
        last_commit: end LSN of the commit before it, None when it is not known.
    """

    tables: tuple[str, ...]
    selects: Mapping[str, str]
    place: tuple[int, int]
    lsn: int
    transaction: int
    last_commit: int | None = None

    @classmethod
    def parse(cls, known: Mapping[str, Any]) -> Standstill:
        """From what `asdict` and JSON have made of one."""
        return cls(**{**known, "tables": tuple(known["tables"]), "place": tuple(known["place"])})


@dataclass
class Window:
    """A chunk that was read and waits until the stream has reached its watermark.

    Attributes:
        mark: what the watermark carries.
        copy: whose first range it continues.
        view: what it sees.
        table: how its rows are written.
        rows: by Kafka key, in the order they were read.
        last: the key of its last row; None: the range has nothing behind it.
        upto: the range's greatest key, if it was looked for with this chunk.
        reached: the stream has come to the mark that was written before it was read.
    """

    mark: str
    copy: Copy
    view: View
    table: CapturedTable
    rows: dict[bytes, TextRow]
    last: list[str] | None
    upto: list[str] | None
    reached: bool = False

    def close(self) -> None:
        """Its rows are written: take them out of what is left."""
        ranges = self.copy.ranges
        if self.last is None:
            ranges.pop(0)
        else:
            ranges[0] = [self.last, ranges[0][1] if self.upto is None else self.upto]


def admits(copy: Copy, window: Window | None, order: KeyOrder, key: list[str], xid: int) -> bool:
    """Whether a change that leaves a row with this key must be written, in a first copy.

    Args:
        copy: of the table.
        window: the open one, None when it is of another table.
        order: compares keys.
        key: of the row.
        xid: the transaction, 32 bits.

    Raises:
        psycopg.Error: of the comparison.
    """
    rest = copy.ranges
    if window is not None:
        unseen = not window.view.sees(window.view.full(xid))
        after, upto = copy.ranges[0]
        if window.last is None:
            if order.within(key, Part(after, upto)):
                return unseen
        elif order.within(key, Part(after, window.last)):
            return unseen
        elif order.within(key, Part(window.last, upto if window.upto is None else window.upto)):
            return False
        elif window.upto is not None and order.within(key, Part(window.upto, upto)):
            return unseen
        rest = copy.ranges[1:]
    return not any(order.within(key, Part(*bounds)) for bounds in rest)


class Due(NamedTuple):
    """A row to write now, as read from the store; None: the table's topic is to be cleared (TRUNCATE)."""

    table: CapturedTable
    row: TextRow | None


class Meeting(NamedTuple):
    """What becomes of a change that the stream brings.

    Attributes:
        before: rows to write before it.
        new: its new row, perhaps completed.
        gone: only its row's old key is to be written, as deleted.
        drop: nothing of it is to be written.
    """

    before: Sequence[Due] = ()
    new: RawRow | None = None
    gone: bool = False
    drop: bool = False


@dataclass
class Copies:
    """Everything to copy, in order.

    Attributes:
        todo: copies, the first one is under way.
        paused: nothing is read for now.
        initial: they finish the source's first snapshot: nothing may be shown before.
        lsn: the slot's consistent point, while `initial`.
        standstill: what the stream waits for.
    """

    todo: list[Copy] = field(default_factory=list)
    paused: bool = False
    initial: bool = False
    standstill: Standstill | None = None

    @classmethod
    def parse(cls, state: str) -> Copies:
        """From a journal entry's `snapshot_state`."""
        known: dict[str, Any] = json.loads(state) if state else {}
        todo = [Copy(**each) for each in known.get("copies", [])]
        asked = known.get("standstill")
        return cls(
            todo, bool(known.get("paused", False)), bool(todo) and bool(known.get("initial", False)),
            None if asked is None else Standstill.parse(asked),
        )  # fmt: skip

    @property
    def state(self) -> str:
        """For the journal; empty when nothing is to be copied."""
        if not self.todo and self.standstill is None:
            return ""
        found: dict[str, Any] = {"copies": [asdict(each) for each in self.todo]}
        if self.standstill is not None:
            found["standstill"] = asdict(self.standstill)
        if self.paused:
            found["paused"] = True
        if self.initial:
            found["initial"] = True
        return json.dumps(found)

    @property
    def next(self) -> Copy | None:
        """The copy to go on with."""
        return next((each for each in self.todo if each.ranges), None)

    def of(self, table: str) -> Copy | None:
        """The copy of a table."""
        return next((each for each in self.todo if each.table == table), None)
