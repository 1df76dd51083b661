"""Keys and values of the `_schemas` topic (pure).

Compaction goes by the *bytes* of a key, so a key has one spelling, which is Confluent's: this field order, no white
space. A key in any other spelling (older Karapace wrote some) is read, and reported by `is_canonical`, because a
deletion under the canonical key does not remove it: it must be deleted under its own spelling.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from instep_schemas.registry.avro_text import Content, Reference


class Keytype(StrEnum):
    """What a record of the topic is about."""

    SCHEMA = "SCHEMA"
    CONFIG = "CONFIG"
    MODE = "MODE"
    DELETE_SUBJECT = "DELETE_SUBJECT"
    CLEAR_SUBJECT = "CLEAR_SUBJECT"
    NOOP = "NOOP"
    CONTEXT = "CONTEXT"


class EntryFault(ValueError):
    """A record that is none of a schema registry's."""


@dataclass(frozen=True, slots=True)
class Key:
    """A record's key.

    Attributes:
        keytype: what it is about.
        subject: qualified subject; None for what holds everywhere, and for NOOP and CONTEXT.
        version: of SCHEMA; 0 otherwise.
        context: of CONTEXT.
        tenant: of CONTEXT.
    """

    keytype: Keytype
    subject: str | None = None
    version: int = 0
    context: str = ""
    tenant: str = "default"


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to write; value None deletes the key."""

    key: Key
    value: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Decision:
    """Entries to write, all or none, and what to answer once they are written."""

    answer: Any
    entries: tuple[Entry, ...] = ()


def encode_key(key: Key) -> bytes:
    """The one spelling of a key."""
    fields: dict[str, Any] = {"keytype": str(key.keytype)}
    if key.keytype is Keytype.SCHEMA:
        fields |= {"subject": key.subject, "version": key.version, "magic": 1}
    elif key.keytype is Keytype.NOOP:
        fields |= {"magic": 0}
    elif key.keytype is Keytype.CONTEXT:
        fields |= {"tenant": key.tenant, "context": key.context, "magic": 0}
    else:
        fields |= {"subject": key.subject, "magic": 0}
    return _compact(fields)


def encode_value(value: dict[str, Any] | None) -> bytes | None:
    """Compact JSON, or None for a tombstone."""
    return None if value is None else _compact(value)


def _compact(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def decode_key(data: bytes | None) -> Key:
    """Read a key in any spelling.

    Raises:
        EntryFault: it is none of a schema registry's.
    """
    try:
        fields = json.loads(data or b"")
        keytype = Keytype(fields["keytype"])
        if keytype is Keytype.CONTEXT:
            return Key(keytype, context=str(fields["context"]), tenant=str(fields.get("tenant") or "default"))
        if keytype is Keytype.NOOP:
            return Key(keytype)
        subject = fields.get("subject")
        version = int(fields["version"]) if keytype is Keytype.SCHEMA else 0
    except (ValueError, TypeError, KeyError) as exc:
        raise EntryFault(f"not a key of a schema registry: {exc}") from exc
    if keytype is Keytype.SCHEMA and not isinstance(subject, str):
        raise EntryFault("a SCHEMA key without a subject")
    return Key(keytype, subject, version)


def is_canonical(data: bytes) -> bool:
    """Whether a readable key is in the one spelling."""
    return encode_key(decode_key(data)) == data


def decode_value(data: bytes | None) -> dict[str, Any] | None:
    """Read a value; None is a tombstone.

    Raises:
        EntryFault: it is no JSON object.
    """
    if data is None:
        return None
    try:
        value = json.loads(data)
    except ValueError as exc:
        raise EntryFault(f"not a value of a schema registry: {exc}") from exc
    if value is not None and not isinstance(value, dict):
        raise EntryFault("not a value of a schema registry: no JSON object")
    return value


def schema_entry(subject: str, version: int, schema_id: int, content: Content, *, deleted: bool = False) -> Entry:
    """The record of one version."""
    value: dict[str, Any] = {"subject": subject, "version": version, "id": schema_id}
    if content.references:
        value["references"] = [reference.body() for reference in content.references]
    if content.metadata is not None:
        value["metadata"] = dict(content.metadata)
    if content.rule_set is not None:
        value["ruleSet"] = dict(content.rule_set)
    value |= {"schema": content.text, "deleted": deleted}
    return Entry(Key(Keytype.SCHEMA, subject, version), value)


def content_of(value: dict[str, Any]) -> Content:
    """The content in a SCHEMA value.

    Raises:
        EntryFault: it holds no schema.
    """
    try:
        references = tuple(
            Reference(str(r["name"]), str(r["subject"]), int(r["version"])) for r in value.get("references") or ()
        )
        return Content(str(value["schema"]), references, value.get("metadata"), value.get("ruleSet"))
    except (KeyError, TypeError, ValueError) as exc:
        raise EntryFault(f"a SCHEMA value without {exc}") from exc
