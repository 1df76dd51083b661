"""How far the replica is: one row per source, moved in the same transaction as the rows and the documents' hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from psycopg import Connection

from instep.change import Position
from instep.errors import StateError

_NOWHERE: Final = Position(0, 0, 0)
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
        more: its last transaction goes on in the next entry: documents must not be shown.
        batch: number of the last worker batch that made documents, their version.
        offsets: where entries are made here and not by capture, the offset to read next by `topic:partition`.
        settled: the last journal entry up to which no key waits: with the batches sent, all its documents are out.
    """

    entry: int = 0
    journal: int = 0
    position: Position = _NOWHERE
    committed_us: int = 0
    more: bool = False
    batch: int = 0
    settled: int = 0
    offsets: Mapping[str, int] = field(default_factory=dict)


def load(conn: Connection[Any], source: str) -> Progress:
    """Read a source's progress, zero when there is none."""
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


def begin(conn: Connection[Any], source: str) -> None:
    """Make the row of a source that has none."""
    conn.execute(
        "INSERT INTO instep.progress (source, entry, journal, epoch, lsn, seq, committed_us, more, batch, settled)"
        " VALUES (%s, 0, 0, 0, 0, 0, 0, false, 0, 0) ON CONFLICT DO NOTHING",
        (source,),
    )


def move(conn: Connection[Any], source: str, old: Progress, new: Progress) -> None:
    """Move the row from one progress to the next.

    Raises:
        StateError: it stood elsewhere: another worker moves it.
    """
    done = conn.execute(
        "UPDATE instep.progress SET entry = %s, journal = %s, epoch = %s, lsn = %s, seq = %s, committed_us = %s,"
        " more = %s, batch = %s, settled = %s, offsets = %s WHERE source = %s AND entry = %s AND batch = %s",
        (
            new.entry, new.journal, *new.position, new.committed_us, new.more, new.batch, new.settled,
            json.dumps(dict(new.offsets)), source, old.entry, old.batch,
        ),
        prepare=True,
    )  # fmt: skip
    if done.rowcount != 1:
        raise StateError(
            f"Another worker moved the state of source {source}.", "Run one worker per source and state database."
        )
