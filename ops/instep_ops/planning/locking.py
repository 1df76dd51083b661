"""`schemas.lock`: what the registry holds for a project, in version control, so that CI needs no registry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from instep.flowfile import Flow
from instep.relation import Relation
from instep.topics import data_topic, flow_topic, key_subject, value_subject
from instep_connectors.postgres.session import connect
from instep_ops.planning.gate import Question
from instep_ops.planning.scratch import APPLICATION, scratch
from instep_ops.planning.state import State, joined_flows, look, options_of
from instep_ops.planning.subjects import text_of
from instep_schemas.administration import RegistryAdmin
from instep_schemas.bundle import Bundle
from instep_schemas.compatibility import Level, check
from instep_schemas.derive import TableSchemas, derive
from instep_schemas.registry.avro_text import canonical
from instep_schemas.wire import Unsupported, WireOptions
from instep_streams.capture.tables import nullable, to_widen


def locked(admin: RegistryAdmin, subjects: Sequence[str]) -> Bundle:
    """The versions and levels of some subjects, as the registry holds them now; subjects without any are left out.

    Raises:
        RegistryError, ConnectionError, TimeoutError: the registry refuses, or does not answer.
    """
    known = set(admin.subjects())
    chosen = [subject for subject in subjects if subject in known]
    versions = tuple(version for subject in chosen for version in admin.versions(subject, deleted=True))
    configs = {scope: config for scope in ["", *chosen] if (config := admin.config(scope))}
    return Bundle(versions, configs)


def drift(lock: Bundle, held: Bundle) -> list[str]:
    """Where a lock and a registry differ, in sentences; empty when they agree."""
    mine, theirs = ({each.place: each for each in bundle.versions} for bundle in (lock, held))
    told = []
    for place in sorted({*mine, *theirs}):
        name = f"{place[0]} v{place[1]}"
        a, b = mine.get(place), theirs.get(place)
        if a is None:
            told.append(f"{name}: registered, not in the lock")
        elif b is None:
            told.append(
                f"{name}: in the lock, but the registry lost it (id {a.id}); `instep schema import` restores it"
            )
        elif (a.id, a.guid) != (b.id, b.guid):
            told.append(f"{name}: id {a.id}, GUID {a.guid} in the lock, id {b.id}, GUID {b.guid} in the registry")
        elif a.deleted != b.deleted:
            told.append(f"{name}: {'deleted' if b.deleted else 'there again'} in the registry")
    subjects = sorted({*lock.subjects(), *held.subjects()})
    told += [
        f"{subject}: level {lock.level(subject)} in the lock, {held.level(subject)} in the registry"
        for subject in subjects
        if lock.of(subject) and held.of(subject) and lock.level(subject) != held.level(subject)
    ]
    return told


def as_captured(relation: Relation, options: WireOptions, latest: str) -> TableSchemas:
    """A table's schemas as capture writes them: widened where the registered one allows null.

    Raises:
        Unsupported: as `derive`.
    """
    schemas = derive(relation, options)
    return derive(nullable(relation, to_widen(schemas.value, json.loads(latest))), options)


@dataclass(frozen=True, slots=True)
class Held:
    """One subject against the lock.

    Attributes:
        subject: its name; a flow's for a flow that is refused or skipped.
        verdict: `same`, `new` (not in the lock), `differs` (may follow), `refused`, `skipped` (cannot be told here).
        reasons: why it is refused or skipped.
    """

    subject: str
    verdict: str
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {"subject": self.subject, "verdict": self.verdict, "reasons": list(self.reasons)}


def against_lock(question: Question) -> list[Held]:
    """Every schema that the store and the flows would need, against the lock; needs no registry and no Kafka.

    Args:
        question: without migrations; with `schema` it needs no store either.

    Raises:
        ConfigError: a file cannot be read, or its SQL fails.
        SourceError, ConnectionError: the store refuses, or does not answer.
        EnvironmentFault: the embedded PostgreSQL is not installed.
    """
    source = question.settings.sources[question.source]
    if question.schema is not None:
        with scratch(question.server) as place:
            place.run(text_of(question.schema), question.schema.name)
            state = look(place.conn, source.tables, question.flows)
    else:
        with closing(connect(source.dsn.reveal(), APPLICATION)) as conn:
            state = look(conn, source.tables, question.flows)
    return [*_tables(question, state), *_flows(question, state, question.flows)]


def _tables(question: Question, state: State) -> Iterator[Held]:
    options = options_of(question.settings, question.source)
    for relation in sorted(state.relations.values(), key=lambda each: each.table):
        topic = data_topic(question.source, relation.schema, relation.name)
        latest = question.lock.latest(value_subject(topic))
        if relation.table in state.keyless and latest is None:
            continue  # capture leaves it out
        try:
            schemas = as_captured(relation, options, latest.schema) if latest else derive(relation, options)
        except Unsupported as exc:
            yield Held(topic, "refused", (str(exc),))
            continue
        if schemas.key_text is not None:
            yield _held(question, key_subject(topic), schemas.key_text)
        yield _held(question, value_subject(topic), schemas.value_text)


def _flows(question: Question, state: State, flows: Mapping[str, Flow]) -> Iterator[Held]:
    joined = joined_flows(question.settings, question.source, state.flows)
    for name, found in state.flows.items():
        if name in joined:
            yield Held(name, "skipped", ("it may read tables of joined sources, which this store does not have",))
            continue
        if found.fault is not None:
            yield Held(name, "refused", (str(found.fault),))
            continue
        key, value = found.schemas(flows[name])
        yield _held(question, key_subject(flow_topic(name)), key)
        yield _held(question, value_subject(flow_topic(name)), value)


def _held(question: Question, subject: str, text: str) -> Held:
    latest = question.lock.latest(subject)
    if latest is None:
        return Held(subject, "new")
    if latest.schema == canonical(text):
        return Held(subject, "same")
    level = question.level or Level(question.lock.level(subject))
    versions = [(each.version, each.schema) for each in question.lock.of(subject) if not each.deleted]
    faults = check(level, text, versions)
    return Held(subject, "refused" if faults else "differs", tuple(map(str, faults)))
