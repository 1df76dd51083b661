"""One registry instance: the store, kept up by the log's reader, and the write path of the instance that leads.

The event loop owns all state; Kafka's blocking calls run in one thread. Writes that come while a transaction is under
way go into the next one together (`pending`). They are decided on a state that has seen all of the log: their records
must land exactly where that state ends, or the transaction is aborted and everything in it decided anew.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from instep.errors import RegistryError
from instep.failpoints import hit
from instep.settings import KafkaSettings
from instep_schemas.registry import refusals
from instep_schemas.registry.entries import (
    Decision,
    Entry,
    EntryFault,
    Key,
    Keytype,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
)
from instep_schemas.registry.log import (
    TOPIC,
    Behind,
    Fenced,
    Reader,
    Record,
    TooLarge,
    WriteFailed,
    Writer,
    WriterLost,
    following,
)
from instep_schemas.registry.pending import Pending, Queue
from instep_schemas.registry.store import IDS, Store

log = logging.getLogger("instep.registry")

_LEADER: Final = "leader"
_INSTANCE: Final = "instance"
_TRIES: Final = 5
_CATCH_UP_S: Final = 10.0
_ENDING_S: Final = (
    0.004  # Kafka ends a transaction after it said so; the client waits 20 ms when the next comes too soon
)


class NotLeading(Exception):
    """Another instance writes."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """The newest claim to lead, as it stands in the log.

    Attributes:
        url: where the claimant answers.
        instance: which process it is; a restarted one is another.
        offset: of the record.
    """

    url: str
    instance: str
    offset: int


class Instance:
    """State and writes of one process.

    Attributes:
        url: where other instances reach this one.
        name: differs for each start of a process.
        store: what has been read.
        position: the log's offset that comes next.
        loaded: set once the log has been read to its end for the first time.
        announced: the newest claim to lead.
        changed: set when `announced` or `leading` changed; whoever waits clears it.
        failure: fails when this process must end.
    """

    def __init__(self, settings: KafkaSettings, url: str, topic: str = TOPIC) -> None:
        self.url, self.name = url, uuid.uuid4().hex
        self.store = Store()
        self.position = 0
        self.loaded = asyncio.Event()
        self.announced: Announcement | None = None
        self._has_led = False
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.failure: asyncio.Future[None] = self._loop.create_future()
        self._settings, self._topic = settings, topic
        self._moved = asyncio.Condition()
        self._spellings: dict[Key, set[bytes]] = {}
        self._reader = Reader(settings, self._from_reader, self._from_failure, topic)
        self._writer: Writer | None = None
        self._writing = asyncio.Lock()
        self._queue, self._committing, self._ended = Queue(), False, 0.0
        self._thread = ThreadPoolExecutor(1, "schemas-writer")
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def leading(self) -> bool:
        """Whether this instance may write: it has a writer, and no newer claim was read."""
        return self._writer is not None and self.announced is not None and self.announced.instance == self.name

    # ---- reading ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read."""
        self._reader.start()

    def _from_reader(self, records: Sequence[Record], position: int, at_end: bool) -> None:
        self._loop.call_soon_threadsafe(self._take, records, position, at_end)

    def _from_failure(self, error: RegistryError) -> None:
        self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: RegistryError) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    def _take(self, records: Sequence[Record], position: int, at_end: bool) -> None:
        for record in records:
            if record.offset >= self.position:  # our own writes are already in
                self._apply(record)
        self.position = max(self.position, position)
        if at_end:
            self.loaded.set()
        self._keep(self._tell())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _apply(self, record: Record) -> None:
        try:
            key, value = decode_key(record.key), decode_value(record.value)
            self._note_spelling(key, record)
            if key.keytype is Keytype.NOOP:
                self._note_announcement(value, record.offset)
            self.store.apply(key, value, record.written_ms)
        except EntryFault as exc:
            log.warning("%s offset %d is passed over: %s", self._topic, record.offset, exc)

    def _note_spelling(self, key: Key, record: Record) -> None:
        """Remember keys in another spelling than ours: a deletion must delete those, too."""
        raw = record.key or b""
        if raw == encode_key(key):
            return
        spellings = self._spellings.setdefault(key, set())
        (spellings.discard if record.value is None else spellings.add)(raw)

    def _note_announcement(self, value: dict[str, Any] | None, offset: int) -> None:
        if not value or not isinstance(value.get(_LEADER), str):
            return
        self.announced = Announcement(value[_LEADER], str(value.get(_INSTANCE)), offset)
        self.changed.set()
        if self.announced.instance == self.name:
            self._has_led = True
        elif self._has_led and self.announced.url == self.url:
            # not a process that was here before: its last words came before ours, since ours fenced it
            self._fail(
                RegistryError(
                    f"Another schema registry on the same Kafka says that it answers at {self.url}, too.",
                    "Give each registry an address of its own in registry.listen, or stop one of them.",
                )
            )

    async def reach(self, position: int) -> None:
        """Wait until the log has been read up to a position.

        Raises:
            TimeoutError: Kafka does not give it.
        """
        async with asyncio.timeout(_CATCH_UP_S), self._moved:
            await self._moved.wait_for(lambda: self.position >= position)

    # ---- writing ----------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Take over: fence the writer before, read its last words, announce this instance.

        Raises:
            ConnectionError, TimeoutError: Kafka does not answer.
        """
        async with self._writing:
            await self._drop_writer()
            writer = await self._call(Writer, self._settings, self._topic)
            try:
                await self._call(writer.take_over)
                self._writer = writer
                await self._announce(writer)
            except (WriterLost, WriteFailed) as exc:
                await self._drop_writer()
                raise ConnectionError(f"cannot take over: {exc}") from exc
            except BaseException:
                await self._drop_writer()
                raise
        self.changed.set()

    async def _announce(self, writer: Writer) -> None:
        """The announcement lands where the reader stands only if the reader has seen everything."""
        for _ in range(_TRIES):
            try:
                await self._commit(writer, [Entry(Key(Keytype.NOOP), {IDS: self.store.highest_ids()})], self.position)
                return
            except Behind as exc:
                await self.reach(exc.end)
        raise WriteFailed("another program keeps writing to the topic")

    async def write(self, decide: Callable[[Store], Decision]) -> Any:
        """Decide on the newest state, write, and give the answer.

        Raises:
            Refusal: the decision is no, or the write failed (50001), or is not known to have happened (50002).
            NotLeading: another instance writes.
        """
        if not self.leading:
            async with self._writing:  # perhaps it is taking over
                pass
        if not self.leading:
            raise NotLeading
        if not self._writing.locked() and self._queue.expected != self.position:
            self._queue.forget()  # someone else has written meanwhile
        pending = Pending(decide, self._loop.create_future())
        self._queue.add(pending)
        if not self._committing:
            self._committing = True
            self._keep(self._commit_all())
        return await pending.answer

    async def _commit_all(self) -> None:
        """Commit what is waiting, group after group, until nothing is."""
        try:
            async with self._writing:
                while self._queue:
                    await asyncio.sleep(self._ended + _ENDING_S - self._loop.time())
                    await self._commit_group()
        finally:
            self._committing = False

    async def _commit_group(self) -> None:
        writer = self._writer
        if writer is None or not self.leading:
            self._refuse(self._queue.clear(), NotLeading())
            return
        group = self._queue.group(self.store, self.position)
        entries = [entry for write in group for entry in write.entries]
        try:
            if entries:
                self._queue.expected = await self._commit(writer, entries, self._queue.expected)
        except Behind as exc:
            await self._decide_anew(group, exc)
        except TooLarge:
            self._part(group)
        except WriteFailed as exc:
            self._queue.forget()
            self._refuse(group, refusals.store_failed(str(exc)))
        except WriterLost as exc:
            self._queue.forget()
            self._refuse(group, await self._lost(exc))
        except Exception as exc:  # a fault of ours; nobody may wait for ever
            self._queue.forget()
            self._refuse(group, exc)
        else:
            for write in group:
                write.settle()

    async def _decide_anew(self, group: Sequence[Pending], behind: Behind) -> None:
        """The log is longer than we knew: read on, then decide the same writes on that."""
        for write in group:
            write.tries += 1
        late = [write for write in group if write.tries >= _TRIES]
        self._refuse(late, refusals.store_failed("another program keeps writing to the topic"))
        self._queue.forget([write for write in group if write not in late])
        try:
            await self.reach(behind.end)
        except TimeoutError:
            self._refuse(self._queue.clear(), refusals.store_timeout("the log cannot be read to its end"))

    def _part(self, group: Sequence[Pending]) -> None:
        """One of these is too large: it is refused, the others come again, each alone."""
        if len(group) > 1:
            for write in group:
                write.alone = True
            self._queue.forget(group)
            return
        size = max(len(encode_value(entry.value) or b"") for entry in group[0].entries)
        self._queue.forget()
        self._refuse(group, refusals.too_large(size))

    @staticmethod
    def _refuse(group: Sequence[Pending], exc: Exception) -> None:
        for write in group:
            write.fail(exc)

    async def _lost(self, exc: WriterLost) -> Exception:
        await self._drop_writer()
        self.changed.set()
        if isinstance(exc, Fenced):
            return NotLeading()
        if exc.certain:
            return refusals.store_failed(str(exc))
        return refusals.store_timeout(f"{exc}; whether the write happened is not known")

    async def _commit(self, writer: Writer, entries: Sequence[Entry], expected: int) -> int:
        """Write at an offset and take in what was written; gives the offset that comes next."""
        items = [item for entry in entries for item in self._items(entry)]
        hit("registry.write")
        records = await self._call(writer.write, items, expected)
        hit("registry.written")
        self._ended = self._loop.time()
        self._take(records, following(records), False)
        return following(records)

    def _items(self, entry: Entry) -> list[tuple[bytes, bytes | None]]:
        """The records of an entry; other spellings of its key end with it."""
        value = entry.value
        if entry.key.keytype is Keytype.NOOP:
            value = {_LEADER: self.url, _INSTANCE: self.name, **(value or {})}
        others = sorted(self._spellings.get(entry.key, ()))
        return [(encode_key(entry.key), encode_value(value)), *((spelling, None) for spelling in others)]

    async def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, function, *args)

    async def _drop_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            await self._call(writer.close)

    async def close(self) -> None:
        """Stop reading and writing."""
        await self._loop.run_in_executor(None, self._reader.stop)
        async with self._writing:
            await self._drop_writer()
        self._thread.shutdown(wait=False)
        if self.failure.done() and not self.failure.cancelled():
            self.failure.exception()  # seen, so that nobody is warned about it
