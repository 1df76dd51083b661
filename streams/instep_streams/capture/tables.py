"""Captured tables as they are on the wire: topic, registered schemas, generated encoder.

One `Tables` lives for one replication session. A RELATION message makes (or finds) the version of the table that the
rows behind it were written with.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from instep.errors import RegistryError, SourceError
from instep.relation import Relation
from instep.topics import key_subject, value_subject
from instep_connectors.postgres.pgoutput import RelationMessage
from instep_schemas.ciphers import lost
from instep_schemas.derive import derive
from instep_schemas.encode import TableEncoder, compile_encoder
from instep_schemas.wire import Unsupported, WireOptions

log = logging.getLogger(__name__)


class Registry(Protocol):
    """The part of `RegistryClient` that capture uses."""

    def register(self, subject: str, text: str) -> int:
        """Register or find a schema."""
        ...

    def latest(self, subject: str) -> tuple[int, int, str] | None:
        """Id, version and text of the newest schema."""
        ...

    def check(self, subject: str, text: str) -> list[str]:
        """Reasons why a schema is incompatible; empty when it is not."""
        ...


class Incompatible(SourceError):
    """The registry does not take a table's schema.

    Attributes:
        relation: the version of the table.
    """

    def __init__(self, cause: str, remedy: str, relation: Relation) -> None:
        super().__init__(cause, remedy)
        self.relation = relation


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """One version of one table.

    Attributes:
        name: `schema.table`.
        topic: of its data records.
        partitions: how many the topic has.
        encoder: writes its rows.
        ids: registry ids of its key and value schemas.
    """

    name: str
    topic: str
    partitions: int
    encoder: TableEncoder
    ids: frozenset[int]


class Describe(Protocol):
    """Makes the captured table of a RELATION message."""

    def __call__(self, message: RelationMessage, /, *, keyed: bool = True) -> CapturedTable | None:
        """The table; without its key's schema for a TRUNCATE."""
        ...


class Tables:
    """Makes captured tables from relations.

    Args:
        options: how the source is written.
        registry: holds the schemas.
        wanted: tells by schema and name whether the settings name a table.
        make_topic: creates the topic when it is missing and gives its number of partitions.
    """

    def __init__(
        self,
        options: WireOptions,
        registry: Registry,
        wanted: Callable[[str, str], bool],
        make_topic: Callable[[str], int],
    ) -> None:
        self._options = options
        self._registry = registry
        self._wanted = wanted
        self._make_topic = make_topic
        self._topics: dict[str, str] = {}
        self._partitions: dict[str, int] = {}

    def wanted(self, message: RelationMessage) -> bool:
        """Whether the settings name this table."""
        return self._wanted(message.schema, message.name)

    def check(self, relation: Relation) -> None:
        """Check that a table can be written, before any of its rows is there.

        Raises:
            SourceError: two of its columns share a name in Kafka.
        """
        try:
            derive(relation, self._options)
        except Unsupported as exc:
            raise SourceError(exc.cause, exc.remedy) from None

    def captured(self, relation: Relation, *, keyed: bool = True, copied: bool = False) -> CapturedTable:
        """Register the schemas of this version of a table and compile its encoder.

        Args:
            relation: the table.
            keyed: whether its key's schema is needed (not for a TRUNCATE).
            copied: it is for the rows of a first copy.

        Raises:
            SourceError: the registry calls the schema incompatible, or two tables or columns share a name in Kafka.
            RegistryError: the registry refuses for another reason.
            ConnectionError, TimeoutError: the registry or the broker does not answer.
        """
        options = replace(self._options, copied=True) if copied and self._options.propagates else self._options
        topic = options.topic(relation.schema, relation.name)
        other = self._topics.setdefault(topic, relation.table)
        if other != relation.table:
            raise SourceError(
                f"The tables {other} and {relation.table} share the topic {topic}.",
                "Leave one out of the source's `tables`.",
            )
        try:
            key_id, value_id, relation = self._register(topic, relation, options, keyed)
        except Unsupported as exc:
            raise SourceError(exc.cause, exc.remedy) from None
        partitions = self._partitions.get(topic)
        if partitions is None:
            partitions = self._partitions[topic] = self._make_topic(topic)
        encoder = compile_encoder(relation, options, key_id, value_id)
        ids = frozenset((value_id,) if key_id is None else (key_id, value_id))
        return CapturedTable(relation.table, topic, partitions, encoder, ids)

    def relaxed(self, table: CapturedTable, column: str) -> CapturedTable:
        """The table with a column that may be null after all: the catalog's NOT NULL is younger than the row."""
        return self.captured(nullable(table.encoder.relation, {column}))

    def _register(
        self, topic: str, relation: Relation, options: WireOptions, keyed: bool
    ) -> tuple[int | None, int, Relation]:
        schemas = derive(relation, options)
        key_id = None
        if keyed and schemas.key_text is not None:
            key_id = self._register_text(key_subject(topic), schemas.key_text, relation)
        subject = value_subject(topic)
        self._refuse_clear_text(subject, schemas.value_text, relation)
        try:
            return key_id, self._registry.register(subject, schemas.value_text), relation
        except RegistryError:
            latest = self._registry.latest(subject)
            wide = nullable(relation, to_widen(schemas.value, latest and json.loads(latest[2])))
            text = derive(wide, options).value_text
            return key_id, self._register_text(subject, text, wide), wide

    def _refuse_clear_text(self, subject: str, text: str, relation: Relation) -> None:
        """What was encrypted stays so, also when its tag went out of the settings."""
        latest = self._registry.latest(subject)
        for name in lost(latest[2], text) if latest else ():
            raise SourceError(
                f"The column {name!r} of {relation.table} was encrypted until now, and has no tag any more.",
                'Give it its tag again; to write it in clear, say so with algorithm = "plain" in the rule of its tag.',
            )

    def _register_text(self, subject: str, text: str, relation: Relation) -> int:
        try:
            return self._registry.register(subject, text)
        except RegistryError:
            reasons = self._registry.check(subject, text)
            if not reasons:
                raise
            raise Incompatible(
                f"The table {relation.table} has changed in a way that readers of {subject} cannot follow: "
                f"{reasons[0].rstrip('.')}.",
                f"Set the compatibility of {subject} to NONE in the registry: the table goes on from exactly here.",
                relation,
            ) from None


def _columns(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """Types of the row's fields in an envelope schema, by Avro name."""
    value = envelope["fields"][0]["type"][1]
    return {field["name"]: field["type"] for field in value["fields"]}


def to_widen(envelope: Mapping[str, Any], latest: Mapping[str, Any] | None) -> set[str]:
    """Columns to write as nullable so that readers of the latest schema can go on.

    Avro calls it incompatible when a column loses its null, or appears without a default: both happen to a store that
    says NOT NULL, and a nullable field carries such a column just as well.
    """
    if latest is None:
        return set()
    before = _columns(latest)
    return {
        name
        for name, avro in _columns(envelope).items()
        if not isinstance(avro, list) and (name not in before or isinstance(before[name], list))
    }


def nullable(relation: Relation, names: set[str]) -> Relation:
    """The table with these columns nullable."""
    columns = tuple(replace(c, not_null=False) if c.name in names else c for c in relation.columns)
    return replace(relation, columns=columns)
