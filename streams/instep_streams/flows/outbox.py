"""The worker's output: documents as Kafka records, and the marker that says which batch was published last."""

from __future__ import annotations

import json
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from instep.change import JOINED_HEADER, POSITION_HEADER
from instep.errors import StateError
from instep.protocols import Key
from instep.settings import KafkaSettings
from instep.topics import emission_topic, flow_topic, key_subject, value_subject
from instep_connectors.kafka import RawRecord, Record, TopicSpec, ensure_topics, last_record, read_topic
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
_UNKNOWN: Final = "0" * 16
"""A digest that no document has."""
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


class Held(NamedTuple):
    """What a flow's topic holds.

    Attributes:
        alive: digests by key, without those of deleted documents.
        newest: the largest batch number of all.
    """

    alive: Mapping[Key, str]
    newest: int = 0


@dataclass(frozen=True, slots=True)
class _Flow:
    """How one flow's documents are written."""

    topic: str
    version: bytes
    key_frame: bytes
    value_frame: bytes
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
            topic, version.encode("ascii"), frame(self._registry.register(key_subject(topic), keys), b""),
            frame(self._registry.register(value_subject(topic), values), b""), KeyCodec(keys), DocumentCodec(values),
        )  # fmt: skip

    def records(self, batch: Batch) -> Iterator[RawRecord]:
        """A batch's documents and tombstones, the marker last; made one by one, also in another thread and later.

        Raises:
            StateError: a document holds a value that its schema cannot carry.
        """
        return self._records(batch, self._flows.copy())  # a flow may have been deployed anew by then

    def _records(self, batch: Batch, flows: Mapping[str, _Flow]) -> Iterator[RawRecord]:
        progress = batch.progress
        committed = (0 if batch.seed else progress.newest_us).to_bytes(8, "big", signed=True)
        constant = [(POSITION_HEADER, progress.position.pack()), (COMMITTED_HEADER, committed)]
        joined = [(f"{JOINED_HEADER}{name}", each.position.pack()) for name, each in progress.joined.items()]
        for name, key, document, digest, number in batch.documents:
            flow = flows[name]
            headers = [
                (BATCH_HEADER, number.to_bytes(8, "big", signed=True)), *constant,
                (DIGEST_HEADER, digest.encode("ascii")), (FLOW_HEADER, flow.version), *joined,
            ]  # fmt: skip
            value = None if document is None else _value(flow, document)
            yield flow.topic, flow.key_frame + flow.keys.encode(key), value, None, headers, 0
        marker = {
            "batch": progress.batch, "settled": progress.settled, "entry": progress.entry,
            "joined": {name: each.settled for name, each in progress.joined.items()},
        }  # fmt: skip
        topic = emission_topic(self._source, self._share.of)
        yield topic, b"worker", json.dumps(marker).encode(), self._share.number, None, 0

    def held(self, flow: str, joined: Collection[str] = ()) -> Held:
        """What a flow's topic holds, of whichever worker.

        Args:
            flow: its name.
            joined: the sources joined to the worker's. A document with positions of others is another worker's, who
                counts from another source: its digest is given as one that differs, so that it is published again.
        """
        alive: dict[Key, str] = {}
        newest = 0
        for record in read_topic(self._kafka, flow_topic(flow)):
            schema_id, body = unframe(record.key or b"")
            key = decode_key(self._registry.schema(schema_id), body)
            headers = dict(record.headers)
            newest = max(newest, int.from_bytes(headers.get(BATCH_HEADER) or b"", "big", signed=True))
            if record.value is None:
                alive.pop(key, None)
                continue
            digest = (headers.get(DIGEST_HEADER) or b"").decode("ascii")
            others = {name.removeprefix(JOINED_HEADER) for name in headers if name.startswith(JOINED_HEADER)}
            alive[key] = digest if digest and others == set(joined) else _UNKNOWN
        return Held(alive, newest)


def _value(flow: _Flow, document: str) -> bytes:
    try:
        return flow.value_frame + flow.documents.encode(document)
    except Unencodable as exc:
        raise StateError(
            f"A document of {flow.topic} cannot be written: {exc}.", "Cast the column to text in the SELECT."
        ) from exc


def read_marker(kafka: KafkaSettings, source: str, share: Share = _ALL, joined: str = "") -> Marker:
    """What was published last; start the `Publisher` first, it settles what a dead one left open.

    Args:
        kafka: the brokers.
        source: whose worker it is.
        share: its part of the keys.
        joined: of which joined source `settled` is to tell; empty: of the worker's own.
    """
    return marker_of(last_record(kafka, emission_topic(source, share.of), share.number), joined)


def known_marker(
    kafka: KafkaSettings, known: Container[str], source: str, share: Share, joined: str = ""
) -> Marker:  # fmt: skip
    """As `read_marker`; of nothing where the marker's topic is not among the `known` ones."""
    there = emission_topic(source, share.of) in known
    return read_marker(kafka, source, share, joined) if there else Marker()


def marker_of(record: Record | None, joined: str = "") -> Marker:
    """Read a marker record; `joined` as in `read_marker`."""
    if record is None:
        return Marker()
    told = json.loads(record.value or b"{}")
    settled = told.get("joined", {}).get(joined, 0) if joined else told["settled"]
    return Marker(int(told["batch"]), int(settled))
