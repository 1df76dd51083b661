"""Topics as they are: partitions, replication, settings; and changing what can be changed without loss. Blocking."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # re-exported by it, but not in its __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ResourceType,
)

from instep.errors import KafkaFault
from instep.settings import KafkaSettings
from instep_connectors.kafka.client import client_config
from instep_connectors.kafka.faults import fault

_TIMEOUT: Final = 20.0


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as the brokers describe it.

    Attributes:
        name: of the topic.
        partitions: how many.
        replication: copies of each partition; the smallest number over its partitions.
        config: every setting that holds.
        own: names of the settings that were set on this topic.
    """

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]
    own: frozenset[str]


def describe(kafka: KafkaSettings, names: Collection[str] | None = None) -> dict[str, TopicState]:
    """Topics by name; those that do not exist are left out.

    Args:
        kafka: the brokers.
        names: which; None: all.

    Raises:
        ConnectionError, TimeoutError: no broker answers.
        KafkaFault: refused.
    """
    admin = AdminClient(client_config(kafka, "instep-admin"))
    try:
        found = admin.list_topics(timeout=_TIMEOUT).topics
        chosen = [name for name in sorted(found) if names is None or name in names]
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in chosen]
        answers = admin.describe_configs(resources, request_timeout=_TIMEOUT) if resources else {}
        configs = {resource.name: future.result(_TIMEOUT + 1) for resource, future in answers.items()}
    except KafkaException as exc:
        raise fault(exc, "describe its topics", kafka.bootstrap) from exc
    states = {}
    for name in chosen:
        parts, entries = found[name].partitions.values(), configs[name].values()
        own = frozenset(e.name for e in entries if e.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value)
        replication = min((len(part.replicas) for part in parts), default=0)
        values = {e.name: str(e.value) for e in entries if e.value is not None}
        states[name] = TopicState(name, len(parts), replication, values, own)
    return states


def configure(kafka: KafkaSettings, name: str, config: Mapping[str, str]) -> None:
    """Set settings of a topic; the others stay. Raises as `describe`."""
    entries = [
        ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in sorted(config.items())
    ]
    admin = AdminClient(client_config(kafka, "instep-admin"))
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    try:
        for future in admin.incremental_alter_configs([resource], request_timeout=_TIMEOUT).values():
            future.result(_TIMEOUT + 1)
    except KafkaException as exc:
        raise fault(exc, f"change the settings of topic {name}", kafka.bootstrap) from exc


def missing(kafka: KafkaSettings, name: str) -> KafkaFault:
    """The error for a topic that does not exist; names those that look like it."""
    known = [each for each in describe(kafka) if name.lower() in each.lower()]
    return KafkaFault(
        f"There is no topic {name}.",
        f"Did you mean {', '.join(known[:5])}?" if known else "`instep topics ls --all` lists them.",
    )
