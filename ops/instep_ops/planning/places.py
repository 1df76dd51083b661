"""Where a source position stands in a data topic: found by the journal, without reading the topic. Blocking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from instep.change import Position
from instep.journal import JournalEntry, TopicPartition
from instep.settings import KafkaSettings
from instep.topics import journal_topic
from instep_connectors.kafka import RangeReader, end_offsets, start_offsets
from instep_schemas.records import decode_journal, unframe

_STEP = 200


class Places:
    """Searches one source's journal, whose entries stand in the order of their positions.

    Args:
        kafka: the brokers.
        source: its name.
    """

    def __init__(self, kafka: KafkaSettings, source: str) -> None:
        self._kafka, self._tp = kafka, (journal_topic(source), 0)
        self._start, self._end = (
            offsets(kafka, [self._tp])[self._tp] for offsets in (start_offsets, end_offsets)
        )  # fmt: skip

    def first(self, position: Position, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Per partition, the first offset of the first batch that reaches the position; its end where none does.

        Earlier records of that batch may stand behind it: the caller still looks at each record's own position.

        Raises:
            KafkaFault: there is no journal, or refused.
            ConnectionError, TimeoutError: no broker answers.
        """
        found = end_offsets(self._kafka, tps)
        open_ones = set(tps)
        for entry in self._from(self._search(position)):
            if entry.last < position:
                continue
            for tp in open_ones & entry.starts.keys():
                found[tp] = entry.starts[tp]
            open_ones -= entry.starts.keys()
            if not open_ones:
                break
        return found

    def _search(self, position: Position) -> int:
        """An offset at or before the first entry that reaches the position, found by halving."""
        low, high = self._start, self._end
        while high - low > _STEP:
            middle = (low + high) // 2
            entry = next(self._from(middle), None)
            if entry is None or entry.last >= position:
                high = middle
            else:
                low = middle
        return low

    def _from(self, offset: int) -> Iterator[JournalEntry]:
        reader = RangeReader(self._kafka, "instep-places")
        try:
            for record in reader.read({self._tp: (offset, self._end)}):
                if record.value is not None:
                    yield decode_journal(unframe(record.value)[1])
        finally:
            reader.close()
