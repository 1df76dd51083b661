"""Delivering dead letters again: the stored document goes to the target once more; the ledger gets the new outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Any

from instep.change import Position
from instep.protocols import Document, Key
from instep.settings import Settings
from instep.topics import dead_letter_topic
from instep_connectors.kafka import partitions, read_topic
from instep_schemas import records
from instep_schemas.documents import decode_document
from instep_streams.delivery.beside import beside
from instep_streams.delivery.conflate import Origin, Waiting
from instep_streams.delivery.deadletters import SCHEMA, OpenLetter, open_letters, same_key
from instep_streams.delivery.records import Schema
from instep_streams.delivery.sinks import target_flows

Wanted = dict[tuple[str, Key, int], OpenLetter]


async def retry(settings: Settings, target: str, flow: str | None = None, key: Key | None = None) -> dict[str, int]:
    """Deliver the open letters of a target again, all or those of a flow or a key.

    A letter whose key has seen a newer version is closed already and not touched.

    Returns:
        How many had which outcome. What is no document (code DECODE) cannot be delivered and counts as rejected.

    Raises:
        ConnectionError, TimeoutError: a part does not answer; letters stay open.
        InstepError: one refuses.
    """
    flows = target_flows(settings, target)
    chosen = {name: each for name, each in flows.items() if flow in (None, name)}
    async with beside(settings, target, chosen) as parts:
        letters = [each for each in await open_letters(parts.ledger) if same_key(each, flow, key)]
        wanted = {(each.flow, each.key, each.version): each for each in letters if each.flow in chosen}
        stored = await asyncio.to_thread(_stored, settings, target, wanted)
        waiting = await asyncio.to_thread(_documents, stored, parts.registry.schema)
        counts = Counter({"rejected": len(letters) - len(waiting)})
        for kind, count in (await parts.engine.deliver(waiting)).items():
            counts[kind.value] += count
    return {kind: count for kind, count in counts.items() if count}


def _stored(settings: Settings, target: str, wanted: Wanted) -> list[dict[str, Any]]:
    """The letters as the topic holds them; of one that was rejected several times the last."""
    topic = dead_letter_topic(target)
    if not wanted or not partitions(settings.kafka, topic):
        return []
    found: dict[tuple[str, Key, int], dict[str, Any]] = {}
    for record in read_topic(settings.kafka, topic):
        if record.value is None:
            continue
        letter = records.decode(SCHEMA, records.unframe(record.value)[1])
        name = (letter["flow"], tuple(letter["key"]), letter["version"])
        if name in wanted and letter["code"] != "DECODE":
            found[name] = letter
    return list(found.values())


def _documents(letters: Iterable[dict[str, Any]], schema: Schema) -> list[Waiting]:
    waiting = []
    for letter in letters:
        value: bytes | None = letter["document"]
        fields = None
        if value is not None:
            schema_id, body = records.unframe(value)
            fields = decode_document(schema(schema_id), body)
        # Without a digest: the ledger then asks the target about the next version instead of trusting an equal one.
        document = Document(letter["flow"], tuple(letter["key"]), fields, letter["version"], Position(0, 0))
        origin = Origin(letter["topic"], letter["partition"], letter["offset"])
        waiting.append(Waiting(document, origin, value))
    return waiting
