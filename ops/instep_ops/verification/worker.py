"""A flow as the worker sees it: its SELECT on any PostgreSQL, its documents in Kafka, how far it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import psycopg

from instep.errors import FlowError, RegistryError, VerifyFailed
from instep.flowfile import Flow
from instep.protocols import Document, Fields, Key
from instep.settings import Settings
from instep.topics import flow_topic, value_subject
from instep_connectors.kafka import Record
from instep_connectors.postgres.session import store_failure
from instep_schemas.client import RegistryClient
from instep_schemas.documents import DocumentCodec, Unencodable
from instep_streams.delivery.records import waiting_of
from instep_streams.flows.catalog import quote
from instep_streams.flows.parse import statement
from instep_streams.flows.session import pin
from instep_streams.flows.status import status

_SELECT = 'SELECT row_to_json("*instep*")::text, ARRAY[{keys}]::text[] FROM (\n{select}\n) AS "*instep*" WHERE {named}'
"""As the worker asks; the alias is a name that no output column has by accident. A row without a key is no document."""


def select_text(flow: Flow) -> str:
    """The query that gives each document as JSON text, and its key."""
    columns = [f'"*instep*".{quote(name)}' for name in flow.key]
    return _SELECT.format(
        keys=", ".join(f"{each}::text" for each in columns),
        select=statement(flow.sql),
        named=" AND ".join(f"{each} IS NOT NULL" for each in columns),
    )


def evaluate(conn: psycopg.Connection[Any], flow: Flow) -> dict[Key, str]:
    """The whole SELECT, as the worker evaluates it: JSON text of each row by key.

    Args:
        conn: of the store, in a transaction; its session settings are changed.
        flow: the flow.

    Raises:
        FlowError: PostgreSQL refuses the SELECT, or a key comes twice.
        ConnectionError: the store goes away.
    """
    try:
        pin(conn)
        rows = conn.execute(select_text(flow).encode()).fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError) as exc:
        words = " ".join(str(exc).splitlines()[0].split())
        raise FlowError("RESOLVE", f"The store refuses flow {flow.name}: {words}.") from None
    except psycopg.Error as exc:
        raise store_failure(exc) from exc
    found: dict[Key, str] = {}
    for text, key in rows:
        if tuple(key) in found:
            raise FlowError(
                "KEY_NOT_UNIQUE", f"Flow {flow.name}: its key ({', '.join(flow.key)}) is not unique in the store."
            )
        found[tuple(key)] = text
    return found


class Evaluator:
    """Evaluates flows on the store and types the rows as their documents in the topic are typed.

    Args:
        registry: knows the topics' schemas.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    def rows(self, conn: psycopg.Connection[Any], flow: Flow) -> dict[Key, Fields]:
        """The whole SELECT by key.

        Raises:
            FlowError: as `evaluate`; or the SELECT has changed since the worker took it.
            RegistryError: the worker has not started the flow yet.
        """
        return self.typed(flow, evaluate(conn, flow))

    def typed(self, flow: Flow, rows: Mapping[Key, str]) -> dict[Key, Fields]:
        """Rows as JSON texts, typed as the flow's documents are; raises as `rows`."""
        subject = value_subject(flow_topic(flow.name))
        schema = self._registry.latest(subject)
        if schema is None:
            raise RegistryError(f"Flow {flow.name} has no schema yet.", "Start its worker first (`instep up`).")
        codec = DocumentCodec(schema[2])
        try:
            return {key: codec.decode(codec.encode(text)) for key, text in rows.items()}
        except (KeyError, Unencodable) as exc:
            raise FlowError(
                "CHANGED", f"The rows of flow {flow.name} do not fit its topic's schema: {exc}.",
                "Restart the worker: the flow's file has changed since it started.",
            ) from None  # fmt: skip


def decoder(registry: RegistryClient, flow: Flow) -> Callable[[Record], Document]:
    """What reads the records of a flow's topic; raises `VerifyFailed` for bytes that are no document."""

    def decode(record: Record) -> Document:
        try:
            return waiting_of(record, flow.name, registry.schema).document
        except ValueError as exc:
            place = f"{record.topic} [{record.partition}] at offset {record.offset}"
            raise VerifyFailed(f"{place} is no document of flow {flow.name}: {exc}.") from None

    return decode


class Progress(NamedTuple):
    """How far the worker of a source is.

    Attributes:
        emitted: number of the last journal entry whose documents are all in Kafka; 0: none.
        flows: the flows it works on.
        fault: why keys of a flow cannot be evaluated; empty when all can.
        batch: number of its last batch: changes while it works.
        applied: number of the last journal entry applied: changes while the replica is filled.
    """

    emitted: int
    flows: frozenset[str] = frozenset()
    fault: str = ""
    batch: int = 0
    applied: int = 0


def progress(settings: Settings, source: str) -> Progress:
    """Ask the worker's state how far it is.

    Raises:
        InstepError, ConnectionError: the worker's state or Kafka does not answer.
    """
    found = status(settings, source)
    faults = [f"{name}: {each['fault']}" for name, each in found["flows"].items() if each["fault"]]
    live = frozenset(name for name, each in found["flows"].items() if each["state"] == "live")
    return Progress(
        int(found["emitted_journal_batch"]), live, "; ".join(faults), int(found["worker_batch"]), int(found["batch"])
    )  # fmt: skip


def emitted_batch(settings: Settings, source: str) -> int:
    """Number of the last journal entry whose documents are all in Kafka; 0: none. Raises as `progress`."""
    return progress(settings, source).emitted
