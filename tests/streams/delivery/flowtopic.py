"""A flow topic as the worker writes it: real Kafka, real registry, the worker's own codecs and headers."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from instep.change import Position
from instep.settings import KafkaSettings, RegistrySettings, Secret, Settings, SourceSettings, StateSettings
from instep.topics import flow_topic, key_subject, value_subject
from instep_connectors.kafka import OutRecord, Publisher, TopicSpec, ensure_topics
from instep_schemas.client import RegistryClient
from instep_schemas.documents import DocumentCodec, DocumentColumn, KeyCodec, key_schema, value_schema
from instep_schemas.records import frame


class FlowTopic:
    """One flow of one project: its file, its topic, its documents."""

    def __init__(
        self,
        folder: Path,
        kafka: KafkaSettings,
        registry: str,
        dsn: str,
        targets: Mapping[str, Any],
        *,
        header: str,
        columns: Sequence[DocumentColumn],
        key: str,
        name: str = "",
    ) -> None:
        self.name = name or f"card_{uuid.uuid4().hex[:8]}"
        self.topic = flow_topic(self.name)
        self.kafka = kafka
        flows = folder / "flows"
        flows.mkdir(exist_ok=True)
        (flows / f"{self.name}.sql").write_text(f'/* instep\ntarget = "crm"\nkey = "{key}"\n{header}\n*/\nSELECT 1\n')
        self.settings = Settings(
            name=f"p{uuid.uuid4().hex[:8]}",
            sources={"shop": SourceSettings(dsn=Secret("x"))},
            kafka=kafka,
            registry=RegistrySettings(url=registry),
            state=StateSettings(dsn=Secret(dsn)),
            targets=dict(targets),
            root=folder,
        )
        self.registry = RegistryClient(registry)
        texts = key_schema(self.name, columns, [key]), value_schema(self.name, columns, [key])
        self._keys, self._values = KeyCodec(texts[0]), DocumentCodec(texts[1])
        self._ids = (
            self.registry.register(key_subject(self.topic), texts[0]),
            self.registry.register(value_subject(self.topic), texts[1]),
        )
        ensure_topics(kafka, [TopicSpec(self.topic, 3, {"cleanup.policy": "compact"})])

    def record(
        self, key: str, fields: Mapping[str, Any] | None, version: int, committed_us: int | None = None
    ) -> OutRecord:
        """One document version as the worker would emit it."""
        text = None if fields is None else json.dumps(fields)
        value = None if text is None else frame(self._ids[1], self._values.encode(text))
        committed = time.time_ns() // 1000 if committed_us is None else committed_us
        headers = [
            ("instep.batch", version.to_bytes(8, "big")),
            ("instep.position", Position(1, version * 8).pack()),
            ("instep.committed_us", committed.to_bytes(8, "big")),
            ("instep.digest", f"{hash(text) & (2**64 - 1):016x}".encode() if text else b""),
            ("instep.flow", b"1"),
        ]
        return OutRecord(self.topic, frame(self._ids[0], self._keys.encode((key,))), value, None, headers)

    async def emit(self, *records: OutRecord) -> None:
        """Produce in one transaction."""
        publisher = Publisher(self.kafka, f"test-{uuid.uuid4().hex}")
        await publisher.start()
        await publisher.publish(records)
        await publisher.aclose()
