"""A gap in the journal's chain that a recovery has mended, as its entries explain it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from instep.journal import JournalEntry

_STATE: Final = "recovery"


@dataclass(frozen=True, slots=True)
class Gap:
    """Why and where a journal's chain was mended.

    Attributes:
        reason: what was wrong with the slot, one sentence.
        start: the journal's position then, as text.
        end: the new slot's first LSN, as text; empty until it is made.
    """

    reason: str
    start: str
    end: str = ""

    @property
    def state(self) -> str:
        """For a journal entry's `snapshot_state`."""
        return json.dumps({_STATE: {"reason": self.reason, "start": self.start, "end": self.end}})

    @classmethod
    def of(cls, entry: JournalEntry) -> Gap | None:
        """The gap that an entry helps to mend, None for any other entry."""
        if not entry.snapshot_state.startswith(f'{{"{_STATE}"'):
            return None
        return cls(**json.loads(entry.snapshot_state)[_STATE])


def gaps(journal: Iterable[JournalEntry]) -> Iterator[Gap]:
    """The gaps that a journal explains, each once."""
    open_gap: Gap | None = None
    for entry in journal:
        found = Gap.of(entry)
        if found is not None:
            open_gap = found
        elif open_gap is not None:
            yield open_gap
            open_gap = None
