"""The contracts between the engine and its connectors: documents, outcomes, `Sink`, `Source`.

A sink author needs this module and `instep.testing.check_sink` only. Batching, order per key, bisecting, retry, the
API budget, dead letters and the ledger are the engine's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from instep.change import Change, Position

Key = tuple[str, ...]
"""A document's key: the key columns' PostgreSQL text, in the order the flow names them."""

Fields = Mapping[str, Any]
"""A document's columns: str, int, float, bool, Decimal, date, datetime, list, dict or None."""


@dataclass(frozen=True, slots=True)
class Document:
    """One version of one output row of a flow.

    Attributes:
        flow: the flow's name.
        key: identifies the row for ever.
        fields: the SELECT's columns by name, or None for a tombstone (the row is gone).
        version: the worker's batch number; a newer document of the same key has a greater one.
        position: the last source position that this version includes.
        committed_us: commit time of the newest change it includes, microseconds since the Unix epoch; 0 when it
            comes from a snapshot or a seed.
        digest: hash of the document text as the worker compared it, 16 hexadecimal digits.
        joined: where other sources are joined to the flow's, the last position of each that it includes.
    """

    flow: str
    key: Key
    fields: Fields | None
    version: int
    position: Position
    committed_us: int = 0
    digest: str = ""
    joined: tuple[tuple[str, Position], ...] = ()


class Delete(StrEnum):
    """What a tombstone does to the record in the target."""

    DEACTIVATE = "deactivate"
    DELETE = "delete"
    IGNORE = "ignore"


@dataclass(frozen=True, slots=True)
class Written:
    """The target holds the document now.

    Attributes:
        id: the target's own identifier of the record.
        created: whether the record is new.
    """

    id: str
    created: bool = False


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The target held these values already (or the record to delete was gone); nothing was written."""

    id: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The target refuses this document for good: a person must look.

    Attributes:
        code: short and stable, for grouping (`DUPLICATE_VALUE`, `http 400`).
        message: the target's own words.
        field: the document column at fault, when the target names it.
    """

    code: str
    message: str
    field: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Not written because of a passing fault: try again after `after` seconds (None: the engine's back-off)."""

    reason: str
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Throttled:
    """The account's limit is reached: nobody of `scope` may call again for `after` seconds."""

    scope: str
    after: float


@dataclass(frozen=True, slots=True)
class Unknown:
    """Sent, but no answer came: the engine reads back by key before it sends again."""

    reason: str


Outcome = Written | Unchanged | Rejected | Retry | Throttled | Unknown


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a sink can do; the engine shapes its calls by it.

    Attributes:
        batch_size: the most documents one `write` may be given.
        concurrency: how many `write` calls may run at once (for different keys).
        upsert_by_key: a repeated write cannot create a second record, so `Unknown` may simply be sent again.
        deletes: the kinds of delete it can carry out.
        calls_per_document: API calls that one write costs, for the budget and for `plan`.
    """

    batch_size: int = 1
    concurrency: int = 1
    upsert_by_key: bool = False
    deletes: frozenset[Delete] = field(default_factory=lambda: frozenset(Delete))
    calls_per_document: float = 1.0


@runtime_checkable
class Sink(Protocol):
    """Writes documents into one object type of one target.

    Contract: `write` may be called again with the same documents and must then leave the target as if called once.
    Calls never overlap for one key. It raises only for faults that concern the whole target
    (`instep.errors.TargetError`); what concerns a document is its outcome.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this sink can do."""
        ...

    async def write(self, batch: Sequence[Document], /) -> Sequence[Outcome]:
        """Write, and give exactly one outcome per document, in the same order."""
        ...

    async def read(self, keys: Sequence[Key], /) -> Mapping[Key, Fields]:
        """Read what the target holds for the keys: delivered columns by name; keys without a record are left out.

        Values compare equal (`==`) with the document's when the target holds them. Key columns may be left out, and so
        are records that a tombstone has deactivated.

        Raises:
            ConnectionError, TimeoutError: the target cannot answer now.
            TargetError: the target refuses as a whole.
        """
        ...

    async def aclose(self) -> None:
        """Release connections. Safe to call twice."""
        ...


@runtime_checkable
class Source(Protocol):
    """Reads a store's changes: at least once, in commit order. Position in, position out: no hidden state."""

    def changes(self, after: Position | None) -> AsyncIterator[Change]:
        """Give every change after the position; None: a snapshot first, then what follows it."""
        ...

    async def confirm(self, upto: Position) -> None:
        """The changes up to here are durable downstream; the store may forget them."""
        ...

    async def aclose(self) -> None:
        """Stop reading. What was not confirmed comes again."""
        ...
