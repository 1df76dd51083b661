"""The worker's output: documents as Kafka records, and the marker that says which batch was published last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from instep.change import POSITION_HEADER
from instep.errors import StateError
from instep.protocols import Key
from instep.settings import KafkaSettings
from instep.topics import emission_topic, flow_topic, key_subject, value_subject
from instep_connectors.kafka import OutRecord, Record, TopicSpec, ensure_topics, last_record, read_topic
from instep_schemas.client import RegistryClient
from instep_schemas.documents import (
    DocumentCodec,
    DocumentColumn,
    KeyCodec,
    Unencodable,
    decode_key,
    key_schema,
    value_schema,
)  # fmt: skip
from instep_schemas.records import frame, unframe
from instep_streams.flows.batch import Batch
from instep_streams.flows.layout import Share

BATCH_HEADER: Final = "instep.batch"
COMMITTED_HEADER: Final = "instep.committed_us"
DIGEST_HEADER: Final = "instep.digest"
FLOW_HEADER: Final = "instep.flow"
_COMPACTED: Final = {"cleanup.policy": "compact"}
_ALL: Final = Share()


def marker_topic(source: str, workers: int) -> TopicSpec:
    """The markers' topic: a partition for each worker."""
    return TopicSpec(emission_topic(source, workers), workers, _COMPACTED)


class Marker(NamedTuple):
    """What was published last.

    Attributes:
        batch: the worker batch, 0 for none.
        settled: the last journal entry all of whose documents were out with it.
    """

    batch: int = 0
    settled: int = 0


@dataclass(frozen=True, slots=True)
class _Flow:
    """How one flow's documents are written."""

    topic: str
    version: bytes
    key_id: int
    value_id: int
    keys: KeyCodec
    documents: DocumentCodec


class Outbox:
    """Makes records of documents. Blocking.

    Args:
        kafka: the brokers.
        registry: takes the flows' schemas.
        source: the source's name.
    """

    def __init__(
        self, kafka: KafkaSettings, registry: RegistryClient, source: str, share: Share = _ALL
    ) -> None:  # fmt: skip
        self._kafka, self._registry, self._source, self._share = kafka, registry, source, share
        self._flows: dict[str, _Flow] = {}

    def set_up(self) -> None:
        """Create the marker's topic."""
        ensure_topics(self._kafka, [marker_topic(self._source, self._share.of)])

    def add(
        self, flow: str, version: str, columns: tuple[DocumentColumn, ...], key: tuple[str, ...], parts: int
    ) -> None:
        """Create a flow's topic and register its schemas.

        Raises:
            RegistryError: the new schema cannot be read by readers of the old one.
        """
        topic = flow_topic(flow)
        ensure_topics(self._kafka, [TopicSpec(topic, parts, _COMPACTED)])
        keys, values = key_schema(flow, columns, key), value_schema(flow, columns, key)
        self._flows[flow] = _Flow(
            topic, version.encode("ascii"), self._registry.register(key_subject(topic), keys),
            self._registry.register(value_subject(topic), values), KeyCodec(keys), DocumentCodec(values),
        )  # fmt: skip

    def records(self, batch: Batch) -> Iterator[OutRecord]:
        """A batch's documents and tombstones, the marker last.

        Raises:
            StateError: a document holds a value that its schema cannot carry.
        """
        progress = batch.progress
        position = progress.position.pack()
        committed = (0 if batch.seed else progress.committed_us).to_bytes(8, "big", signed=True)
        for each in batch.documents:
            flow = self._flows[each.flow]
            headers = [
                (BATCH_HEADER, each.batch.to_bytes(8, "big", signed=True)), (POSITION_HEADER, position),
                (COMMITTED_HEADER, committed), (DIGEST_HEADER, each.digest.encode("ascii")),
                (FLOW_HEADER, flow.version),
            ]  # fmt: skip
            key = frame(flow.key_id, flow.keys.encode(each.key))
            yield OutRecord(flow.topic, key, self._value(flow, each.document), None, headers)
        marker = {"batch": progress.batch, "settled": progress.settled, "entry": progress.entry}
        topic = emission_topic(self._source, self._share.of)
        yield OutRecord(topic, b"worker", json.dumps(marker).encode(), self._share.number)

    def _value(self, flow: _Flow, document: str | None) -> bytes | None:
        if document is None:
            return None
        try:
            return frame(flow.value_id, flow.documents.encode(document))
        except Unencodable as exc:
            raise StateError(
                f"A document of {flow.topic} cannot be written: {exc}.", "Cast the column to text in the SELECT."
            ) from exc

    def held(self, flow: str) -> Iterable[tuple[Key, str]]:
        """Keys and digests of the documents that a flow's topic holds alive."""
        alive: dict[Key, str] = {}
        for record in read_topic(self._kafka, flow_topic(flow)):
            schema_id, body = unframe(record.key or b"")
            key = decode_key(self._registry.schema(schema_id), body)
            if record.value is None:
                alive.pop(key, None)
            else:
                alive[key] = dict(record.headers).get(DIGEST_HEADER, b"").decode("ascii")
        return alive.items()


def read_marker(kafka: KafkaSettings, source: str, share: Share = _ALL) -> Marker:
    """What was published last; start the `Publisher` first, it settles what a dead one left open."""
    return marker_of(last_record(kafka, emission_topic(source, share.of), share.number))


def marker_of(record: Record | None) -> Marker:
    """Read a marker record."""
    if record is None:
        return Marker()
    told = json.loads(record.value or b"{}")
    return Marker(int(told["batch"]), int(told["settled"]))
