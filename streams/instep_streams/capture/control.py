"""Ask a running capture for copies, from outside: the command goes through Kafka, a message in the store tells when.

The message alone could not carry it: whoever may connect to the store may write one, and a condition is SQL that runs
with capture's rights.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, NamedTuple

import psycopg

from instep.errors import SourceError
from instep.settings import Settings
from instep.topics import commands_topic
from instep_connectors.kafka import OutRecord, Publisher, partitions
from instep_connectors.postgres.publication import matcher, publication_exists, published_tables
from instep_connectors.postgres.session import connect, store_failure
from instep_connectors.postgres.slot import Connection
from instep_streams.capture.batch import captured_lsn
from instep_streams.capture.commands import Kind, encoded
from instep_streams.capture.kafka import last_entry
from instep_streams.capture.watermarks import MESSAGE_PREFIX

_RATE_OVER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class TableProgress:
    """How far the copy of one table is.

    Attributes:
        table: `schema.table`.
        state: `waiting`, `reading`, `paused` or `done`.
        rows: written so far.
        total: rows there are, roughly; None: not known.
        first: its rows were never captured before.
        condition: only rows that meet it, empty for all.
        request: who asked.
    """

    table: str
    state: Literal["waiting", "reading", "paused", "done"]
    rows: int
    total: int | None
    first: bool = False
    condition: str = ""
    request: str = ""


def progress(state: str) -> list[TableProgress]:
    """The copies that a journal entry's `snapshot_state` tells of, of a first snapshot too."""
    known: dict[str, Any] = json.loads(state) if state else {}
    paused = bool(known.get("paused"))
    found = [TableProgress(name, "done", rows, rows, True) for name, rows in known.get("done", {}).items()]
    for number, each in enumerate(known.get("copies", ())):
        begun = each["rows"] > 0 or number == 0
        found.append(
            TableProgress(
                each["table"], "paused" if paused else "reading" if begun else "waiting", each["rows"], each["total"],
                each["first"], each["condition"], each["request"],
            )
        )  # fmt: skip
    return found


def progressing(history: Sequence[tuple[float, str]]) -> list[dict[str, Any]]:
    """The newest `progress`, with `rate` (rows/s) and `left_s` (seconds), both None when not known.

    Args:
        history: per journal entry when it was written, in seconds, and its `snapshot_state`; oldest first.
    """
    if not history or not history[-1][1]:
        return []
    now, newest = history[-1]
    at, oldest = next(each for each in history if each[1] and each[0] >= now - _RATE_OVER_S)
    before = {each.table: each.rows for each in progress(oldest)}
    return [_rated(each, before.get(each.table, 0), now - at) for each in progress(newest)]


def _rated(now: TableProgress, before: int, seconds: float) -> dict[str, Any]:
    written = now.rows - before
    rate = written / seconds if seconds > 0 and written > 0 and now.state != "done" else None
    left = None if rate is None or now.total is None else max(0, now.total - now.rows) / rate
    return {
        **asdict(now),
        "rate": None if rate is None else round(rate),
        "left_s": None if left is None else round(left, 1),
    }


class Asked(NamedTuple):
    """Something that was asked for.

    Attributes:
        request: an id, as `TableProgress` has it.
        lsn: capture knows of it when it is behind this.
    """

    request: str
    lsn: int


def under_way(settings: Settings, source: str) -> list[TableProgress]:
    """The copies of a source as its journal tells.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    entry = last_entry(settings.kafka, source)
    return [] if entry is None else progress(entry.snapshot_state)


def standing(settings: Settings, source: str, asked: Asked) -> list[TableProgress] | None:
    """What is under way of what was asked for; None: capture does not know of it yet.

    Raises as `under_way`.
    """
    entry = last_entry(settings.kafka, source)
    if entry is None:
        return None
    found = [each for each in progress(entry.snapshot_state) if each.request == asked.request]
    return found if found or captured_lsn(entry) > asked.lsn else None


def ask(settings: Settings, source: str, kind: Kind, tables: Sequence[str] = (), where: str = "") -> Asked:
    """Ask for something; the running capture does it when its stream comes to this moment.

    Args:
        settings: resolved.
        source: its name.
        kind: `run`, `pause`, `resume` or `stop`.
        tables: `schema.table` patterns; empty for `stop`: all.
        where: SQL that the rows to copy must meet.

    Returns:
        What to look for in `standing`.

    Raises:
        SourceError: there is no such table, the store is a standby, or the source was never captured.
        ConnectionError, TimeoutError: store or broker are gone for now.
    """
    topic = commands_topic(source)
    if not partitions(settings.kafka, topic):
        raise SourceError(f"The source {source} was never captured.", "Start it: instep up, or instep capture.")
    request = uuid.uuid4().hex[:12]
    with connect(settings.sources[source].dsn.reveal(), f"instep ask {source}") as store:
        try:
            _check(store, settings.sources[source].publication, tables, where)
            offset = asyncio.run(_publish(settings, source, topic, encoded(kind, tuple(tables), where, request)))
            message = json.dumps({"command": offset, "source": source})  # every slot of the database gets it
            store.execute("SELECT pg_logical_emit_message(true, %s, %s)", (MESSAGE_PREFIX, message))
            # a second one, behind the commit of the first: what is captured behind its LSN has come past the first
            query = "SELECT (pg_logical_emit_message(true, %s, 'asked') - '0/0'::pg_lsn)::bigint"
            row = store.execute(query, (MESSAGE_PREFIX,)).fetchone()
        except psycopg.Error as exc:
            raise store_failure(exc) from exc
    assert row is not None
    return Asked(request, int(str(row[0])))


def _check(store: Connection, publication: str, tables: Sequence[str], where: str) -> None:
    row = store.execute("SELECT pg_is_in_recovery()").fetchone()
    if row is not None and row[0]:
        raise SourceError("The store is a standby: it takes no watermarks.", "Ask on the primary's source.")
    if not publication_exists(store, publication):
        return  # capture says what is wrong with it
    known = published_tables(store, publication)
    for pattern in tables:
        found = [table for table in known if matcher([pattern]).fullmatch(table.table)]
        if not found:
            raise SourceError(
                f"The publication {publication} holds no table {pattern}.",
                f"ALTER PUBLICATION {publication} ADD TABLE …;",
            )
        if where:
            _check_condition(store, f"{found[0].schema}", found[0].name, where)


def _check_condition(store: Connection, schema: str, name: str, where: str) -> None:
    """Let the store say at once what is wrong with a condition."""
    query = psycopg.sql.SQL("EXPLAIN SELECT FROM {} WHERE ({})").format(
        psycopg.sql.Identifier(schema, name), psycopg.sql.SQL(where)
    )
    try:
        store.execute(query)
    except psycopg.ProgrammingError as exc:
        words = (exc.diag.message_primary or str(exc)).strip()
        raise SourceError(f"The condition is not one for {schema}.{name}: {words}.", "Correct --where.") from None


async def _publish(settings: Settings, source: str, topic: str, value: bytes) -> int:
    publisher = Publisher(settings.kafka, f"instep-command-{source}")
    try:
        await publisher.start()
        starts, _ = await publisher.publish([OutRecord(topic, None, value, 0)])
        return starts[topic, 0]
    finally:
        await publisher.aclose()
