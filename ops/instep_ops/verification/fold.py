"""A flow topic folded by key around one source position. Pure.

The SELECT was evaluated on the snapshot at position L: it holds exactly the transactions that committed before L. A
document carries the last position of its batch. So a version with position < L belongs to the snapshot's past. One
batch may *straddle* L, hold changes from both sides: what it did before L cannot be seen from outside, not even whether
it touched a key (set to 2 before L and back to 1 behind it: no document at all). So a key that differs is certain only
at a position that no batch straddles; elsewhere it is a suspect, and judged again at a later position.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from enum import Enum

from instep.change import Position
from instep.journal import JournalEntry
from instep.protocols import Document, Fields, Key
from instep_ops.verification.compare import same_fields


class Verdict(Enum):
    """What can be said about one key at one position."""

    EQUAL = "equal"
    DIFFERENT = "different"
    SUSPECT = "suspect"
    """Differs, unless the batch that straddles the position changed it and changed it back."""
    UNDECIDED = "undecided"


class Fold:
    """Per key: the newest version before the position, and every version after it.

    Args:
        at: the position L; moves forward only.
    """

    def __init__(self, at: Position) -> None:
        self.at = at
        self._versions: dict[Key, list[Document]] = {}
        self._batches: dict[int, tuple[Position, int]] = {}

    def add(self, document: Document) -> None:
        """Take the next version of a key, in topic order."""
        _, count = self._batches.get(document.version, (document.position, 0))
        self._batches[document.version] = document.position, count + 1
        self._versions.setdefault(document.key, []).append(document)
        if document.position < self.at:
            self._versions[document.key][:-1] = []

    def advance(self, at: Position) -> None:
        """Go on to a later position; forgets versions that are not needed any more."""
        self.at = at
        for versions in self._versions.values():
            past = sum(version.position < at for version in versions)
            versions[: max(0, past - 1)] = []

    def emitted(self) -> tuple[int, int]:
        """The newest batch before the position (0: none), and how many documents the topic holds up to it."""
        past = {number: count for number, (position, count) in self._batches.items() if position < self.at}
        return max(past, default=0), sum(past.values())

    def keys(self) -> Iterable[Key]:
        """Every key the topic holds, tombstones included."""
        return self._versions.keys()

    def held(self, key: Key) -> Document | None:
        """The newest version before the position."""
        first = self._versions.get(key, [None])[0]
        return first if first is not None and first.position < self.at else None

    def newest(self, key: Key) -> Document | None:
        """The newest version of all."""
        return self._versions.get(key, [None])[-1]

    def version(self, key: Key, number: int) -> Document | None:
        """The version with this number, if it is still known."""
        return next((each for each in self._versions.get(key, ()) if each.version == number), None)

    def ends(self) -> set[Position]:
        """Where batches are known to end: the positions of the versions at hand."""
        return {each.position for versions in self._versions.values() for each in versions}

    def judge(self, key: Key, expected: Fields | None, clean: bool) -> Verdict:
        """Compare a key's newest version before the position with the SELECT's row.

        Args:
            key: the document's key.
            expected: the SELECT's row at the position; None: no row.
            clean: no batch straddles the position (`is_clean`).
        """
        held = self.held(key)
        if same_fields(held.fields if held else None, expected):
            return Verdict.EQUAL
        later = self.newest(key) is not held
        if clean and (held is not None or not later):
            # Compaction takes older versions first, so behind `held` none is missing; without it, one may be.
            return Verdict.DIFFERENT
        return Verdict.UNDECIDED if later else Verdict.SUSPECT


def is_clean(entries: Iterable[JournalEntry], ends: Set[Position], at: Position) -> bool:
    """Whether it is certain that no batch, of capture or of the worker, straddles the position.

    Args:
        entries: the journal in order, from well before the position to behind it.
        ends: positions at which a worker's batch is known to end.
        at: the position.
    """
    before: JournalEntry | None = None
    for entry in entries:
        if not entry.changes:
            continue
        if entry.last >= at:
            return entry.first >= at and before is not None and before.last in ends
        before = entry
    return True
