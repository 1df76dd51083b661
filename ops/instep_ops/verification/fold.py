"""A flow topic folded by key around one source position. Pure.

The SELECT was evaluated on the snapshot at position L: it holds exactly the transactions that committed before L. A
document carries the last position of its batch. So a version with position < L belongs to the snapshot's past. The
first batch that reaches L or goes beyond may *straddle* it: hold changes from both sides. Where such a version follows,
a key cannot be judged at L; it is judged again at a later position.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from instep.change import Position
from instep.protocols import Document, Fields, Key
from instep_ops.verification.compare import same_fields


class Verdict(Enum):
    """What can be said about one key at one position."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


class Fold:
    """Per key: the newest version before the position, and every version after it.

    Args:
        at: the position L; moves forward only.
    """

    def __init__(self, at: Position) -> None:
        self.at = at
        self._versions: dict[Key, list[Document]] = {}

    def add(self, document: Document) -> None:
        """Take the next version of a key, in topic order."""
        self._versions.setdefault(document.key, []).append(document)
        if document.position < self.at:
            self._versions[document.key][:-1] = []

    def advance(self, at: Position) -> None:
        """Go on to a later position; forgets versions that are not needed any more."""
        self.at = at
        for versions in self._versions.values():
            past = sum(version.position < at for version in versions)
            versions[: max(0, past - 1)] = []

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

    def straddling(self) -> int | None:
        """Number of the first batch seen that reaches the position; every later one lies behind it entirely."""
        return min(
            (each.version for versions in self._versions.values() for each in versions if each.position >= self.at),
            default=None,
        )

    def judge(self, key: Key, expected: Fields | None, straddling: int | None) -> Verdict:
        """Compare a key's newest version before the position with the SELECT's row.

        Args:
            key: the document's key.
            expected: the SELECT's row at the position; None: no row.
            straddling: what `straddling()` gave.
        """
        held = self.held(key)
        if same_fields(held.fields if held else None, expected):
            return Verdict.EQUAL
        later = [each for each in self._versions.get(key, ()) if each.position >= self.at]
        if not later:
            return Verdict.DIFFERENT
        # Compaction may have taken an older version only when it took all before it too: `held` proves none is missing.
        behind = straddling is not None and later[0].version > straddling
        return Verdict.DIFFERENT if held is not None and behind else Verdict.UNDECIDED
