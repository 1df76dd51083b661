"""Read one journal entry ahead: while PostgreSQL applies an entry, the next one is fetched and decoded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from instep_connectors.kafka import Record
from instep_streams.flows.inbox import Inbox, Read


class Ahead:
    """Reads entries in a thread of its own; the inbox's data reader belongs to that thread.

    Args:
        inbox: reads the entries.
        name: of the thread.
    """

    def __init__(self, inbox: Inbox, name: str) -> None:
        self._inbox = inbox
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    def reads(self, records: Iterable[Record], after: int) -> Iterator[tuple[Record, Read]]:
        """The entries of journal records with what they bring, in order; those up to number `after` are passed over.

        Raises as `Inbox.entry` and `Inbox.read`, when it is the entry's turn.
        """
        begun: tuple[Record, Future[Read]] | None = None
        for record in records:
            entry = self._inbox.entry(record)
            if entry.batch <= after:
                continue
            after, former = entry.batch, begun
            begun = record, self._thread.submit(self._inbox.read, entry)
            if former is not None:
                yield former[0], former[1].result()
        if begun is not None:
            yield begun[0], begun[1].result()

    def close(self) -> None:
        """Wait for what is being read; safe to call twice."""
        self._thread.shutdown(wait=True, cancel_futures=True)
