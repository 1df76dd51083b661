"""A flow whose file is gone: nothing happens to its documents until a person says what. Blocking."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from typing import Any, Final

import psycopg
from psycopg import Connection, sql

from instep.change import POSITION_HEADER
from instep.errors import ConfigError, StateError
from instep.flowfile import Flow
from instep.protocols import Key
from instep.settings import KafkaSettings, Settings
from instep.topics import flow_topic
from instep_connectors.kafka import OutRecord, Publisher, Record, delete_topics, partitions, read_topic
from instep_schemas.administration import RegistryAdmin
from instep_streams.delivery.beside import beside
from instep_streams.delivery.conflate import Origin, Waiting
from instep_streams.delivery.records import waiting_of
from instep_streams.flows.layout import Share, database, exists, known
from instep_streams.flows.outbox import BATCH_HEADER, COMMITTED_HEADER, DIGEST_HEADER, FLOW_HEADER
from instep_streams.flows.worker import failure

_PAGE: Final = 500
_OWN: Final = """
SELECT relname FROM pg_class WHERE relnamespace = 'instep'::regnamespace AND relkind = 'r' AND relname ~ %s"""


class Fate(StrEnum):
    """What happens to the documents of a flow that is removed."""

    KEEP = "keep"
    TOMBSTONE = "tombstone"
    DELETE = "delete"


def decisions(words: Iterable[str]) -> dict[str, Fate]:
    """Read `FLOW=WHAT`.

    Raises:
        ConfigError: not of this form.
    """
    found = {}
    for word in words:
        name, _, fate = word.partition("=")
        if not name or fate not in list(Fate):
            raise ConfigError(f"--documents {word}: it is not FLOW=keep, FLOW=tombstone or FLOW=delete.")
        found[name] = Fate(fate)
    return found


def question(settings: Settings, admin: RegistryAdmin, name: str) -> str:
    """What a person must decide about a flow whose file is gone."""
    count = sum(each.document.fields is not None for each in _newest(settings.kafka, admin, name).values())
    flow = _definition(settings, name)
    own = flow is not None and flow.target is not None
    target = f" and in {flow.target} (delete = {flow.delete.value})" if flow is not None and own else ""
    return (
        f"its {count} documents: `instep apply --documents {name}=keep` leaves the topic and the target as they are; "
        f"{name}=tombstone ends each in the topic{target}; {name}=delete deletes the topic {flow_topic(name)} and "
        "leaves the target as it is"
    )


def remove(settings: Settings, admin: RegistryAdmin, name: str, fate: Fate) -> None:
    """Do with a removed flow's documents what was decided, then forget the flow. May be repeated when cut off.

    Raises:
        StateError: a worker still works on it.
        InstepError, ConnectionError, TimeoutError: a part refuses or does not answer.
    """
    with _stopped(settings, name) as states:
        flow = _definition(settings, name)
        if fate is Fate.TOMBSTONE:
            asyncio.run(_tombstone(settings, admin, name, flow))
        elif fate is Fate.DELETE and partitions(settings.kafka, flow_topic(name)):
            delete_topics(settings.kafka, [flow_topic(name)])
        for conn in states:
            _forget(conn, name)


@contextmanager
def _stopped(settings: Settings, name: str) -> Iterator[list[Connection[Any]]]:
    """The state databases that know the flow, while no worker can begin to work on it again."""
    try:
        with ExitStack() as stack:
            found = []
            for source, dsn in _states(settings):
                conn = stack.enter_context(psycopg.connect(dsn, autocommit=True, application_name="instep apply"))
                if (state := _state(conn, name)) is None:
                    continue
                idle = conn.execute(
                    "SELECT pg_try_advisory_lock(hashtextextended('instep worker ' || %s, 0))", (source,)
                ).fetchone()
                if state != "removed" and idle != (True,):
                    raise StateError(f"A worker still works on flow {name}.", "Restart it, then apply again.")
                found.append(conn)
            yield found
    except psycopg.Error as exc:
        raise failure(exc) from exc


def _state(conn: Connection[Any], name: str) -> str | None:
    if conn.execute("SELECT to_regclass('instep.flows') IS NULL").fetchone() == (True,):
        return None
    row = conn.execute("SELECT state FROM instep.flows WHERE name = %s", (name,)).fetchone()
    return None if row is None else str(row[0])


def _states(settings: Settings) -> Iterator[tuple[str, str]]:
    for source in settings.leaders:
        workers = max(known(settings, source).workers, settings.sources[source].workers)
        for share in (Share(number, workers) for number in range(workers)):
            if exists(settings, source, share):
                yield source, database(settings, source, share)


def _definition(settings: Settings, name: str) -> Flow | None:
    """The flow as it was last deployed; None when that was before definitions were kept."""
    try:
        with psycopg.connect(settings.state.dsn.reveal(), autocommit=True) as conn:
            query = "SELECT to_jsonb(f) -> 'definition' FROM instep.flows f WHERE name = %s"
            row = conn.execute(query, (name,)).fetchone()
    except psycopg.Error as exc:
        raise failure(exc) from exc
    return None if row is None or row[0] is None else Flow.model_validate(row[0])


def _forget(conn: Connection[Any], name: str) -> None:
    with conn.transaction():
        row = conn.execute("DELETE FROM instep.flows WHERE name = %s RETURNING id", (name,)).fetchone()
        if row is not None:
            pattern = f"^(out|dirty|pending)_{row[0]}$|^part_{row[0]}(_|$)"
            for (table,) in conn.execute(_OWN, (pattern,)).fetchall():
                conn.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("instep", table)))


def _newest(kafka: KafkaSettings, admin: RegistryAdmin, name: str) -> Mapping[Key, Waiting]:
    if not partitions(kafka, flow_topic(name)):
        return {}
    every = (waiting_of(record, name, admin.schema) for record in read_topic(kafka, flow_topic(name)))
    return {each.document.key: each for each in every}


async def _tombstone(settings: Settings, admin: RegistryAdmin, name: str, flow: Flow | None) -> None:
    """End every document in the topic, then in the target; what was ended before the call was cut off stays so."""
    newest = await asyncio.to_thread(_newest, settings.kafka, admin, name)
    alive = {each.origin for each in newest.values() if each.document.fields is not None}
    if alive:
        version = max(each.document.version for each in newest.values()) + 1
        records = await asyncio.to_thread(list, read_topic(settings.kafka, flow_topic(name)))
        publisher = Publisher(settings.kafka, f"{settings.name}-removal-{name}")
        await publisher.start()
        try:
            places = ((Origin(each.topic, each.partition, each.offset), each) for each in records)
            await publisher.publish([_ended(each, version) for place, each in places if place in alive])
        finally:
            await publisher.aclose()
        newest = await asyncio.to_thread(_newest, settings.kafka, admin, name)
    if flow is not None and flow.target is not None:
        waiting = list(newest.values())
        async with beside(settings, flow.target, {name: flow}) as parts:
            for start in range(0, len(waiting), _PAGE):
                await parts.engine.deliver(waiting[start : start + _PAGE])


def _ended(record: Record, version: int) -> OutRecord:
    """The tombstone behind a document."""
    headers = dict(record.headers)
    kept = [(each, headers[each]) for each in (POSITION_HEADER, FLOW_HEADER) if each in headers]
    own = [(BATCH_HEADER, version.to_bytes(8, "big", signed=True)), (COMMITTED_HEADER, bytes(8)), (DIGEST_HEADER, b"")]
    return OutRecord(record.topic, record.key, None, record.partition, [*own, *kept])
