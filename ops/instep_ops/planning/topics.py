"""`instep topics ls` and `instep topics show`: what a project has in Kafka. Blocking."""

from __future__ import annotations

from typing import Any

from instep.flowfile import load_all
from instep.settings import Settings
from instep.topics import (
    capture_dead_letter_topic,
    commands_topic,
    dead_letter_topic,
    emission_topic,
    flow_topic,
    held_topic,
    journal_topic,
    key_subject,
    tables_topic,
    value_subject,
)
from instep_connectors.kafka import end_offsets, start_offsets
from instep_connectors.kafka.described import TopicState, describe, missing
from instep_schemas.administration import RegistryAdmin

_SHOWN = ("cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes", "min.insync.replicas")


def purposes(settings: Settings, names: list[str]) -> dict[str, str]:
    """What the project's topics among `names` are for."""
    known: dict[str, str] = {"_schemas": "schema registry"}
    for source in settings.sources:
        known[journal_topic(source)] = f"journal of {source}"
        if source in settings.leaders:
            known[emission_topic(source)] = f"marker of worker {source}"
            known[emission_topic(source, settings.sources[source].workers)] = f"markers of the workers of {source}"
        known[capture_dead_letter_topic(source)] = f"dead letters of capture {source}"
        known[tables_topic(source)] = f"tables that capture {source} knows"
        known[commands_topic(source)] = f"commands to capture {source}"
        known[held_topic(source)] = f"changes of stopped tables of {source}"
    known |= {dead_letter_topic(target): f"dead letters of {target}" for target in settings.targets}
    known |= {flow_topic(flow): f"documents of {flow}" for flow in load_all(settings.flows_dir)}
    for name in names:
        for source in settings.sources:
            if name.startswith(f"{source}."):
                known.setdefault(name, f"rows of {name[len(source) + 1 :]}")
        if name not in known and name.startswith("flow."):
            known[name] = "documents of a flow that has no file"
    return {name: known[name] for name in names if name in known}


def source_of(settings: Settings, topic: str) -> str:
    """The source whose rows a topic holds; empty for any other topic."""
    own = {name for source in settings.sources for name in
           (journal_topic(source), emission_topic(source), capture_dead_letter_topic(source), tables_topic(source),
            commands_topic(source), held_topic(source))}  # fmt: skip
    found = [source for source in settings.sources if topic.startswith(f"{source}.") and topic not in own]
    return max(found, key=len, default="")


def listed(settings: Settings, every: bool = False) -> list[dict[str, Any]]:
    """The project's topics (or every topic of the cluster) with their size.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    states = describe(settings.kafka)
    purpose = purposes(settings, list(states))
    chosen = [state for name, state in states.items() if every or name in purpose]
    sizes = _sizes(settings, chosen)
    return [
        {
            "topic": state.name,
            "purpose": purpose.get(state.name, ""),
            "partitions": state.partitions,
            "replication": state.replication,
            "cleanup": state.config.get("cleanup.policy", ""),
            "retention_ms": int(state.config.get("retention.ms", -1)),
            "offsets": sum(end - start for start, end in sizes[state.name].values()),
        }
        for state in chosen
    ]


def _sizes(settings: Settings, states: list[TopicState]) -> dict[str, dict[int, tuple[int, int]]]:
    tps = [(state.name, number) for state in states for number in range(state.partitions)]
    starts, ends = start_offsets(settings.kafka, tps), end_offsets(settings.kafka, tps)
    sizes: dict[str, dict[int, tuple[int, int]]] = {state.name: {} for state in states}
    for tp in tps:
        sizes[tp[0]][tp[1]] = starts[tp], ends[tp]
    return sizes


def shown(settings: Settings, admin: RegistryAdmin, name: str) -> dict[str, Any]:
    """One topic: partitions with their offsets, settings, schemas.

    Raises:
        KafkaFault: there is no such topic, or refused.
        RegistryError: refused.
        ConnectionError, TimeoutError: no broker or no registry answers.
    """
    state = describe(settings.kafka, [name]).get(name)
    if state is None:
        raise missing(settings.kafka, name)
    sizes = _sizes(settings, [state])[name]
    subjects = [admin.latest(subject) and subject for subject in (key_subject(name), value_subject(name))]
    return {
        "topic": name,
        "purpose": purposes(settings, [name]).get(name, ""),
        "replication": state.replication,
        "partitions": [{"partition": n, "start": start, "end": end} for n, (start, end) in sizes.items()],
        "config": {key: state.config[key] for key in sorted({*_SHOWN, *state.own}) if key in state.config},
        "set_here": sorted(state.own),
        "subjects": [subject for subject in subjects if subject],
    }
