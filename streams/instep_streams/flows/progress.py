"""How far the replica is: one row per source, moved in the same transaction as the rows and the documents' hashes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from psycopg import Connection

from instep.change import Position
from instep.errors import StateError

_NOWHERE: Final = Position(0, 0, 0)
_NONE: Final[Mapping[str, int]] = {}
NOT_ADOPTED: Final = -1
"""Stands for the generation while the flows' topics are still to be read."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replica is.

    Attributes:
        entry: number of the last journal entry applied, 0 for none.
        journal: offset of the journal record behind it.
        position: of its last change.
        committed_us: commit time of its last transaction, 0 for a snapshot.
        more: its last transaction goes on in the next entry.
        batch: number of the last worker batch that made documents, their version.
        offsets: where entries are made here and not by capture, the offset to read next by `topic:partition`.
        settled: the last journal entry up to which no key waits: with the batches sent, all its documents are out.
        joined: by name, how far the sources are that are joined to this one; their `batch` is 0.
    """

    entry: int = 0
    journal: int = 0
    position: Position = _NOWHERE
    committed_us: int = 0
    more: bool = False
    batch: int = 0
    settled: int = 0
    offsets: Mapping[str, int] = field(default_factory=dict)
    joined: Mapping[str, Progress] = field(default_factory=dict)

    def of(self, source: str) -> Progress:
        """A joined source's progress; of any other name: the worker's own source's."""
        return self.joined.get(source, self)

    def moved(self, source: str, **values: Any) -> Progress:
        """With other values for one source (`of`)."""
        if source not in self.joined:
            return replace(self, **values)
        return replace(self, joined={**self.joined, source: replace(self.joined[source], **values)})

    def require_next(self, source: str, numbers: Iterable[int]) -> None:
        """Refuse journal entries that do not follow what was applied.

        Raises:
            StateError: one is missing in between.
        """
        for expected, number in enumerate(numbers, self.of(source).entry + 1):
            if number != expected:
                raise StateError(
                    f"The journal of {source} goes on with entry {number}; the replica needs {expected}.",
                    "Records are missing: rebuild the replica from a new snapshot.",
                )

    def at_rest(self) -> Progress:
        """With everything applied settled."""
        joined = {name: replace(each, settled=each.entry) for name, each in self.joined.items()}
        return replace(self, settled=self.entry, joined=joined)

    def unsettled(self) -> Progress:
        """With nothing settled."""
        joined = {name: replace(each, settled=0) for name, each in self.joined.items()}
        return replace(self, settled=0, joined=joined)

    @property
    def cut(self) -> bool:
        """Whether a transaction of any source goes on in its next entry: documents must not be shown."""
        return self.more or any(each.more for each in self.joined.values())

    @property
    def begun(self) -> bool:
        """Whether something of every source was applied."""
        return self.entry > 0 and all(each.entry > 0 for each in self.joined.values())

    @property
    def newest_us(self) -> int:
        """Commit time of the newest transaction of any source, 0 for snapshots."""
        return max([self.committed_us, *(each.committed_us for each in self.joined.values())])


def load(conn: Connection[Any], source: str, joined: Iterable[str] = ()) -> Progress:
    """Read a source's progress, zero when there is none, with that of the sources that are joined to it."""
    found = _load(conn, source)
    return replace(found, joined={name: _load(conn, name) for name in joined})


def _load(conn: Connection[Any], source: str) -> Progress:
    row = conn.execute(
        "SELECT entry, journal, epoch, lsn::bigint, seq, committed_us, more, batch, settled,"
        " coalesce(to_jsonb(p) -> 'offsets', '{}') FROM instep.progress p"  # also asked before the worker migrates it
        " WHERE source = %s",
        (source,),
    ).fetchone()
    if row is None:
        return Progress()
    entry, journal, epoch, lsn, seq, committed_us, more, batch, settled, offsets = row
    return Progress(entry, journal, Position(epoch, lsn, seq), committed_us, more, batch, settled, offsets)


def generation(conn: Connection[Any], source: str) -> int:
    """The division of keys (`layout.Layout`) for which the flows' topics were last read."""
    row = conn.execute("SELECT generation FROM instep.progress WHERE source = %s", (source,)).fetchone()
    return int(row[0]) if row is not None else 0


def adopted(conn: Connection[Any], source: str, generation: int) -> None:
    """Keep that the flows' topics were read for a division of keys."""
    conn.execute("UPDATE instep.progress SET generation = %s WHERE source = %s", (generation, source))


def opened(conn: Connection[Any], source: str, joined: Mapping[str, str]) -> Progress:
    """A source's progress with that of the sources joined to it, each with what flows call its schema; as `begin`."""
    begin(conn, source)
    for name, schema in joined.items():
        begin(conn, name, f"{source} {schema}")
    return load(conn, source, joined)


def begin(conn: Connection[Any], source: str, joined: str = "") -> None:
    """Make the row of a source that has none.

    Args:
        conn: the state database.
        source: the source's name.
        joined: of a joined source, to which one and under which name of its schema `public`.

    Raises:
        StateError: its rows were applied when it was joined otherwise: they stand under other names.
    """
    conn.execute(
        "INSERT INTO instep.progress (source, entry, journal, epoch, lsn, seq, committed_us, more, batch, settled)"
        " VALUES (%s, 0, 0, 0, 0, 0, 0, false, 0, 0) ON CONFLICT DO NOTHING",
        (source,),
    )
    done = conn.execute(
        "UPDATE instep.progress SET joined = %s WHERE source = %s AND (joined = %s OR entry = 0)",
        (joined, source, joined),
    )
    if done.rowcount != 1:
        raise StateError(
            f"The state holds the tables of source {source} as they were when it was joined to another source"
            " otherwise, or not at all.",
            f"Put sources.{source}.joined_to and as_schema back, or drop the state database: it is filled again from"
            " the topics.",
        )


def move(
    conn: Connection[Any], source: str, old: Progress, new: Progress, emitted: Mapping[str, int] = _NONE
) -> None:  # fmt: skip
    """Move the row from one progress to the next, and those of joined sources with it; count documents.

    Args:
        conn: the state database.
        source: the source's name.
        old: where the row stands.
        new: where it is to stand.
        emitted: how many documents the step has emitted, by flow.

    Raises:
        StateError: it stood elsewhere: another worker moves it.
    """
    _move(conn, source, old, new, emitted)
    for name, each in new.joined.items():
        if each != old.joined[name]:
            _move(conn, name, old.joined[name], each)


def _move(
    conn: Connection[Any], source: str, old: Progress, new: Progress, emitted: Mapping[str, int] = _NONE
) -> None:  # fmt: skip
    done = conn.execute(
        # one statement: it is a round trip of every step
        "WITH counted AS (UPDATE instep.flows f SET emitted = f.emitted + c.documents"
        " FROM unnest(%s::text[], %s::int8[]) AS c(name, documents) WHERE f.name = c.name)"
        " UPDATE instep.progress SET entry = %s, journal = %s, epoch = %s, lsn = %s, seq = %s, committed_us = %s,"
        " more = %s, batch = %s, settled = %s, offsets = %s WHERE source = %s AND entry = %s AND batch = %s",
        (
            list(emitted), list(emitted.values()), new.entry, new.journal, *new.position, new.committed_us,
            new.more, new.batch, new.settled, json.dumps(dict(new.offsets)), source, old.entry, old.batch,
        ),
        prepare=True,
    )  # fmt: skip
    if done.rowcount != 1:
        raise StateError(
            f"Another worker moved the state of source {source}.", "Run one worker per source and state database."
        )
