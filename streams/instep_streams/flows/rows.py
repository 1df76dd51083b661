"""The changes of rows as the replica takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instep.change import Op, Row
from instep.journal import JournalEntry

RowKey = tuple[str | None, ...]


class RowChange(NamedTuple):
    """One change of a captured row, as the worker read it from its topic.

    Attributes:
        table: `schema.name`.
        op: what happened.
        key: the row's key columns as text; empty for a TRUNCATE.
        row: the new row's texts, None for a delete; columns that are missing were added later.
        moved_from: the row's key before an UPDATE that changed it.
    """

    table: str
    op: Op
    key: RowKey
    row: Row | None = None
    moved_from: RowKey | None = None


Entry = tuple[JournalEntry, Sequence[RowChange]]
"""A journal entry and its changes, in source order."""
