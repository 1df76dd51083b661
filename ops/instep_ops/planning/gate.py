"""What a migration would do to topics, consumers and flows, found out by running it on an empty copy of the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from instep.flowfile import Flow
from instep.relation import Relation
from instep.settings import Settings
from instep.topics import data_topic, flow_topic, key_subject, value_subject
from instep_connectors.postgres.session import connect
from instep_connectors.postgres.skeleton import definitions
from instep_ops.planning.scratch import APPLICATION, Scratch, scratch
from instep_ops.planning.state import State, joined_flows, look, options_of
from instep_ops.planning.storeguard import shapes
from instep_ops.planning.subjects import text_of
from instep_ops.planning.verdict import FlowVerdict, GateReport, TableVerdict
from instep_schemas.bundle import Bundle
from instep_schemas.compatibility import Level, check
from instep_schemas.derive import TableSchemas, derive
from instep_schemas.evolution import Change, Kind, changes
from instep_schemas.standins import constant_default
from instep_schemas.wire import Unsupported
from instep_streams.capture.tables import nullable, to_widen


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the gate.

    Attributes:
        settings: of the project; the store's address resolved unless `schema` is given.
        source: its name.
        flows: those that read it.
        migrations: SQL files, in order.
        schema: an SQL file with the store's definitions; None: they are read from the store.
        server: where a scratch database may be made; None: an embedded server.
        lock: registered schemas; without them the store's schema now counts as the only version.
        level: overrides the level of every subject; None: what the lock says, else BACKWARD.
        accepted: dangers a person has accepted: `table`, `table.column` or `flow.column`.
    """

    settings: Settings
    source: str
    flows: Mapping[str, Flow]
    migrations: Sequence[Path]
    schema: Path | None = None
    server: str | None = None
    lock: Bundle = field(default_factory=Bundle)
    level: Level | None = None
    accepted: frozenset[str] = frozenset()


def judge(question: Question) -> GateReport:
    """Run the migrations on a scratch database and compare before and after.

    Raises:
        ConfigError: a file cannot be read, or its SQL fails.
        SourceError, ConnectionError: the store refuses, or does not answer.
        EnvironmentFault: the embedded PostgreSQL is not installed.
    """
    patterns = question.settings.sources[question.source].tables
    texts = [(file.name, text_of(file)) for file in question.migrations]
    with scratch(question.server) as place:
        left_out = _build(place, question)
        before = look(place.conn, patterns, question.flows)
        for name, text in texts:
            place.run(text, name)
        after = look(place.conn, patterns, question.flows)
        everywhere = look(place.conn, ("*.*",), {}) if set(before.relations) - set(after.relations) else after
    unjudged = joined_flows(question.settings, question.source, before.flows)
    judged = {name: flow for name, flow in question.flows.items() if name not in unjudged}
    comparison = _Comparison(replace(question, flows=judged), before, after, everywhere)
    return GateReport(
        tuple(comparison.tables()), tuple(comparison.flows()), tuple(left_out), question.accepted, tuple(unjudged),
    )  # fmt: skip


def shapes_after(question: Question, tables: Sequence[str]) -> dict[str, Any]:
    """What the migrations make of tables, as the store's guard sees it; raises as `judge`."""
    with scratch(question.server) as place:
        _build(place, question)
        for file in question.migrations:
            place.run(text_of(file), file.name)
        return shapes(place.conn, tables)


def _build(place: Scratch, question: Question) -> list[str]:
    """Make the store's definitions; gives those that this server cannot make."""
    if question.schema is not None:
        place.run(text_of(question.schema), question.schema.name)
        return []
    with closing(connect(question.settings.sources[question.source].dsn.reveal(), APPLICATION)) as store:
        return place.build(definitions(store))


class _Comparison:
    """Before against after."""

    def __init__(self, question: Question, before: State, after: State, everywhere: State) -> None:
        self._question, self._before, self._after, self._everywhere = question, before, after, everywhere
        self._options = options_of(question.settings, question.source)

    # ---- tables

    def tables(self) -> Iterator[TableVerdict]:
        """One verdict per captured table that changes."""
        by_name = {relation.table: relation for relation in self._after.relations.values()}
        same = set()
        for oid, old in self._before.relations.items():
            new = self._everywhere.relations.get(oid) or by_name.get(old.table)
            same.add(new.oid if new else 0)
            verdict = self._gone(old) if new is None else self._changed(old, new)
            if verdict.changes or verdict.stops:
                yield verdict
        for oid, new in self._after.relations.items():
            if oid not in same:
                yield self._fresh(new)

    def _verdict(self, table: str, found: Sequence[Change], **more: object) -> TableVerdict:
        readers: dict[str, tuple[str, ...]] = {}
        for change in found:
            names = {change.column, change.old if change.kind is Kind.RENAMED else change.column}
            readers[change.column] = tuple(sorted(self._readers(table, names)))
        topic = data_topic(self._question.source, *table.split(".", 1))
        verdict = TableVerdict(table, topic, self._level(value_subject(topic)), tuple(found), readers)
        return replace(verdict, **more)  # type: ignore[arg-type]  # its own attributes

    def _readers(self, table: str, columns: set[str]) -> Iterator[str]:
        for name, state in self._before.flows.items():
            needed = state.plan.needed.get(table) if state.plan else None
            if needed is not None and ("" in columns or columns & set(needed)):
                yield name

    def _gone(self, old: Relation) -> TableVerdict:
        why = "no deletes are sent: topic, replica and documents keep its rows"
        rewrite = "DELETE its rows first (captured), take it out of the flows, then drop it."
        return self._verdict(old.table, [Change("", Kind.TABLE_DROPPED, old.table, "", why=why, rewrite=rewrite)])

    def _fresh(self, new: Relation) -> TableVerdict:
        publication = self._question.settings.sources[self._question.source].publication
        why = (
            "it has no primary key: capture leaves it out"
            if new.table in self._after.keyless
            else f"captured once it is published: ALTER PUBLICATION {publication} ADD TABLE {new.table}"
        )
        return self._verdict(new.table, [Change("", Kind.ADDED, "", new.table, why=why)])

    def _changed(self, old: Relation, new: Relation) -> TableVerdict:
        found: list[Change] = []
        if old.table != new.table:
            why = "its changes go to another topic under other subjects; what reads the old one gets nothing more"
            rewrite = f"Keep the name, and give the other one as a view: CREATE VIEW {new.table} AS SELECT …"
            found.append(Change("", Kind.TABLE_RENAMED, old.table, new.table, why=why, rewrite=rewrite))
        if old.oid != new.oid:
            why = "the old rows' deletes are not sent, and a new table is not published by itself"
            rewrite = "ALTER the table instead of making it anew."
            found.append(Change("", Kind.TABLE_REPLACED, old.table, new.table, why=why, rewrite=rewrite))
        renamed = self._renamed(old, new) if old.oid == new.oid else None
        # under the old name: where it went is said above, and its columns are to be compared
        moved = replace(new, schema=old.schema, name=old.name)
        try:
            before, after = derive(old, self._options), derive(moved, self._options)
        except Unsupported as exc:
            return self._verdict(old.table, found, stops=(str(exc),))
        return self._judged(old, moved, before, after, found, renamed)

    def _judged(
        self, old: Relation, new: Relation, before: TableSchemas, after: TableSchemas, found: list[Change],
        renamed: Mapping[str, str] | None,
    ) -> TableVerdict:  # fmt: skip
        topic = data_topic(self._question.source, old.schema, old.name)
        subject = value_subject(topic)
        stops = self._refused(subject, before.value_text, after.value_text)
        widened: set[str] = set()
        if stops:
            widened = to_widen(after.value, json.loads(before.value_text))
            after = derive(nullable(new, widened), self._options)
            stops = self._refused(subject, before.value_text, after.value_text)
        if before.key_text and after.key_text:
            stops += self._refused(key_subject(topic), before.key_text, after.key_text)
        found += changes(
            before.value_text, after.value_text, old_key=before.key_text, new_key=after.key_text, renamed=renamed
        )
        found += self._of_rows(old, new)
        columns = {each.column for each in found}
        return self._verdict(old.table, found, stops=tuple(stops), widened=tuple(sorted(widened & columns)))

    def _renamed(self, old: Relation, new: Relation) -> dict[str, str]:
        """Columns under another name: a rename keeps the column's number."""
        before, after = self._before.numbers[old.oid], self._everywhere.numbers[new.oid]
        return {name: after[number] for number, name in before.items() if after.get(number, name) != name}

    def _of_rows(self, old: Relation, new: Relation) -> Iterator[Change]:
        """What happens to the rows that are there already."""
        known = {column.name for column in old.columns} | set(
            self._renamed(old, new).values() if old.oid == new.oid else ()
        )
        for column in new.columns:
            if column.name in known:
                continue
            if (new.oid, column.name) in self._everywhere.counted:
                why = "the rows that are there are numbered in the store only: PostgreSQL does not send them"
                rewrite = "Add it as nullable, fill it with UPDATE (captured), then make it an identity."
                yield Change(column.name, Kind.REWRITTEN, "", "identity", why=why, rewrite=rewrite)
            elif column.not_null and column.default is None:
                why = "on a table that has rows, the migration fails here"
                rewrite = "Add it as nullable, fill it with UPDATE, then SET NOT NULL."
                yield Change(column.name, Kind.NOT_NULL, "", "without a default", why=why, rewrite=rewrite)
            elif column.default is not None and constant_default(column) is None:
                why = "the rows that are there get the value in the store only: PostgreSQL does not send them"
                rewrite = "Add it without a default, then SET DEFAULT, then fill old rows with UPDATE (captured)."
                yield Change(column.name, Kind.REWRITTEN, "", column.default, why=why, rewrite=rewrite)

    def _refused(self, subject: str, before: str, after: str) -> list[str]:
        """Why the level refuses the new schema; with the lock: against every version it must fit."""
        held = [(each.version, each.schema) for each in self._question.lock.of(subject) if not each.deleted]
        faults = check(self._level(subject), after, held or [(0, before)])
        return [str(fault).replace("of v0", "as they are now") for fault in faults]

    def _level(self, subject: str) -> Level:
        return self._question.level or Level(self._question.lock.level(subject))

    # ---- flows

    def flows(self) -> Iterator[FlowVerdict]:
        """One verdict per flow that the migration touches."""
        for name, flow in self._question.flows.items():
            before, after = self._before.flows[name], self._after.flows[name]
            verdict = FlowVerdict(name, flow.target or "")
            if before.fault is not None:
                yield replace(verdict, before=str(before.fault))
            elif after.fault is not None:
                yield replace(verdict, breaks=after.fault.cause, remedy=after.fault.remedy)
            else:
                (old_key, old), (new_key, new) = before.schemas(flow), after.schemas(flow)
                found = changes(old, new, old_key=old_key, new_key=new_key)
                subject = value_subject(flow_topic(name))
                stops = self._refused(subject, old, new) if found else []
                if old_key != new_key:
                    stops.append("the type of its key changes: the worker refuses it under this name")
                if found or stops:
                    yield replace(verdict, changes=tuple(found), stops=tuple(stops))
