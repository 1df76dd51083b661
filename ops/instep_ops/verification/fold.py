"""A flow topic folded by key around one source position. Pure.

The SELECT was evaluated on the snapshot at position L: it holds exactly the transactions that committed before L. A
document carries the last position of its batch. So a version with position < L belongs to the snapshot's past; but it
need not be the whole past. One batch may *straddle* L, hold changes from both sides, and what it did before L cannot be
seen from outside, not even whether it touched a key (set to 2 before L and back to 1 behind it: no document at all);
and the worker may put keys off, so that their document comes with a later batch. So while changes go on behind L, a key
that differs is no more than a suspect, and is judged again at a later position. Once nothing has changed behind L, the
newest version of each key has to be the snapshot's row: then every answer is certain.

With other sources joined to the flow's, L is a position of each, and so is a document's: the snapshot's past is what is
in the past of every source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Final

from instep.change import Position
from instep.journal import JournalEntry
from instep.protocols import Document, Fields, Key
from instep_ops.verification.compare import same_fields

_Places = tuple[Position, tuple[tuple[str, Position], ...]]
"""The position that a document includes of the flow's source, and of each joined one."""

ALONE: Final[Mapping[str, Position]] = {}
"""The positions of joined sources, where there are none."""


class Verdict(Enum):
    """What can be said about one key at one position."""

    EQUAL = "equal"
    DIFFERENT = "different"
    SUSPECT = "suspect"
    """Differs, and no later version could explain it; only a change back, or a document put off, could."""
    UNDECIDED = "undecided"
    WAITING = "waiting"
    """Differs, and a change of it waits for its flow's time: when that has come, it will not."""


class Fold:
    """Per key: the newest version before the position, and every version after it.

    Args:
        at: the position L; moves forward only.
        joined: the same of the sources joined to the flow's, by name.
    """

    def __init__(self, at: Position, joined: Mapping[str, Position] = ALONE) -> None:
        self.at, self._joined = at, joined
        self._versions: dict[Key, list[Document]] = {}
        self._batches: dict[tuple[int, _Places], int] = {}
        self._emitted = 0, 0

    def _is_past(self, places: _Places) -> bool:
        position, joined = places
        return position < self.at and all(each < self._joined.get(name, each) for name, each in joined)

    def add(self, document: Document) -> None:
        """Take the next version of a key, in topic order."""
        places = _places(document)
        batch = document.version, places  # workers that share a source number their batches by themselves
        self._batches[batch] = self._batches.get(batch, 0) + 1
        self._versions.setdefault(document.key, []).append(document)
        if self._is_past(places):
            self._versions[document.key][:-1] = []

    def advance(self, at: Position, joined: Mapping[str, Position] = ALONE) -> None:
        """Go on to a later position; forgets versions that are not needed any more."""
        self.at, self._joined = at, joined
        for versions in self._versions.values():
            past = sum(self._is_past(_places(version)) for version in versions)
            versions[: max(0, past - 1)] = []
        self._emitted = self.emitted()
        self._batches = {batch: count for batch, count in self._batches.items() if not self._is_past(batch[1])}

    def emitted(self) -> tuple[int, int]:
        """The newest batch before the position (0: none), and how many documents the topic holds up to it."""
        past = {batch: count for batch, count in self._batches.items() if self._is_past(batch[1])}
        newest, count = self._emitted
        return max([newest, *(number for number, _ in past)]), count + sum(past.values())

    def keys(self) -> Iterable[Key]:
        """Every key the topic holds, tombstones included."""
        return self._versions.keys()

    def held(self, key: Key) -> Document | None:
        """The newest version before the position."""
        first = self._versions.get(key, [None])[0]
        return first if first is not None and self._is_past(_places(first)) else None

    def newest(self, key: Key) -> Document | None:
        """The newest version of all."""
        return self._versions.get(key, [None])[-1]

    def version(self, key: Key, number: int) -> Document | None:
        """The version with this number, if it is still known."""
        return next((each for each in self._versions.get(key, ()) if each.version == number), None)

    def judge(self, key: Key, expected: Fields | None, at_rest: bool, waits: bool = False) -> Verdict:
        """Compare a key with the SELECT's row.

        Args:
            key: the document's key.
            expected: the SELECT's row at the position; None: no row.
            at_rest: nothing has changed behind the position, and the worker has nothing put off (`is_at_rest`).
            waits: a change of the key waits for its flow's time, or did when the worker had passed the position and the
                topic was not read yet.
        """
        held, newest = self.held(key), self.newest(key)
        judged = newest if at_rest else held
        if same_fields(judged.fields if judged else None, expected):
            return Verdict.EQUAL
        if waits:
            return Verdict.WAITING
        if at_rest:
            return Verdict.DIFFERENT
        return Verdict.SUSPECT if newest is held else Verdict.UNDECIDED


def _places(document: Document) -> _Places:
    return document.position, document.joined


def is_at_rest(entries: Iterable[JournalEntry], at: Position) -> bool:
    """Whether no change is captured at the position or behind it.

    Args:
        entries: the journal's, from before the position to its present end.
        at: the position.
    """
    return not any(entry.changes and entry.last >= at for entry in entries)
