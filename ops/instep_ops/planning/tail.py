"""`instep topics tail`: records of a topic, decoded, chosen, from anywhere, and as they come. Blocking."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from instep.change import POSITION_HEADER, Position
from instep.errors import ConfigError
from instep.journal import TopicPartition
from instep.settings import KafkaSettings
from instep_connectors.kafka import (
    Follower,
    RangeReader,
    Record,
    end_offsets,
    offsets_for_time,
    partitions,
    start_offsets,
)
from instep_connectors.kafka.described import missing
from instep_ops.planning.places import Places
from instep_schemas.client import RegistryClient
from instep_schemas.exact import EXACT_HEADER
from instep_schemas.readable import Readable, with_exact
from instep_schemas.schemaids import SchemaIds

_STEP: Final = 1_000
_HEADERS: Final = ("instep.batch", "instep.committed_us")


@dataclass(frozen=True, slots=True)
class Wish:
    """Which records a person wants.

    Attributes:
        since: from this time on (the record's own timestamp).
        position: from this source position on; records without one are left out.
        offset: from this offset on, in every partition asked for.
        partition: only this one; None: all.
        keys: only records with one of these keys, columns joined by commas.
        where: all of these must hold.
        count: at most so many; without a beginning the last ones, None: all.
    """

    since: datetime | None = None
    position: Position | None = None
    offset: int | None = None
    partition: int | None = None
    keys: Sequence[str] = ()
    where: Sequence[Condition] = field(default_factory=tuple)
    count: int | None = 10

    @property
    def has_beginning(self) -> bool:
        """Whether it says from where to read."""
        return not (self.since is None and self.position is None and self.offset is None)

    def takes(self, shown: Mapping[str, Any]) -> bool:
        """Whether a decoded record is wanted."""
        if self.keys and key_text(shown["key"]) not in self.keys:
            return False
        # Kafka gives the first offset from that time on; older records may stand behind it
        if self.since is not None and datetime.fromisoformat(shown["time"]) < self.since:
            return False
        if self.position is not None and not _at_or_after(shown.get("position"), self.position):
            return False
        return all(condition.holds(shown) for condition in self.where)


def _at_or_after(text: str | None, least: Position) -> bool:
    return text is not None and Position.parse(text) >= least


@dataclass(frozen=True, slots=True)
class Condition:
    """`field=value` or `field!=value`.

    Attributes:
        path: names from the record down, `("value", "op")`; a single name is looked for in the row.
        value: text to compare with; `null` for null.
        equal: whether it must be equal.
    """

    path: tuple[str, ...]
    value: str
    equal: bool = True

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read one as a person writes it.

        Raises:
            ConfigError: not of that form.
        """
        name, sign, value = text.partition("=")
        equal = not name.endswith("!")
        path = tuple(part.strip() for part in name.rstrip("!").split("."))
        if not sign or not all(path):
            raise ConfigError(f"{text!r} is no condition.", "Write field=value or field!=value.")
        return cls(path, value.strip(), equal)

    def holds(self, shown: Mapping[str, Any]) -> bool:
        """Whether a decoded record fulfils it; a field that is not there equals nothing."""
        found = [value for start in _starts(shown) if (value := _follow(start, self.path)) is not _NOWHERE]
        return bool(found) and (as_text(found[0]) == self.value) == self.equal


_NOWHERE: Final = object()


def _starts(shown: Mapping[str, Any]) -> Iterator[Any]:
    """Where a path may begin: the record, its value, the new row, the old row, its key."""
    value = shown["value"]
    yield shown
    yield value
    if isinstance(value, dict):
        yield value.get("after")
        yield value.get("before")
    yield shown["key"]


def _follow(start: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(start, Mapping) or name not in start:
            return _NOWHERE
        start = start[name]
    return start


def as_text(value: Any) -> str:
    """A value as a person writes it in a condition."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def key_text(key: Any) -> str:
    """A key as a person writes it: its columns joined by commas."""
    return ",".join(map(as_text, key.values())) if isinstance(key, dict) else as_text(key)


class Tail:
    """Reads one topic.

    Args:
        kafka: the brokers.
        registry: of the schemas.
        topic: its name.
        source: whose data topic it is; empty for another topic.

    Raises:
        KafkaFault: there is no such topic.
        ConnectionError, TimeoutError: no broker answers.
    """

    def __init__(self, kafka: KafkaSettings, registry: RegistryClient, topic: str, source: str = "") -> None:
        self._kafka, self._readable, self._topic, self._source = kafka, Readable(registry.schema), topic, source
        self._ids = SchemaIds(registry)
        self._count = partitions(kafka, topic)
        if not self._count:
            raise missing(kafka, topic)

    def read(self, wish: Wish, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Records as JSON values, in offset order per partition; by time where they come from the topic's end.

        Args:
            wish: which.
            follow: go on with new ones for ever.

        Raises:
            ConfigError: there is no such partition.
            RangeGone: retention overtook the reading.
            RegistryError, KafkaFault: refused.
            ConnectionError, TimeoutError: a part does not answer.
        """
        tps = self._partitions(wish)
        ends = end_offsets(self._kafka, tps)
        if wish.has_beginning or wish.count is None:
            yield from self._forward(wish, self._begin(wish, tps), ends)
        elif wish.count:
            yield from self._last(wish, ends)
        if follow:
            yield from self._new(wish, ends)

    def _partitions(self, wish: Wish) -> list[TopicPartition]:
        if wish.partition is None:
            return [(self._topic, number) for number in range(self._count)]
        if wish.partition >= self._count:
            raise ConfigError(f"{self._topic} has no partition {wish.partition}.", f"It has {self._count}, from 0 on.")
        return [(self._topic, wish.partition)]

    def _begin(self, wish: Wish, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        starts = start_offsets(self._kafka, tps)
        if wish.since is not None:
            at = offsets_for_time(self._kafka, tps, int(wish.since.timestamp() * 1000))
            starts = {tp: max(start, at[tp]) for tp, start in starts.items()}
        if wish.position is not None and self._source:
            at = Places(self._kafka, self._source).first(wish.position, tps)
            starts = {tp: max(start, at[tp]) for tp, start in starts.items()}
        if wish.offset is not None:
            starts = {tp: max(start, wish.offset) for tp, start in starts.items()}
        return starts

    def _forward(
        self, wish: Wish, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
    ) -> Iterator[dict[str, Any]]:
        left = wish.count
        for shown in self._chosen(wish, {tp: (starts[tp], end) for tp, end in ends.items()}):
            if left == 0:
                return
            yield shown
            left = None if left is None else left - 1

    def _last(self, wish: Wish, ends: Mapping[TopicPartition, int]) -> Iterator[dict[str, Any]]:
        """Go backwards in growing steps: control records and what is not wanted stand between."""
        starts, step = start_offsets(self._kafka, list(ends)), _STEP
        found: list[dict[str, Any]] = []
        upto = dict(ends)
        while len(found) < (wish.count or 0) and any(upto[tp] > starts[tp] for tp in upto):
            begin = {tp: max(starts[tp], end - step) for tp, end in upto.items()}
            found += self._chosen(wish, {tp: (begin[tp], end) for tp, end in upto.items()})
            upto, step = begin, step * 8
        found.sort(key=lambda each: (each["time"], each["partition"], each["offset"]))
        yield from found[-(wish.count or 0) :]

    def _chosen(self, wish: Wish, ranges: Mapping[TopicPartition, tuple[int, int]]) -> Iterator[dict[str, Any]]:
        reader = RangeReader(self._kafka, "instep-tail")
        try:
            yield from self._wanted(wish, reader.read({tp: span for tp, span in ranges.items() if span[0] < span[1]}))
        finally:
            reader.close()

    def _new(self, wish: Wish, ends: Mapping[TopicPartition, int]) -> Iterator[dict[str, Any]]:
        follower = Follower(self._kafka, ends)
        try:
            yield from self._wanted(wish, follower)
        finally:
            follower.close()

    def _wanted(self, wish: Wish, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        for record in records:
            shown = self.show(record)
            if wish.takes(shown):
                yield shown

    def show(self, record: Record) -> dict[str, Any]:
        """A record as JSON values."""
        (record,) = self._ids.prefixed([record])
        headers = dict(record.headers)
        time = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
        shown: dict[str, Any] = {
            "partition": record.partition,
            "offset": record.offset,
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "key": self._readable.read(record.key),
            "value": self._readable.read(record.value),
        }
        try:
            shown["value"] = with_exact(shown["value"], record.headers)
            headers.pop(EXACT_HEADER, None)
        except ValueError:
            pass  # another program's header of that name is shown as it is
        try:
            shown["position"] = str(Position.unpack(headers.pop(POSITION_HEADER)))
        except (KeyError, struct.error):
            pass
        for name in _HEADERS:
            if name in headers:
                shown[name.removeprefix("instep.")] = int.from_bytes(headers.pop(name), "big", signed=True)
        others = {name: value.decode(errors="replace") for name, value in headers.items()}
        return shown | ({"headers": others} if others else {})
