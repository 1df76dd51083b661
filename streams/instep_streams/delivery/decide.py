"""What becomes of a document before any call: the stale-write guard and the digest shortcut. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

from instep.protocols import Delete, Document, Rejected
from instep_streams.delivery.conflate import Newest

GONE: Final = "-"
"""The digest that stands for a tombstone."""


class Kind(StrEnum):
    """How a document version ended: the ledger has exactly one of these for each."""

    WRITTEN = "written"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    REJECTED = "rejected"
    FILTERED = "filtered"


@dataclass(frozen=True, slots=True)
class Applied:
    """What the ledger knows of one key.

    Attributes:
        version: newest version that the target took; 0: none.
        digest: of that version (`GONE` for a tombstone); empty when what the target holds is in doubt.
        target_id: the target's identifier of the record.
        settled: the waiting version has its outcome already: Kafka delivered it again.
    """

    version: int = 0
    digest: str = ""
    target_id: str = ""
    settled: bool = False


NOTHING: Final = Applied()


@dataclass(frozen=True, slots=True)
class Entry:
    """One ledger row: the outcome of one document version.

    Attributes:
        document: the version.
        kind: how it ended.
        attempts: tries it took; 0 when the target was not called.
        rejected: the reason, for `Kind.REJECTED`.
        target_id: the target's identifier of the record.
    """

    document: Document
    kind: Kind
    attempts: int = 0
    rejected: Rejected | None = None
    target_id: str = ""


class Next(Enum):
    """What to do with a document that has no outcome yet, or has it already."""

    SEND = "send"
    SETTLED = "settled"


def digest_of(document: Document) -> str:
    """The digest the ledger keeps for a document; empty: not known, equal to nothing."""
    return GONE if document.fields is None else document.digest


def decide(newest: Newest, applied: Applied, delete: Delete, *, rewrite: bool = False) -> Entry | Next:
    """Say what to do with a document.

    Args:
        newest: the document with the waiting versions it supersedes.
        applied: what the ledger knows of its key.
        delete: what the flow does with tombstones.
        rewrite: a replay: what the target really holds counts, not what the ledger says it took.

    Returns:
        An entry when the outcome is known without a call; else whether it must be sent or was settled before.
    """
    document = newest.waiting.document
    if applied.settled and not rewrite:
        return Next.SETTLED
    if document.version < applied.version:
        return Entry(document, Kind.SUPERSEDED, target_id=applied.target_id)
    if document.fields is None and delete is Delete.IGNORE:
        return Entry(document, Kind.FILTERED, target_id=applied.target_id)
    # An older version that waits too may have been sent before a crash without getting its outcome: then the target
    # may hold that one, and the ledger's digest says nothing.
    surely_held = not any(each.document.version > applied.version for each in newest.older)
    if not rewrite and surely_held and applied.digest and applied.digest == digest_of(document):
        return Entry(document, Kind.UNCHANGED, target_id=applied.target_id)
    return Next.SEND


def superseded(newest: Sequence[Newest]) -> list[Entry]:
    """Outcomes of the versions that were superseded while they waited."""
    return [Entry(older.document, Kind.SUPERSEDED) for each in newest for older in each.older]
