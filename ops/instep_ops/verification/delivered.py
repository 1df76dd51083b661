"""Whether the CRM holds what delivery says it was given. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from instep.protocols import Delete, Document, Fields, Key
from instep_ops.verification.compare import Difference, crm_differences
from instep_ops.verification.fold import Fold


@dataclass(frozen=True, slots=True)
class Ledgered:
    """What the outcome ledger says about one key.

    Attributes:
        applied: version last applied (written or found unchanged) in the CRM; 0: none.
        settled: newest version with a final outcome of any kind; 0: none.
        rejected: the reason when the newest outcome is a rejection, else empty.
    """

    applied: int = 0
    settled: int = 0
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A key that cannot be judged yet, and why."""

    key: Key
    reason: str


class Delivered:
    """One flow's documents in one target, judged key by key.

    Args:
        target: the target's name.
        flow: the flow's name.
        key: the flow's key columns: they identify the record and are not read back.
        columns: the delivered columns; None: all.
        made: what the target gets of a document: the flow's function, if it has one.
        delete: what a tombstone does there.
        fold: the flow topic, read until the worker had passed the position: the newest versions it holds now are those
            that the target has to have seen.
    """

    def __init__(
        self, target: str, flow: str, key: Sequence[str], columns: Sequence[str] | None, delete: Delete, fold: Fold,
        made: Callable[[Document], Document] = lambda document: document,
    ) -> None:  # fmt: skip
        self._made = made
        self._target, self._flow, self._delete, self._fold = target, flow, delete, fold
        self._key, self._columns = key, columns
        self._required = {each: newest for each in fold.keys() if (newest := fold.newest(each)) is not None}

    def must_read(self, key: Key, ledgered: Ledgered) -> bool:
        """Whether the CRM has to be asked for this key."""
        return ledgered.applied > 0 and not ledgered.rejected

    def waits(self, key: Key, ledgered: Ledgered) -> str:
        """Why the key has to wait for delivery; empty when it need not."""
        wanted = self._required.get(key)
        if wanted is None or wanted.version <= ledgered.settled:
            return ""
        return f"version {wanted.version} is not delivered yet (the newest outcome is of version {ledgered.settled})"

    def judge(
        self, key: Key, ledgered: Ledgered, now: Ledgered, crm: Fields | None, store: Fields | None
    ) -> Iterator[Difference | Waiting]:
        """Say what differs.

        Args:
            key: the document's key.
            ledgered: what the ledger said before the CRM was read.
            now: what it said afterwards.
            crm: what the CRM holds; None: no active record (or not asked, see `must_read`).
            store: the SELECT's row at the position, to be shown beside.
        """
        waits = self.waits(key, ledgered)
        if waits:
            yield Waiting(key, waits)
            return
        newest = self._fold.newest(key)
        if ledgered.rejected and newest is not None and newest.version > ledgered.settled:
            yield Waiting(key, "a newer version than the rejected one is being delivered")
            return
        if ledgered.rejected:
            yield Difference(self._flow, key, None, None, None, None, self._target, f"rejected: {ledgered.rejected}")
            return
        if ledgered.applied == 0:
            return  # never delivered, and nothing of it to deliver
        applied = self._fold.version(key, ledgered.applied)
        if applied is not None and applied.fields is None and self._delete is Delete.IGNORE:
            return
        if applied is None:
            yield Waiting(key, f"version {ledgered.applied}, last applied, is not in the topic any more")
            return
        fields = self._made(applied).fields
        columns = [each for each in self._columns or fields or () if each not in self._key]
        found = list(crm_differences(self._target, self._flow, key, columns, fields, crm, store))
        moving = now != ledgered or (newest is not None and newest.version > ledgered.applied)
        if found and moving:  # a newer version may be on its way into the CRM at this moment
            yield Waiting(key, "a newer version is being delivered")
            return
        yield from found
