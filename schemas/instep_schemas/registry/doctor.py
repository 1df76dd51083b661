"""`instep registry doctor`: records under keys in another spelling, which compaction does not see as the same.

Kafka compacts by a key's bytes. A version written once as `{"subject":…,"keytype":…}` survives the deletion of
`{"keytype":…,"subject":…}`, and is back once compaction has taken the tombstone away. The cure: tombstones for the
other spellings, and what holds now under the one spelling, all in one fenced transaction.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from instep.errors import RegistryError
from instep.settings import KafkaSettings
from instep_schemas.compatibility import SchemaFault
from instep_schemas.registry.entries import (
    EntryFault,
    Key,
    Keytype,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    schema_entry,
)
from instep_schemas.registry.log import TOPIC, Behind, Fenced, Reader, Record, WriteFailed, Writer, WriterLost
from instep_schemas.registry.store import Store, Version
from instep_schemas.registry.subjects import canonical, context_of

_CURED: Final = (Keytype.SCHEMA, Keytype.CONFIG, Keytype.MODE, Keytype.CONTEXT)
"""The others are notes of what happened at their offset: in any spelling harmless there, but not at the end."""
_READ_S: Final = 60.0
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Orphan:
    """A spelling of a key that has a value, and should have none.

    Attributes:
        key: what it means.
        spelling: its bytes.
        holds: whether what it means is there now; else it would come back after compaction.
    """

    key: Key
    spelling: bytes
    holds: bool

    def __str__(self) -> str:
        what = self.key.context or self.key.subject or "everything"
        version = f" v{self.key.version}" if self.key.keytype is Keytype.SCHEMA else ""
        fate = "in another spelling" if self.holds else "deleted, but comes back after compaction"
        return f"{self.key.keytype} of {what}{version}: {fate}: {self.spelling.decode(errors='replace')}"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What a topic holds.

    Attributes:
        position: the offset after what was read.
        records: how many there were.
        orphans: to be cured.
        faults: what a person has to look at.
        cure: the records to write, in this order.
    """

    position: int
    records: int
    orphans: tuple[Orphan, ...] = ()
    faults: tuple[str, ...] = ()
    cure: tuple[tuple[bytes, bytes | None], ...] = field(default=(), repr=False)


def diagnose(records: Sequence[Record], position: int) -> Diagnosis:
    """Look through the records of a topic (pure)."""
    newest: dict[Key, Record] = {}
    spellings: dict[Key, dict[bytes, Record]] = {}
    faults: list[str] = []
    store = Store()
    for record in records:
        try:
            key = decode_key(record.key)
            newest[key] = record
            spellings.setdefault(key, {})[record.key or b""] = record
            store.apply(key, decode_value(record.value), record.written_ms)
        except EntryFault as exc:
            faults.append(f"offset {record.offset} is passed over: {exc}")
    orphans: list[Orphan] = []
    cure: list[tuple[bytes, bytes | None]] = []
    for key, found in spellings.items():
        own, gone = encode_key(key), newest[key].value is None
        others = [raw for raw, record in found.items() if record.value is not None and (raw != own or gone)]
        if others and key.keytype in _CURED:
            value = _holding(key, newest[key], newest)
            orphans += [Orphan(key, raw, value is not None) for raw in others]
            cure += [*((raw, None) for raw in others if raw != own), (own, value)]
    for version in _returning(store, records, cure):
        faults.append(f"{version.subject} v{version.version} would come back after compaction")
        entry = schema_entry(*version.place, version.schema_id, version.content, deleted=True)
        cure.append((encode_key(entry.key), encode_value(entry.value)))
    return Diagnosis(position, len(records), tuple(orphans), (*faults, *_contradictions(store)), tuple(cure))


def _returning(store: Store, records: Sequence[Record], cure: Sequence[tuple[bytes, bytes | None]]) -> list[Version]:
    """Softly deleted versions whose deletion compaction forgets: a later one of the subject was of fewer versions."""
    kept = {record.key: record.value for record in sorted({r.key: r for r in records}.values(), key=lambda r: r.offset)}
    left = Store()
    for raw, value in (*kept.items(), *cure):
        try:
            left.apply(decode_key(raw), decode_value(value))
        except EntryFault:
            continue
    live = {version.place for version in left.every_version() if not version.deleted}
    return [version for version in store.every_version() if version.deleted and version.place in live]


def _holding(key: Key, record: Record, newest: dict[Key, Record]) -> bytes | None:
    """What holds of a key now: written once more at the end, a later deletion of its subject must not be undone."""
    if key.keytype is not Keytype.SCHEMA or record.value is None:
        return record.value
    try:
        value = decode_value(record.value)
    except EntryFault:
        return record.value
    if value is not None and _later(Keytype.DELETE_SUBJECT, key, record, newest):
        value["deleted"] = True
    cleared = _later(Keytype.CLEAR_SUBJECT, key, record, newest)
    return None if value is None or (cleared and value.get("deleted")) else encode_value(value)


def _later(kind: Keytype, key: Key, record: Record, newest: dict[Key, Record]) -> bool:
    """Whether a note about the subject comes after a version's record, and is about that version, too."""
    note = newest.get(Key(kind, key.subject))
    if note is None or note.value is None or note.offset < record.offset:
        return False
    try:
        value: Any = json.loads(note.value)
        return kind is Keytype.CLEAR_SUBJECT or int(value["version"]) >= key.version
    except (ValueError, TypeError, KeyError):
        return False


def _contradictions(store: Store) -> list[str]:
    """Ids with two meanings, and references into nothing."""
    told: list[str] = []
    meanings: dict[tuple[str, int], str] = {}
    for version in store.every_version():
        place = f"{version.subject} v{version.version}"
        meaning = meanings.setdefault((context_of(version.subject), version.schema_id), version.content.guid)
        if meaning != version.content.guid:
            told.append(f"{place} has the id {version.schema_id}, which means another schema elsewhere")
        try:
            store.resolved_text(version.content, canonical(version.subject))
        except SchemaFault as exc:
            told.append(f"{place}: {exc}")
    return told


def examine(settings: KafkaSettings, topic: str = TOPIC) -> Diagnosis:
    """Read the topic to its end and look through it. Blocking.

    Raises:
        RegistryError: the topic is not there.
        ConnectionError: Kafka does not give it.
    """
    read: list[Record] = []
    ends: list[int] = []
    failures: list[RegistryError] = []
    over = threading.Event()

    def take(records: Sequence[Record], position: int, at_end: bool) -> None:
        if not over.is_set():
            read.extend(records)
            if at_end:
                ends.append(position)
                over.set()

    def fail(error: RegistryError) -> None:
        failures.append(error)
        over.set()

    reader = Reader(settings, take, fail, topic)
    reader.start()
    try:
        in_time = over.wait(_READ_S)
    finally:
        reader.stop()
    if failures:
        raise failures[0]
    if not in_time:
        raise ConnectionError(f"Kafka does not give the topic {topic} to its end.")
    return diagnose(read, ends[0])


def heal(settings: KafkaSettings, topic: str = TOPIC) -> Diagnosis:
    """Cure what is found; gives what was found. A registry that runs loses its lead for about a second. Blocking.

    Raises:
        RegistryError: other programs keep writing to the topic.
        ConnectionError: Kafka does not answer.
    """
    for _ in range(_TRIES):
        writer = Writer(settings, topic)
        try:
            writer.take_over()
            found = examine(settings, topic)
            if found.cure:
                writer.write(found.cure, found.position)
            return found
        except (Behind, Fenced):  # a registry took the lead back meanwhile
            continue
        except (WriteFailed, WriterLost) as exc:
            raise ConnectionError(f"The topic {topic} cannot be written: {exc}.") from exc
        finally:
            writer.close()
    raise RegistryError(
        f"Other programs keep writing to the topic {topic}.", "Stop the registries, then run this command again."
    )
