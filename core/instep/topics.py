"""Names of Kafka topics and registry subjects, in one place.

Data topics follow Debezium: characters outside `[A-Za-z0-9._-]` become `_`
(io.debezium.schema.AbstractTopicNamingStrategy).
"""

from __future__ import annotations

import re

_INVALID = re.compile(r"[^A-Za-z0-9._-]")
MAX_NAME = 249


def topic_name(name: str) -> str:
    """The name with everything that Kafka does not allow replaced."""
    return _INVALID.sub("_", name)[:MAX_NAME]


def data_topic(source: str, schema: str, table: str) -> str:
    """The topic of one captured table, `shop.public.products`."""
    return topic_name(f"{source}.{schema}.{table}")


def journal_topic(source: str) -> str:
    """One entry per captured batch; one partition."""
    return _INVALID.sub("_", f"{source}.__journal")


def flow_topic(flow: str) -> str:
    """The compacted topic of a flow's documents."""
    return _INVALID.sub("_", f"flow.{flow}")


def dead_letter_topic(target: str) -> str:
    """Rejected documents of a target, until a person has looked."""
    return _INVALID.sub("_", f"dead.{target}")


def capture_dead_letter_topic(source: str) -> str:
    """Changes that capture could not encode, with the reason."""
    return _INVALID.sub("_", f"{source}.__dead")


def tables_topic(source: str) -> str:
    """Which tables a source captures; compacted, by table."""
    return _INVALID.sub("_", f"{source}.__tables")


def commands_topic(source: str) -> str:
    """What a person asked of a running capture; a logical message in the store tells when."""
    return _INVALID.sub("_", f"{source}.__commands")


def held_topic(source: str) -> str:
    """Changes of tables that are stopped until the registry takes their schemas."""
    return _INVALID.sub("_", f"{source}.__held")


def key_subject(topic: str) -> str:
    """Registry subject of the topic's keys (TopicNameStrategy)."""
    return f"{topic}-key"


def value_subject(topic: str) -> str:
    """Registry subject of the topic's values (TopicNameStrategy)."""
    return f"{topic}-value"


def emission_topic(source: str, workers: int = 1) -> str:
    """Which worker batch was emitted last: the marker in each Kafka transaction; a partition for each worker."""
    return _INVALID.sub("_", f"{source}.__emitted{'' if workers == 1 else f'_{workers}'}")
