"""Planning a replay: which stretch of the journal, which documents, and what they would do to the target. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from instep.change import Position
from instep.flowfile import Flow
from instep.journal import JournalEntry
from instep.protocols import Delete, Document, Fields, Key
from instep_streams.delivery.conflate import Newest
from instep_streams.delivery.decide import NOTHING, Applied


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a source's journal, from one entry to the end.

    Attributes:
        first: documents at this source position or behind it belong to the stretch.
        batches: numbers of its first and last journal entry.
        entries: how many entries with changes it holds.
        changes: changes of the store in it.
        since_us: commit time of its first transaction, microseconds since the Unix epoch; 0: not known.
    """

    first: Position
    batches: tuple[int, int]
    entries: int
    changes: int
    since_us: int


def stretch(
    entries: Iterable[JournalEntry], *, since_us: int | None = None, position: Position | None = None
) -> Stretch | None:
    """Find the stretch that begins at a commit time or at a source position; None: the journal ends before it.

    Args:
        entries: of the journal, in order; those without changes do not count.
        since_us: commit time, microseconds since the Unix epoch.
        position: source position.
    """
    found: list[JournalEntry] = []
    undated: list[JournalEntry] = []  # of a snapshot: they belong to what follows them
    for entry in entries:
        if not entry.changes:
            continue
        if found:
            found.append(entry)
        elif position is not None:
            found += [entry] if entry.last >= position else []
        elif not entry.last_commit_us:
            undated.append(entry)
        elif entry.last_commit_us >= (since_us or 0):
            found = [*undated, entry]
        else:
            undated = []
    found = found or undated
    if not found:
        return None
    first = found[0].first if position is None else max(position, found[0].first)
    changes = sum(entry.changes for entry in found)
    begun = min(entry.first_commit_us for entry in found)
    return Stretch(first, (found[0].batch, found[-1].batch), len(found), changes, begun)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What delivering the newest document of each key would do now.

    Attributes:
        change: the target holds something else than what it took: it would be mended.
        waiting: the live flow has not brought it to an outcome yet; it is delivered by whoever comes first.
        equal: it holds the same values.
        left_alone: the target took a newer version: the stretch's document is not delivered.
        ignored: tombstones that the flow does not deliver.
    """

    change: tuple[Key, ...] = ()
    waiting: int = 0
    equal: int = 0
    left_alone: int = 0
    ignored: int = 0


def forecast(
    flow: Flow,
    columns: Sequence[str],
    newest: Sequence[Newest],
    applied: Mapping[Key, Applied],
    held: Mapping[Key, Fields],
) -> Forecast:
    """Compare documents with what the target really holds.

    Args:
        flow: the flow.
        columns: its delivered columns, without the key.
        newest: the newest document per key.
        applied: what the ledger says the target took.
        held: what the target gives when it is read.
    """
    change: list[Key] = []
    waiting = equal = left_alone = ignored = 0
    for each in newest:
        document = each.waiting.document
        known = applied.get(document.key, NOTHING)
        if document.version < known.version:
            left_alone += 1
        elif document.fields is None and flow.delete is Delete.IGNORE:
            ignored += 1
        elif not differs(document, columns, held.get(document.key)):
            equal += 1
        elif known.settled:
            change.append(document.key)
        else:
            waiting += 1
    return Forecast(tuple(change), waiting, equal, left_alone, ignored)


def differs(document: Document, columns: Sequence[str], held: Fields | None) -> bool:
    """Whether the target holds something else than the document."""
    if document.fields is None or held is None:
        return (document.fields is None) != (held is None)
    fields = document.fields
    return any(name not in held or held[name] != fields[name] for name in columns if name in fields)


@dataclass(frozen=True)
class ReplayPlan:
    """What a replay would deliver, and what it would change.

    Attributes:
        flow: the flow's name.
        target: the target's name.
        stretch: the stretch of the journal; None: nothing happened since.
        documents: document versions in it.
        newest: the newest one per key, with the versions it supersedes.
        forecast: what delivering them would do.
        calls: API calls it would cost at most.
        seconds: how long the account's budget makes it last at least; 0: no limit.
    """

    flow: str
    target: str
    stretch: Stretch | None
    documents: int = 0
    newest: tuple[Newest, ...] = ()
    forecast: Forecast = Forecast()
    calls: float = 0
    seconds: float = 0

    def to_dict(self) -> dict[str, Any]:
        """The figures, for people and scripts."""
        part = self.stretch
        since = datetime.fromtimestamp(part.since_us / 1e6, UTC) if part is not None and part.since_us else None
        return {
            "flow": self.flow,
            "target": self.target,
            "from_position": str(part.first) if part else None,
            "since": since.isoformat() if since else None,
            "journal_batches": list(part.batches) if part else [],
            "changes": part.changes if part else 0,
            "documents": self.documents,
            "keys": len(self.newest),
            "would_change": len(self.forecast.change),
            "waiting": self.forecast.waiting,
            "equal": self.forecast.equal,
            "left_alone": self.forecast.left_alone,
            "ignored": self.forecast.ignored,
            "calls": round(self.calls),
            "seconds": round(self.seconds),
        }
