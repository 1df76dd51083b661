"""The two ways in which a record says its schema: an id before its bytes, or a GUID in a header.

Ids end with the registry that gave them out, GUIDs do not: they are made of the schema. With the header (Confluent's
`__key_schema_id` and `__value_schema_id`, one byte 1 and the GUID), the bytes are Avro and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

from instep_schemas.records import unframe

KEY_HEADER: Final = "__key_schema_id"
VALUE_HEADER: Final = "__value_schema_id"
_BY_ID: Final = 0
_BY_GUID: Final = 1
_PREFIX: Final = struct.Struct(">bI").pack


class Guids(Protocol):
    """The part of `RegistryClient` that is needed."""

    def guid(self, schema_id: int) -> bytes:
        """The GUID of a schema, 16 bytes."""
        ...

    def id_of(self, guid: bytes) -> int:
        """The id of a schema."""
        ...


Record = TypeVar("Record")
"""A named tuple with `key`, `value` and `headers` (pairs of name and bytes)."""


class SchemaIds:
    """From one way to the other; remembers what it has asked."""

    def __init__(self, registry: Guids) -> None:
        self._registry = registry
        self._guids: dict[int, bytes] = {}
        self._ids: dict[bytes, int] = {}

    def prefixed(self, records: Iterable[Record]) -> Iterator[Record]:
        """Records that all say it by an id before their bytes; others' headers stay as they are.

        Raises:
            RegistryError: the registry does not know the GUID.
            ConnectionError, TimeoutError: it does not answer.
        """
        each: Any
        for each in records:
            changes: dict[str, bytes] = {}
            for name, told in each.headers:
                if name == VALUE_HEADER and each.value is not None:
                    changes["value"] = self._prefix(told) + each.value
                elif name == KEY_HEADER and each.key is not None:
                    changes["key"] = self._prefix(told) + each.key
            yield each._replace(**changes) if changes else each

    def _prefix(self, told: bytes) -> bytes:
        if told[:1] == b"\x00":
            return told[:5]
        guid = told[1:17]
        if guid not in self._ids:
            self._ids[guid] = self._registry.id_of(guid)
        return _PREFIX(_BY_ID, self._ids[guid])

    def bare(
        self, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]:
        """A record with ids before its bytes as one that says it by headers.

        Raises:
            RegistryError: the registry does not know the id, or gives no GUIDs.
            ConnectionError, TimeoutError: it does not answer.
        """
        told = list(headers)
        if key is not None:
            schema_id, key = unframe(key)
            told.append((KEY_HEADER, self._header(schema_id)))
        if value is not None:
            schema_id, value = unframe(value)
            told.append((VALUE_HEADER, self._header(schema_id)))
        return key, value, told

    def _header(self, schema_id: int) -> bytes:
        if schema_id not in self._guids:
            self._guids[schema_id] = bytes((_BY_GUID,)) + self._registry.guid(schema_id)
        return self._guids[schema_id]
