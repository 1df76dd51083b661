"""The records that changed last, in the store and in the CRM side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from instep.errors import InstepError
from instep.flowfile import Flow
from instep.protocols import Key, Sink
from instep.settings import Settings
from instep_connectors.kafka import Record
from instep_ops.demo.figures import Pair
from instep_ops.demo.project import SOURCE
from instep_schemas.documents import decode_key
from instep_schemas.records import unframe
from instep_streams.delivery.sinks import open_sink, registry_client

_RECORDS = 2


class Pairs:
    """Looks up both sides. Use as an async context.

    Args:
        settings: resolved.
        flows: by name.
    """

    def __init__(self, settings: Settings, flows: Mapping[str, Flow]) -> None:
        self._settings = settings
        self._flows = flows
        self._registry = registry_client(settings.registry)
        self._sinks: dict[str, Sink] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Pairs:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def of(self, records: Sequence[Record]) -> list[Pair]:
        """Both sides of the newest records; empty while a side does not answer."""
        try:
            wanted = await asyncio.to_thread(self._keys, records)
            return [pair for flow, key in wanted for pair in await self._pairs(flow, key)]
        except (ConnectionError, TimeoutError, psycopg.Error, InstepError, ValueError):
            return []  # a picture for people: whatever is wrong shows elsewhere

    def _keys(self, records: Sequence[Record]) -> list[tuple[Flow, Key]]:
        """The newest records' flows and keys, each once."""
        found: dict[tuple[str, Key], None] = {}
        for record in reversed(records):
            name = record.topic.removeprefix("flow.")
            schema, body = unframe(record.key or b"")
            found[name, decode_key(self._registry.schema(schema), body)] = None
            if len(found) == _RECORDS:
                break
        return [(self._flows[name], key) for name, key in found]

    async def _pairs(self, flow: Flow, key: Key) -> list[Pair]:
        store = await asyncio.to_thread(self._store, flow, key)
        crm = await self._crm(flow, key)
        names = [name for name in flow.fields or store if name not in flow.key]
        told = " ".join(key)
        return [
            Pair(
                flow.name if place == 0 else "", told if place == 0 else "", name, _text(store, name), _text(crm, name)
            )
            for place, name in enumerate(names)
        ]

    def _store(self, flow: Flow, key: Key) -> Mapping[str, Any]:
        condition = sql.SQL(" AND ").join(sql.SQL("q.{}::text = %s").format(sql.Identifier(name)) for name in flow.key)
        query = sql.SQL("SELECT * FROM ({}) q WHERE {}").format(sql.SQL(flow.sql), condition)  # the user's own text
        with psycopg.connect(self._settings.sources[SOURCE].dsn.reveal(), row_factory=dict_row) as conn:
            return conn.execute(query, key).fetchone() or {}

    async def _crm(self, flow: Flow, key: Key) -> Mapping[str, Any]:
        if flow.target is None:
            return {}
        if flow.name not in self._sinks:
            self._sinks[flow.name] = sink = await asyncio.to_thread(open_sink, self._settings, flow, self._registry)
            self._stack.push_async_callback(sink.aclose)
        return (await self._sinks[flow.name].read([key])).get(key, {})


def _text(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return "(no record)"
    value = row[name]
    return "NULL" if value is None else str(value)
