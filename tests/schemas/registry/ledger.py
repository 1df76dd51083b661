"""A registry without Kafka: decisions go into a list of records, and from there into the store."""

from __future__ import annotations

import json
from typing import Any

from instep_schemas.registry.entries import Decision, decode_key, decode_value, encode_key, encode_value
from instep_schemas.registry.registration import register
from instep_schemas.registry.requests import schema_request
from instep_schemas.registry.store import Store

Records = list[tuple[bytes, bytes | None]]


def load(records: Records) -> Store:
    """The store that a topic with these records gives."""
    store = Store()
    for key, value in records:
        store.apply(decode_key(key), decode_value(value))
    return store


def compacted(records: Records) -> Records:
    """What Kafka's cleaner leaves of a topic, in the end: the last record of each key, and no tombstones."""
    last = {key: offset for offset, (key, _) in enumerate(records)}
    return [(key, value) for offset, (key, value) in enumerate(records) if last[key] == offset and value is not None]


def seen(store: Store) -> dict[str, Any]:
    """Everything that a client could ask of a store."""
    subjects: list[str | None] = [*store.subjects(":*:", deleted=True), *store.scopes_within(None), None]
    return {
        "versions": list(store.every_version()),
        "config": {subject: store.config(subject) for subject in subjects},
        "mode": {subject: store.mode(subject) for subject in subjects},
        "contexts": store.contexts(),
        "highest": store.highest_ids(),
    }


class Ledger:
    """State and its records."""

    def __init__(self, records: Records | None = None) -> None:
        self.records: Records = list(records or ())
        self.store = load(self.records)

    def carry_out(self, decision: Decision) -> Any:
        """Write a decision."""
        for entry in decision.entries:
            self.records.append((encode_key(entry.key), encode_value(entry.value)))
            self.store.apply(entry.key, entry.value)
        return decision.answer

    def register(self, subject: str, schema: Any, **body: Any) -> Any:
        """Register; gives the id."""
        text = schema if isinstance(schema, str) else json.dumps(schema)
        request = schema_request({"schema": text, **body})
        return self.carry_out(register(self.store, subject, request))["id"]


def row(name: str = "row", *fields: str) -> dict[str, Any]:
    """A record schema whose fields all have defaults."""
    made = [{"name": field, "type": "int", "default": 0} for field in fields]
    return {"type": "record", "name": name, "fields": made}
