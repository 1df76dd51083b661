"""What a project wants to exist in Kafka and in the registry."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from instep.errors import ConfigError
from instep.flowfile import load_all
from instep.relation import Relation
from instep.settings import Settings
from instep.topics import (
    capture_dead_letter_topic,
    data_topic,
    emission_topic,
    flow_topic,
    journal_topic,
    key_subject,
    value_subject,
)
from instep_connectors.kafka import TopicSpec
from instep_connectors.postgres.session import connect
from instep_ops.planning.state import look
from instep_ops.verify import by_source
from instep_streams.capture.kafka import keeping
from instep_streams.delivery.deadletters import topic_spec

FLOWS: Final = flow_topic("")
_COMPACTED: Final = {"cleanup.policy": "compact"}


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a project wants.

    Attributes:
        topics: by name; `partitions` are of a new topic.
        replication: per topic.
        tables: by data topic, the source and the captured table.
        levels: compatibility level by subject; only what the project names, of tables and flows.
    """

    topics: Mapping[str, TopicSpec]
    replication: Mapping[str, int]
    tables: Mapping[str, tuple[str, Relation]]
    levels: Mapping[str, str]

    def subjects(self) -> list[str]:
        """The subjects of its topics."""
        return sorted(subject for topic in self.topics for subject in (key_subject(topic), value_subject(topic)))


def wishes(settings: Settings) -> Wishes:
    """Put together what the project's files say and what its stores hold.

    Raises:
        ConfigError: a flow or a setting is wrong.
        SourceError, ConnectionError: a store refuses, or does not answer.
    """
    tables = dict(_tables(settings))
    specs = {spec.name: spec for spec in _specs(settings, tables)}
    topics, replication = {}, {}
    for name, spec in specs.items():
        topics[name], replication[name] = _as_wished(settings, spec)
    # the others hold records of Instep's own, whose schemas are not a project's business
    open_to_others = [topic for topic in topics if topic in tables or topic.startswith(FLOWS)]
    subjects = [subject for topic in open_to_others for subject in (key_subject(topic), value_subject(topic))]
    return Wishes(topics, replication, tables, _levels(settings, subjects))


def _tables(settings: Settings) -> Iterator[tuple[str, tuple[str, Relation]]]:
    for name, source in settings.sources.items():
        if not source.journal:
            continue
        with closing(connect(source.dsn.reveal(), "instep plan")) as conn:
            found = look(conn, source.tables, {})
        for relation in found.relations.values():
            if relation.table not in found.keyless:
                yield data_topic(name, relation.schema, relation.name), (name, relation)


def _specs(settings: Settings, tables: Mapping[str, tuple[str, Relation]]) -> Iterator[TopicSpec]:
    keep = keeping(settings.kafka)
    for name, source in settings.sources.items():
        if name in settings.leaders:
            yield TopicSpec(emission_topic(name, source.workers), source.workers, _COMPACTED)
        if not source.journal:
            continue  # Debezium's topics
        yield TopicSpec(journal_topic(name), 1, keep)
        yield TopicSpec(capture_dead_letter_topic(name), 1, keep)
        yield from (TopicSpec(topic, source.partitions, keep) for topic, (owner, _) in tables.items() if owner == name)
    if load_all(settings.flows_dir):
        for source_name, flows in by_source(settings, None).items():
            partitions = settings.sources[source_name].partitions
            yield from (TopicSpec(flow_topic(flow), partitions, _COMPACTED) for flow in flows)
    yield from map(topic_spec, settings.targets)


def _as_wished(settings: Settings, spec: TopicSpec) -> tuple[TopicSpec, int]:
    """With what `[topics]` says."""
    partitions, replication, config = spec.partitions, settings.kafka.replication, dict(spec.config)
    for pattern, wish in settings.topics.items():
        if not _matches(pattern, spec.name):
            continue
        policy = wish.config.get("cleanup.policy", config["cleanup.policy"])
        if policy != config["cleanup.policy"]:
            raise ConfigError(
                f"topics.{pattern}: {spec.name} must have cleanup.policy={config['cleanup.policy']}.",
                "Leave cleanup.policy to Instep.",
            )
        if wish.partitions is not None and spec.partitions == 1 and wish.partitions > 1:
            raise ConfigError(f"topics.{pattern}: the order of {spec.name} matters: it has one partition.")
        partitions, replication = wish.partitions or partitions, wish.replication or replication
        config |= wish.config
    return TopicSpec(spec.name, partitions, config), replication


def _levels(settings: Settings, subjects: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pattern, level in settings.compatibility.items():
        found |= {subject: str(level) for subject in subjects if _matches(pattern, subject)}
        if "*" not in pattern:
            found[pattern] = str(level)
    return found


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None
