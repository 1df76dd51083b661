"""Flow topics and the journal, read for a proof: from the beginning once, then what is new."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from instep.change import Position
from instep.journal import JournalEntry, TopicPartition
from instep.protocols import Document
from instep.settings import KafkaSettings
from instep.topics import flow_topic, journal_topic
from instep_connectors.kafka import RangeReader, Record, end_offsets, partitions, start_offsets
from instep_ops.verification.fold import ALONE, Fold, is_at_rest
from instep_schemas.records import decode_journal, unframe

Decode = Callable[[Record], Document]

_MARGIN = 200
"""Offsets read in front of the journal's end before the snapshot: the last entries before the position."""


class FlowTopics:
    """The documents of several flows, folded by key. Blocking; one call at a time.

    Args:
        kafka: the brokers.
        decoders: per flow, what reads a record of its topic.
        at: the first position of the proof.
        joined: the same of joined sources, by name.
    """

    def __init__(
        self, kafka: KafkaSettings, decoders: Mapping[str, Decode], at: Position,
        joined: Mapping[str, Position] = ALONE,
    ) -> None:  # fmt: skip
        self._kafka, self._decoders = kafka, decoders
        self._reader = RangeReader(kafka, "instep-verify")
        self._next: dict[TopicPartition, int] = {}
        self.folds = {flow: Fold(at, joined) for flow in decoders}

    def advance(self, at: Position, joined: Mapping[str, Position] = ALONE) -> None:
        """Go on to a later position."""
        for fold in self.folds.values():
            fold.advance(at, joined)

    def catch_up(self) -> None:
        """Read every committed document that was not read yet.

        Raises:
            ConnectionError, TimeoutError: Kafka is gone.
        """
        owner = {(flow_topic(flow), number): flow for flow in self._decoders for number in self._numbers(flow)}
        new = [tp for tp in owner if tp not in self._next]
        self._next.update(start_offsets(self._kafka, new) if new else {})
        ends = end_offsets(self._kafka, list(owner))
        ranges = {tp: (self._next[tp], end) for tp, end in ends.items() if end > self._next[tp]}
        if not ranges:
            return
        for record in self._reader.read(ranges):
            flow = owner[record.topic, record.partition]
            self.folds[flow].add(self._decoders[flow](record))
        self._next.update({tp: end for tp, (_, end) in ranges.items()})

    def _numbers(self, flow: str) -> range:
        return range(partitions(self._kafka, flow_topic(flow)))

    def close(self) -> None:
        """Disconnect."""
        self._reader.close()


class JournalTail:
    """The end of a source's journal. Blocking.

    Args:
        kafka: the brokers.
        source: its name.
    """

    def __init__(self, kafka: KafkaSettings, source: str) -> None:
        self._kafka, self._tp = kafka, (journal_topic(source), 0)

    def mark(self) -> int:
        """An offset from well before now. Call it before the snapshot is taken."""
        (start,) = start_offsets(self._kafka, [self._tp]).values()
        (end,) = end_offsets(self._kafka, [self._tp]).values()
        return max(start, end - _MARGIN)

    def at_rest(self, mark: int, at: Position) -> bool:
        """Whether no change is captured at the position or behind it."""
        return is_at_rest(self.entries(mark), at)

    def entries(self, mark: int) -> list[JournalEntry]:
        """Every entry from the mark to the present end, in order."""
        (end,) = end_offsets(self._kafka, [self._tp]).values()
        if end <= mark:
            return []
        reader = RangeReader(self._kafka, "instep-verify-journal")
        try:
            records = list(reader.read({self._tp: (mark, end)}))
        finally:
            reader.close()
        return [decode_journal(unframe(record.value)[1]) for record in records if record.value is not None]
