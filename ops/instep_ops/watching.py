"""`instep flow watch`: each document as it changes, field by field, with the changes of the store that caused it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from instep.change import Position
from instep.errors import ConfigError, EnvironmentFault
from instep.protocols import Document, Fields, Key
from instep.settings import Settings
from instep.topics import flow_topic
from instep_connectors.kafka import Follower, RangeReader, end_offsets, partitions, start_offsets
from instep_ops.verification.compare import same_value
from instep_ops.verification.worker import decoder
from instep_ops.verify import by_source
from instep_schemas.ciphers import hold
from instep_schemas.client import RegistryClient
from instep_streams.flows.causes import Cause, Causes
from instep_streams.flows.compile import compile_flow
from instep_streams.flows.session import open_state
from instep_streams.flows.tables import Tables
from instep_streams.flows.worker import failure


@dataclass(frozen=True, slots=True)
class Seen:
    """One document version.

    Attributes:
        document: as it is now.
        what: `new`, `changed`, `gone`; `same` for one that was sent again.
        fields: columns that differ: name, old value, new value.
        causes: the changes that led to it; empty when none is known.
    """

    document: Document
    what: str
    fields: tuple[tuple[str, Any, Any], ...]
    causes: tuple[Cause, ...]

    def lines(self) -> list[str]:
        """As a person reads it."""
        document = self.document
        when = _time(document.committed_us) or "first evaluation"
        lines = [f"{self.what:8}{', '.join(document.key)}  at {document.position}  ({when})"]
        for name, old, new in self.fields:
            lines.append(f"  {name}: {new!s}" if self.what == "new" else f"  {name}: {old!s} → {new!s}")
        for each in self.causes:
            where = f"at {each.position}" + (f", transaction {each.transaction}" if each.transaction else "")
            lines.append(f"  because {each.op.name} {each.table} ({', '.join(each.key)}) "
                         f"[{', '.join(each.columns)}] {where}")  # fmt: skip
        return lines

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        document = self.document
        return {
            "flow": document.flow, "key": document.key, "what": self.what, "version": document.version,
            "position": str(document.position), "committed": _time(document.committed_us) or None,
            "fields": {name: {"old": old, "new": new} for name, old, new in self.fields},
            "causes": [
                asdict(each) | {"op": each.op.name.lower(), "position": str(each.position)} for each in self.causes
            ],
        }  # fmt: skip


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).isoformat(timespec="milliseconds") if us else ""


def differences(old: Fields | None, new: Fields | None) -> tuple[str, tuple[tuple[str, Any, Any], ...]]:
    """What has become of a document, and the columns that differ."""
    before, after = old or {}, new or {}
    fields = tuple(
        (name, before.get(name), after.get(name))
        for name in dict.fromkeys([*after, *before])
        if name not in before or name not in after or not same_value(before[name], after[name])
    )
    if new is None:
        return ("gone" if old is not None else "same"), ()
    return ("new" if old is None else "changed" if fields else "same"), fields


def watch(settings: Settings, name: str, ready: Any = lambda: None) -> Iterator[Seen]:
    """Every document version of a flow from now on, for ever.

    Args:
        settings: resolved.
        name: the flow's.
        ready: called once what is there now has been read.

    Raises:
        ConfigError: no such flow.
        InstepError: a part refuses.
        ConnectionError, TimeoutError: a part does not answer.
    """
    ((source, flows),) = by_source(settings, [name]).items()
    flow, topic = flows[name], flow_topic(name)
    hold(settings.encryption)
    count = partitions(settings.kafka, topic)
    if not count:
        raise ConfigError(f"Flow {name} has no topic yet.", "Start its worker first (`instep up`).")
    with ExitStack() as stack:
        registry = stack.enter_context(closing(RegistryClient.of(settings.registry)))
        # of several sources nobody can say from one position which changes came since the version before
        traced = settings.sources[source].journal and not settings.joined(source)
        causes = _causes(settings, source, name, registry, stack) if traced else None
        decode = decoder(registry, flow)
        tps = [(topic, number) for number in range(count)]
        starts, ends = start_offsets(settings.kafka, tps), end_offsets(settings.kafka, tps)
        held: dict[Key, Fields | None] = {}
        newest = Position(0, 0)
        reader = stack.enter_context(closing(RangeReader(settings.kafka, "instep-watch-start")))
        for record in reader.read({tp: (starts[tp], ends[tp]) for tp in tps if ends[tp] > starts[tp]}):
            document = decode(record)
            held[document.key], newest = document.fields, max(newest, document.position)
        follower = stack.enter_context(closing(Follower(settings.kafka, ends)))
        ready()
        before, current = newest, newest
        for record in follower:
            document = decode(record)
            if document.position > current:  # the first of a new batch: its changes begin behind the batch before
                before, current = current, document.position
            what, fields = differences(held.get(document.key), document.fields)
            held[document.key] = document.fields
            told = causes.of(document, before) if causes is not None and document.committed_us else []
            yield Seen(document, what, fields, tuple(told))


def _causes(settings: Settings, source: str, name: str, registry: RegistryClient, stack: ExitStack) -> Causes:
    ((_, flows),) = by_source(settings, [name]).items()
    try:
        conn = stack.enter_context(closing(open_state(settings.state.dsn.reveal())))
        row = conn.execute("SELECT to_regclass('instep.flows') IS NOT NULL").fetchone()
        if row != (True,):
            raise EnvironmentFault("There is no replica yet.", "Start the worker first (`instep up`).")
        plan = compile_flow(flows[name], Tables(conn, source).captured)
    except psycopg.Error as exc:
        raise failure(exc) from exc
    return stack.enter_context(closing(Causes(conn, plan, settings.kafka, registry, source)))
