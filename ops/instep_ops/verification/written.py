"""A source whose topics Debezium itself writes, for a proof: how far Debezium and the worker are. Blocking.

Without a journal the topics do not say up to which position they are complete. Debezium's replication slot does: it is
confirmed only behind what is in Kafka.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Any

import psycopg

from instep.change import Position
from instep.errors import VerifyFailed
from instep.journal import TopicPartition
from instep.settings import Settings
from instep_connectors.kafka import RangeReader, end_offsets
from instep_connectors.postgres.session import connect, store_failure
from instep_streams.flows.status import status

_CONFIRMED = "SELECT (confirmed_flush_lsn - '0/0'::pg_lsn)::bigint FROM pg_replication_slots WHERE slot_name = %s"


class WrittenTopics:
    """The data topics of one source.

    Args:
        settings: resolved.
        source: its name.
    """

    def __init__(self, settings: Settings, source: str) -> None:
        self._settings, self._source = settings, source
        self._own = settings.sources[source]

    def mark(self) -> Mapping[TopicPartition, int]:
        """Where the topics end now. Call it before the snapshot is taken."""
        found = status(self._settings, self._source)["offsets"]
        return end_offsets(self._settings.kafka, [_place(name) for name in found]) if found else {}

    def at_rest(self, mark: Mapping[TopicPartition, int], at: Position) -> bool:
        """Whether nothing has come since the mark; to be asked when everything below the position has been written."""
        return self.mark() == mark

    def confirmed(self) -> int:
        """The position up to which Debezium has written everything.

        Raises:
            VerifyFailed: the store has no such slot.
            SourceError, ConnectionError: it refuses, or is not there.
        """
        with closing(connect(self._own.dsn.reveal(), "instep verify")) as conn:
            try:
                row: tuple[Any, ...] | None = conn.execute(_CONFIRMED, (self._own.slot,)).fetchone()
            except psycopg.Error as exc:
                raise store_failure(exc) from exc
        if row is None or row[0] is None:
            raise VerifyFailed(
                f"The store has no replication slot {self._own.slot!r}: it tells how far Debezium is.",
                f"Write Debezium's slot.name to sources.{self._source}.slot.",
            )
        confirmed: int = row[0]
        return confirmed

    def applied(self, ends: Mapping[TopicPartition, int]) -> bool:
        """Whether the worker has taken every record in front of these offsets and published what follows from it."""
        found = status(self._settings, self._source)
        if found["more"] or found["emitted_journal_batch"] < found["batch"]:
            return False
        done = {_place(name): offset for name, offset in found["offsets"].items()}
        left = {tp: (done[tp], end) for tp, end in ends.items() if tp in done and done[tp] < end}
        if not ends.keys() <= done.keys():
            return False
        reader = RangeReader(self._settings.kafka, "instep-verify-written")
        try:  # what is left may be no records: the ends of transactions
            return next(iter(reader.read(left)), None) is None if left else True
        finally:
            reader.close()


def _place(name: str) -> TopicPartition:
    topic, _, number = name.rpartition(":")
    return topic, int(number)
