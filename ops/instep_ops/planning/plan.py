"""`instep plan`: the project's wishes against the cluster, difference by difference. Changes nothing. Blocking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from instep.settings import Settings
from instep.topics import key_subject, value_subject
from instep_connectors.kafka import TopicSpec
from instep_connectors.kafka.described import TopicState, describe
from instep_ops.planning.asking import flows_of, lock_of
from instep_ops.planning.desired import Wishes, wishes
from instep_ops.planning.flowsteps import flow_step
from instep_ops.planning.locking import as_captured, drift, locked
from instep_ops.planning.state import options_of
from instep_ops.planning.steps import Act, Plan, Step
from instep_ops.planning.workers import previews_of, share_steps
from instep_schemas.administration import RegistryAdmin
from instep_schemas.bundle import Bundle
from instep_schemas.compatibility import Level
from instep_schemas.evolution import changes
from instep_schemas.registry.avro_text import canonical
from instep_schemas.wire import Unsupported
from instep_streams.flows.preview import Preview

_LIMITS: Final = ("retention.ms", "retention.bytes")


def make_plan(settings: Settings, admin: RegistryAdmin, samples: int = 3) -> Plan:
    """Compare.

    Args:
        settings: resolved.
        admin: of the project's registry.
        samples: most documents to show of each flow and sort; 0: none.

    Raises:
        ConfigError: a file of the project is wrong.
        InstepError, ConnectionError, TimeoutError: a part refuses or does not answer.
    """
    wanted = wishes(settings)
    states = describe(settings.kafka, list(wanted.topics))
    held = locked(admin, wanted.subjects())
    levels = {subject: admin.level(subject) for subject in {*wanted.levels, *held.subjects()}}
    previews = {
        source: previews_of(settings, source, flows_of(settings, source), samples) for source in settings.leaders
    }
    steps = [
        *_topic_steps(wanted, states),
        *_level_steps(wanted, levels),
        *_schema_steps(settings, wanted, held),
        *(step for all_of_it in previews.values() for each in all_of_it if (step := flow_step(settings, admin, each))),
        *share_steps(settings),
        *_lock_steps(settings, held),
    ]
    return Plan(settings.name, tuple(steps), _seen(states, levels, held, previews))


def _seen(
    states: Mapping[str, TopicState], levels: Mapping[str, str], held: Bundle, previews: Mapping[str, list[Preview]]
) -> dict[str, dict[str, Any]]:
    return {
        "topic": {
            name: [state.partitions, state.replication, {key: state.config[key] for key in sorted(state.own)}]
            for name, state in states.items()
        },
        "level": dict(levels),
        "schemas": {
            subject: [[each.version, each.id, each.guid, each.deleted] for each in held.of(subject)]
            for subject in held.subjects()
        },
        "flow": {each.name: each.deployed for all_of_it in previews.values() for each in all_of_it if each.deployed},
    }


# ---- topics


def _topic_steps(wanted: Wishes, states: Mapping[str, TopicState]) -> Iterator[Step]:
    for name, spec in wanted.topics.items():
        copies = wanted.replication[name]
        state = states.get(name)
        if state is None:
            settings = {"partitions": str(spec.partitions), "replication": str(copies), **spec.config}
            yield Step(Act.CREATE_TOPIC, name, wanted=settings)
            continue
        yield from _difference(spec, state)
        if state.replication != copies:
            yield Step(
                Act.COPIES, name, {"replication": str(state.replication)}, {"replication": str(copies)},
                refused="moving copies loads every broker: use kafka-reassign-partitions",
            )  # fmt: skip


def _difference(spec: TopicSpec, state: TopicState) -> Iterator[Step]:
    other = {key: value for key, value in spec.config.items() if state.config.get(key) != value}
    if other:
        was = {key: state.config.get(key) for key in other}
        yield Step(Act.CONFIGURE_TOPIC, spec.name, was, other, harm=_harm(was, other))
    if state.partitions != spec.partitions:
        why = (
            "partitions cannot be taken away; a new topic would lose what this one holds"
            if state.partitions > spec.partitions
            else "more partitions put keys elsewhere, and the order of their changes is lost; capture under a new "
            "source name makes topics with more, beside these"
        )
        counts = {"partitions": str(state.partitions)}, {"partitions": str(spec.partitions)}
        yield Step(Act.REPARTITION, spec.name, *counts, refused=why)


def _harm(was: Mapping[str, str | None], wanted: Mapping[str, str]) -> str:
    """What a change of settings may throw away."""
    for name in _LIMITS:
        if name in wanted and _limit(wanted[name]) < _limit(was.get(name) or "-1"):
            return f"{name} is lowered: Kafka deletes what is beyond it; a worker or replay that needs it cannot start"
    if "delete" in wanted.get("cleanup.policy", "") and "delete" not in (was.get("cleanup.policy") or ""):
        return "cleanup.policy=delete: Kafka deletes what is older than the retention"
    if "compact" in wanted.get("cleanup.policy", "") and "compact" not in (was.get("cleanup.policy") or ""):
        return "cleanup.policy=compact: Kafka deletes all but the newest record of each key"
    return ""


def _limit(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        return 0
    return float("inf") if number < 0 else number


# ---- subjects


def _level_steps(wanted: Wishes, levels: Mapping[str, str]) -> Iterator[Step]:
    for subject, level in wanted.levels.items():
        now = levels[subject]
        if now != level:
            harm = "" if _at_least(Level(level), Level(now)) else "changes that readers cannot follow are let through"
            yield Step(Act.SET_LEVEL, subject, {"level": now}, {"level": level}, harm=harm)


def _at_least(new: Level, old: Level) -> bool:
    """Whether a level promises all that another one does."""
    kept = new.backward >= old.backward and new.forward >= old.forward
    return kept and (new.transitive >= old.transitive or old is Level.NONE)


def _schema_steps(settings: Settings, wanted: Wishes, held: Bundle) -> Iterator[Step]:
    """Tables whose schema is not the registered one: capture registers it with the table's next change."""
    for topic, (source, relation) in wanted.tables.items():
        old, old_key = held.latest(value_subject(topic)), held.latest(key_subject(topic))
        if old is None:
            continue
        try:
            schemas = as_captured(relation, options_of(settings, source), old.schema)
        except Unsupported as exc:
            yield Step(Act.REGISTER, topic, refused=str(exc))
            continue
        if old.schema == canonical(schemas.value_text):
            continue
        keys = old_key.schema if old_key else None, schemas.key_text
        found = changes(old.schema, schemas.value_text, old_key=keys[0], new_key=keys[1])
        notes = [f"{'DANGER ' if each.danger else ''}{each}; allowed up to {each.level}" for each in found]
        told = "capture registers it when the table's next change comes"
        yield Step(Act.REGISTER, value_subject(topic), notes=(*notes, told))


def _lock_steps(settings: Settings, held: Bundle) -> Iterator[Step]:
    found = drift(lock_of(settings), held)
    if found:
        yield Step(Act.WRITE_LOCK, "schemas.lock", notes=tuple(found[:20]))
