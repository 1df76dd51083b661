"""What a worker follows by itself: journals, where it shares one with other workers or has several; or topics without.

Topics without a journal, as Debezium itself writes them, are read table by table, and what is read is numbered here.
There is no barrier across tables: a document may show one table's part of a transaction before the other's. At rest it
is right: each record is applied exactly once, because what to read next is kept with the rows (`Progress.offsets`).
While Debezium's first snapshot is under way nothing is shown.
"""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from instep.change import Op, Position
from instep.errors import StateError
from instep.journal import Counts, JournalEntry, TopicPartition
from instep.settings import KafkaSettings, SourceSettings
from instep.topics import journal_topic
from instep_connectors.kafka import Follower, RangeReader, Record, end_offsets, start_offsets, topics
from instep_schemas.decode import Envelope
from instep_streams.flows.catalog import DEFAULT_SCHEMA
from instep_streams.flows.inbox import Inbox, Read
from instep_streams.flows.progress import Progress

MOST_RECORDS: Final = 5_000
"""Records that are taken together: one evaluation for all of them."""
MOST_ENTRIES: Final = 500
MOST_KEPT: Final = 10_000
"""Journal entries of one unfinished transaction that are kept unapplied, where there are several journals."""
_TURN_S: Final = 0.005
"""How long one of several journals is waited for before the next one is looked at."""
_LOOK_S: Final = 2.0
"""How often new topics are looked for."""
_QUIET_S: Final = 5.0
"""So long nothing may come until a snapshot whose last row is not marked counts as over."""
_UNDER_WAY: Final = frozenset({"true", "first", "first_in_data_collection", "last_in_data_collection"})

log = logging.getLogger(__name__)


class Fed(NamedTuple):
    """What was read, and where to go on behind it."""

    read: Read
    offsets: Mapping[str, int]


class TopicFeed:
    """Follows a source's data topics from where the replica stands. Blocking; one call at a time.

    Args:
        kafka: the brokers.
        inbox: decodes the records.
        source: the source's name: Debezium's `topic.prefix`.
        settings: of the source.
        progress: of the replica.
    """

    def __init__(
        self, kafka: KafkaSettings, inbox: Inbox, source: str, settings: SourceSettings, progress: Progress
    ) -> None:
        self._kafka, self._inbox, self._source, self._settings = kafka, inbox, source, settings
        self._next = {_place(name): offset for name, offset in progress.offsets.items()}
        self._partitions: dict[str, int] = {}
        self._follower: Follower | None = None
        self._looked = float("-inf")
        self._opening = progress.entry == 0 or progress.more
        self._goal: dict[TopicPartition, int] = {}
        self._rest: Iterator[Record] | None = None
        self._reader = RangeReader(kafka, f"instep-worker-{source}-opening")
        self._heard = time.monotonic() if progress.entry else float("inf")

    def close(self) -> None:
        """Release the connections."""
        self._reader.close()
        self._unfollow()

    def _unfollow(self) -> None:
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.close()

    def poll(self, progress: Progress, wait: float) -> Fed | None:
        """What has come, as one entry; None when nothing has.

        Args:
            progress: of the replica, for the entry's number and position.
            wait: seconds to wait for a first record.

        Raises:
            RangeGone: retention took records.
            KafkaFault, ConnectionError, TimeoutError, RegistryError: as the reader and the registry raise.
            StateError: a record cannot be decoded, or a TRUNCATE cannot be placed among the changes.
        """
        if time.monotonic() - self._looked > _LOOK_S:
            self._look()
        if self._opening and self._next and time.monotonic() - self._heard > _QUIET_S:
            self._read_the_rest()
        done = False
        if self._rest is None:
            records = self._take(wait)
        else:
            records = list(itertools.islice(self._rest, MOST_RECORDS))
            done = len(records) < MOST_RECORDS
        if not records and not done:
            return None
        return self._fed(records, progress, done=done)

    def _fed(self, records: Sequence[Record], progress: Progress, *, done: bool) -> Fed:
        starts, ends = _spans(records)
        entry = JournalEntry(
            self._source, progress.entry + 1, 0, "", 0, progress.position, progress.position,
            progress.committed_us, progress.committed_us, ends, starts,
            {"": Counts(update=len(records))} if records else {},
            more=self._opening and not done, snapshot=self._opening,
        )  # fmt: skip
        read = self._inbox.of(entry, records)
        self._refuse_truncate(records, read)
        told = [self._inbox.envelope(record) for record in _last(records)]
        self._next |= {**ends, **(self._goal if done else {})}
        if done:
            self._opening, self._rest = False, None
        elif self._opening and self._rest is None and any(each.snapshot not in _UNDER_WAY for each in told):
            # the last row of the snapshot, or a change behind it, is seen: every row of it is in some topic by now
            self._read_the_rest()
        return Fed(read._replace(entry=_placed(entry, told)), {_name(tp): at for tp, at in self._next.items()})

    def _read_the_rest(self) -> None:
        """Fix what the opening ends with: all that is in the topics now."""
        if self._rest is None:
            self._unfollow()
            self._goal = end_offsets(self._kafka, list(self._next))
            self._rest = iter(self._reader.read({tp: (self._next[tp], end) for tp, end in self._goal.items()}))

    def _take(self, wait: float) -> list[Record]:
        if self._follower is None:
            if not self._next:
                time.sleep(wait)
                return []
            self._follower = Follower(self._kafka, self._next)
        found = _polled(self._follower, MOST_RECORDS, wait)
        if found:
            self._heard = time.monotonic()
        return found

    def _look(self) -> None:
        """Follow topics and partitions that have come."""
        self._looked = time.monotonic()
        start = f"{self._source}."
        for name, count in topics(self._kafka).items():
            own = name.startswith(start) and not name.startswith(f"{start}__")
            if not own or self._partitions.get(name) == count or (table := self._inbox.table(name)) is None:
                continue
            if named(self._settings.tables, table.id):
                self._partitions[name] = count
        new = [tp for name, count in self._partitions.items() for tp in _all(name, count) if tp not in self._next]
        if not new:
            return
        starts = start_offsets(self._kafka, new)
        for (topic, number), offset in starts.items():
            if offset:
                log.warning(
                    "%s [%d] begins at offset %d: rows last changed before are missing until Debezium's next snapshot",
                    topic, number, offset,
                )  # fmt: skip
        self._next |= starts
        self._unfollow()

    def _refuse_truncate(self, records: Iterable[Record], read: Read) -> None:
        if not any(change.op is Op.TRUNCATE for change in read.changes):
            return
        several = sorted({record.topic for record in records if self._partitions.get(record.topic, 1) > 1})
        if several:
            raise StateError(
                f"A TRUNCATE came with records of {', '.join(several)}, which have several partitions: without a"
                " journal nobody can say which rows came before it.",
                "Give Debezium's topics one partition each, or let it skip truncates (skipped.operations=t).",
            )


class JournalFeed:
    """Follows journals from where the replica stands, each in its order.

    Of several, whole transactions are given: while a part of one is applied no document may be shown, be it for a
    change of another source. The part of a transaction whose end has not come yet is kept here (`Tail`).

    Args:
        kafka: the brokers.
        starts: by source, offset of the journal record to begin with.
        entry: decodes a journal record.
    """

    def __init__(
        self, kafka: KafkaSettings, starts: Mapping[str, int], entry: Callable[[Record], JournalEntry]
    ) -> None:  # fmt: skip
        self._entry = entry
        self._followers: dict[str, Follower] = {}
        self._tails: dict[str, Tail] = {source: Tail() for source in starts} if len(starts) > 1 else {}
        try:
            for source, start in starts.items():
                self._followers[source] = Follower(kafka, {(journal_topic(source), 0): start})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the connections."""
        for follower in self._followers.values():
            follower.close()

    def poll(self, wait: float, within: str = "") -> tuple[str, list[Record]] | None:
        """The next records of one journal, and its source; None when none came within so many seconds.

        Args:
            wait: seconds.
            within: the source whose transaction is applied in part: the others have to wait until it is whole.

        Raises:
            RangeGone, KafkaFault: as `Follower.poll`.
            StateError: a record is no journal entry.
        """
        turn = [within] if within else list(self._followers)
        deadline, pause = time.monotonic() + wait, 0.0
        while True:
            for source in turn:
                records = self._next(source, pause, bool(within))
                if records:
                    self._followers[source] = self._followers.pop(source)  # the others come first next time
                    return source, records
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            pause = min(left, _TURN_S) if len(turn) > 1 else left

    def _next(self, source: str, wait: float, within: bool) -> list[Record]:
        records = _polled(self._followers[source], MOST_ENTRIES, wait)
        tail = self._tails.get(source)
        return records if tail is None else tail.whole([(each, self._entry(each)) for each in records], within)


class Tail:
    """The last entries read of a journal: of a transaction whose end was not read yet."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def whole(self, read: Sequence[tuple[Record, JournalEntry]], within: bool) -> list[Record]:
        """What may be applied now that more was read: up to the last entry that ends a transaction.

        All of it, though no transaction ends, when it is too much to keep, or belongs to a first snapshot or to a
        transaction that is applied in part (`within`).
        """
        ends = [number for number, (_, entry) in enumerate(read, len(self._records) + 1) if entry.whole]
        self._records += [record for record, _ in read]
        count = ends[-1] if ends else 0
        if not ends and (within or len(self._records) >= MOST_KEPT or any(entry.snapshot for _, entry in read)):
            count = len(self._records)
        found, self._records = self._records[:count], self._records[count:]
        return found


def _polled(follower: Follower, most: int, wait: float) -> list[Record]:
    found: list[Record] = []
    while len(found) < most:
        record = follower.poll(0.0 if found else wait)
        if record is None:
            break
        found.append(record)
    return found


def _placed(entry: JournalEntry, told: Iterable[Envelope]) -> JournalEntry:
    """The entry at the newest position and commit time of its records."""
    known = list(told)
    lsn = max([entry.last.lsn, *(each.lsn for each in known if each.lsn is not None)])
    committed = max([entry.last_commit_us, *(each.ts_us for each in known)])
    at = Position(0, lsn, 0)
    return replace(entry, first=at, last=at, first_commit_us=committed, last_commit_us=committed)


def named(patterns: Sequence[str], table: str) -> bool:
    """Whether a source's `tables` name a table."""
    qualified = (each if "." in each else f"{DEFAULT_SCHEMA}.{each}" for each in patterns)
    return any(re.fullmatch(re.escape(each).replace(r"\*", ".*"), table) for each in qualified)


def _all(topic: str, count: int) -> Iterator[TopicPartition]:
    return ((topic, number) for number in range(count))


def _spans(records: Iterable[Record]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    starts: dict[TopicPartition, int] = {}
    ends: dict[TopicPartition, int] = {}
    for each in records:
        tp = each.topic, each.partition
        starts.setdefault(tp, each.offset)
        ends[tp] = each.offset + 1
    return starts, ends


def _last(records: Iterable[Record]) -> Iterable[Record]:
    """The last change of each partition."""
    return {(each.topic, each.partition): each for each in records if each.value is not None}.values()


def _name(tp: TopicPartition) -> str:
    return f"{tp[0]}:{tp[1]}"


def _place(name: str) -> TopicPartition:
    topic, _, number = name.rpartition(":")
    return topic, int(number)
