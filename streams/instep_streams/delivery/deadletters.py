"""Dead letters: documents that a target refused for good wait in the topic `dead.<target>` until a person has looked.

The ledger says which are open: the newest outcome of the key is a rejection. A newer version that was applied closes
the older letter by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from instep.protocols import Key
from instep.settings import Settings
from instep.topics import dead_letter_topic, value_subject
from instep_connectors.kafka import OutRecord, TopicSpec
from instep_schemas import records
from instep_schemas.client import RegistryClient
from instep_streams.delivery.conflate import Waiting
from instep_streams.delivery.decide import Entry
from instep_streams.delivery.ledger import Ledger, key_of, key_text

SCHEMA: Final = "dead_letter"

_OPEN = """
SELECT DISTINCT ON (o.flow, o.key) o.flow, o.key, o.version, o.code, o.field, o.message, o.attempts, o.delivered_us
FROM instep_delivery.outcomes o
LEFT JOIN instep_delivery.applied a USING (target, flow, key)
WHERE o.target = %(target)s AND o.outcome = 'rejected' AND o.version > coalesce(a.version, -1)
ORDER BY o.flow, o.key, o.version DESC
"""


@dataclass(frozen=True, slots=True)
class OpenLetter:
    """A rejected document whose key has seen nothing newer.

    Attributes:
        flow: the flow.
        key: the document's key.
        version: of the document.
        code: why, for grouping.
        field: the column at fault, if known.
        message: the target's own words.
        attempts: tries so far.
        at_us: when it was rejected, microseconds since the Unix epoch.
    """

    flow: str
    key: Key
    version: int
    code: str
    field: str | None
    message: str
    attempts: int
    at_us: int


def topic_spec(target: str) -> TopicSpec:
    """The dead-letter topic: kept for ever, one partition."""
    return TopicSpec(dead_letter_topic(target), 1, {"cleanup.policy": "delete", "retention.ms": "-1"})


class KafkaLetters:
    """Puts dead letters into the target's topic.

    Args:
        target: its name.
        registry: for the letters' schema.
        send: produces records and returns when they are acknowledged.
    """

    def __init__(
        self, target: str, registry: RegistryClient, send: Callable[[Sequence[OutRecord]], Awaitable[None]]
    ) -> None:
        self._target, self._registry, self._send = target, registry, send
        self._topic = dead_letter_topic(target)

    async def put(self, rejected: Sequence[tuple[Waiting, Entry]]) -> None:
        """Store letters; returns when they are acknowledged.

        Raises:
            ConnectionError, TimeoutError: Kafka or the registry does not answer.
            KafkaFault, RegistryError: they refuse.
        """
        subject, schema = value_subject(self._topic), records.schema_text(SCHEMA)
        schema_id = await asyncio.to_thread(self._registry.register, subject, schema)
        now = time.time_ns() // 1000
        await self._send([self._letter(schema_id, waiting, entry, now) for waiting, entry in rejected])

    def _letter(self, schema_id: int, waiting: Waiting, entry: Entry, now: int) -> OutRecord:
        document, rejected, origin = waiting.document, entry.rejected, waiting.origin
        assert rejected is not None
        letter: dict[str, Any] = {
            "target": self._target,
            "flow": document.flow,
            "key": list(document.key),
            "version": document.version,
            "code": rejected.code,
            "field": rejected.field,
            "message": rejected.message,
            "attempts": entry.attempts,
            "at_us": now,
            "topic": origin.topic,
            "partition": origin.partition,
            "offset": origin.offset,
            "document": waiting.value,
        }
        key = json.dumps([document.flow, *document.key], ensure_ascii=False).encode()
        return OutRecord(self._topic, key, records.frame(schema_id, records.encode(SCHEMA, letter)))


async def open_letters(ledger: Ledger) -> list[OpenLetter]:
    """The open letters of the ledger's target, by flow and key.

    Raises:
        ConnectionError: the state database does not answer.
    """
    rows = await ledger.fetch(_OPEN, {})
    return [OpenLetter(row[0], key_of(row[1]), *row[2:]) for row in rows]


async def list_open(settings: Settings, target: str) -> list[OpenLetter]:
    """The open letters of a target, by flow and key.

    Raises:
        ConnectionError: the state database does not answer.
        StateError: it refuses.
    """
    ledger = Ledger(settings.state.dsn.reveal(), target)
    try:
        await ledger.open()
        return await open_letters(ledger)
    finally:
        await ledger.aclose()


def same_key(letter: OpenLetter, flow: str | None, key: Key | None) -> bool:
    """Whether a person who named a flow and a key (None: any) means this letter."""
    return (flow is None or letter.flow == flow) and (key is None or key_text(letter.key) == key_text(key))
