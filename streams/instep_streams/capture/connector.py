"""A Debezium connector's configuration as ours. Pure.

What a setting means is done, or the setting is refused: it would change what is written. Settings that only steer how
Debezium works are ignored, with one warning for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from psycopg.conninfo import make_conninfo

from instep.change import Op
from instep.errors import ConfigError
from instep.settings import KafkaSettings, RegistrySettings, Settings, SourceSettings
from instep.topics import topic_name
from instep_connectors.postgres.selection import IdentityRule, Selection
from instep_schemas.wire import Hash, WireOptions
from instep_streams.capture.declared import DONE, LIMITED, SCHEMA_STRATEGY, STEERED
from instep_streams.capture.options import Compatible

_OPERATIONS: Final = {"c": Op.CREATE, "u": Op.UPDATE, "d": Op.DELETE, "t": Op.TRUNCATE}
_SNAPSHOTS: Final[Mapping[str, Any]] = {
    **dict.fromkeys(("initial", "always", "when_needed"), "initial"),
    **dict.fromkeys(("no_data", "never", "schema_only"), "no_data"),
    "initial_only": "initial_only",
}
_MASK: Final = re.compile(r"column\.mask\.with\.(\d+)\.chars")
_TRUNCATE: Final = re.compile(r"column\.truncate\.to\.(\d+)\.chars")
_HASH: Final = re.compile(r"column\.mask\.hash\.(v2\.)?([^.]+)\.with\.salt\.(.+)")
_OVERRIDE: Final = re.compile(r"snapshot\.select\.statement\.overrides\.(.+)")
_IDENTITY: Final = re.compile(r"([^:]+):\s*(?:(FULL|DEFAULT|NOTHING)|INDEX\s+(\S+))", re.IGNORECASE)


class Connector(NamedTuple):
    """A configuration, understood.

    Attributes:
        settings: with one source, named by topic.prefix.
        source: its name.
        compatible: what capture has to do as Debezium does.
        warnings: what the person who runs it should know.
    """

    settings: Settings
    source: str
    compatible: Compatible
    warnings: tuple[str, ...]


def connector(
    raw: Mapping[str, str], kafka: KafkaSettings | None = None, registry: RegistrySettings | None = None
) -> Connector:
    """Understand a configuration.

    Args:
        raw: names without Debezium Server's prefixes, and values.
        kafka: for a configuration that names no brokers (Connect's own stand elsewhere).
        registry: for one that names no registry.

    Raises:
        ConfigError: a setting is missing, wrong, unknown, or asks for what we would write otherwise.
    """
    reader = _Reader(dict(raw))
    prefix = reader.need("topic.prefix")
    compatible = _compatible(reader, prefix)
    source = SourceSettings.model_validate(
        {
            "dsn": _dsn(reader),
            "publication": reader.take("publication.name"),
            "slot": reader.take("slot.name"),
            "slot_failover": reader.flag("slot.failover"),
            "partitions": reader.number("topic.creation.default.partitions"),
            "heartbeat_s": compatible.heartbeat_s or 10.0,
        }
    )
    settings = Settings(
        sources={prefix: source}, kafka=_kafka(reader, kafka), registry=_registry(reader, registry)
    )  # fmt: skip
    return Connector(settings, prefix, compatible, reader.rest())


@dataclass
class _Reader:
    """Takes settings; what nobody took is judged at the end."""

    left: dict[str, str]

    def __post_init__(self) -> None:
        self.warnings: list[str] = []

    def take(self, name: str) -> str:
        """A setting's text, or its declared default."""
        return self.left.pop(name, DONE[name].default).strip()

    def need(self, name: str) -> str:
        """A setting that must be there."""
        value = self.take(name)
        if not value:
            raise ConfigError(f"The connector configuration lacks {name}.")
        return value

    def number(self, name: str) -> int:
        """A whole number."""
        value = self.take(name)
        if not re.fullmatch(r"-?\d+", value):
            raise ConfigError(f"{name}={value} is not a whole number.")
        return int(value)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.take(name).lower()
        if value not in ("true", "false"):
            raise ConfigError(f"{name}={value} is neither true nor false.")
        return value == "true"

    def choice(self, name: str) -> Any:
        """One of the declared values."""
        value = self.take(name)
        known = {each.lower(): each for each in DONE[name].values}
        if value.lower() not in known:
            raise ConfigError(f"{name}={value} is not done here.", f"Known are: {', '.join(known.values())}.")
        return known[value.lower()]

    def patterns(self, name: str) -> tuple[str, ...]:
        """Regular expressions between commas."""
        return split_patterns(self.take(name), name)

    def matching(self, name: re.Pattern[str]) -> list[tuple[re.Match[str], str]]:
        """Settings whose name carries a value."""
        found = [match for match in map(name.fullmatch, list(self.left)) if match]
        return [(match, self.left.pop(match[0])) for match in found]

    def rest(self) -> tuple[str, ...]:
        """Judge what nobody took."""
        ignored = []
        for name, value in sorted(self.left.items(), key=lambda item: item[0] not in LIMITED):  # the best reason first
            if name in LIMITED:
                if value.strip() not in LIMITED[name].values:
                    raise ConfigError(
                        f"{name}={value} is not done here, and it changes what is written ({LIMITED[name].reason}).",
                        "Take it out of the configuration, or stay with Debezium for this connector.",
                    )
            elif STEERED.fullmatch(name):
                ignored.append(name)
            else:
                raise ConfigError(
                    f"{name} is not known here, and it may change what is written.", "Take it out of the configuration."
                )
        if ignored:
            self.warnings.append(f"ignored, because they only steer how Debezium works: {', '.join(sorted(ignored))}")
        return tuple(self.warnings)


def split_patterns(text: str, name: str) -> tuple[str, ...]:
    r"""Regular expressions between commas; `\,` is a comma within one.

    Raises:
        ConfigError: not a regular expression.
    """
    parts = re.findall(r"((?:\\.|[^,\\])+)", text)
    patterns = tuple(part.strip().replace("\\,", ",") for part in parts if part.strip())
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as exc:
            raise ConfigError(f"{name}: {pattern} is not a regular expression: {exc}.") from None
    return patterns


def _compatible(reader: _Reader, prefix: str) -> Compatible:
    heartbeat_ms = reader.number("heartbeat.interval.ms")
    transactions = reader.flag("provide.transaction.metadata")
    signals = reader.take("signal.data.collection")
    skipped = _skipped(reader.take("skipped.operations"))
    wire = replace(_wire(reader, prefix, transactions), skipped=skipped)
    transaction_topic = topic_name(wire.delimiter.join((prefix, reader.take("topic.transaction"))))
    return Compatible(
        wire=wire,
        selection=Selection(
            reader.patterns("schema.include.list"),
            reader.patterns("schema.exclude.list"),
            reader.patterns("table.include.list"),
            reader.patterns("table.exclude.list"),
            signals,
        ),
        publication=reader.choice("publication.autocreate.mode"),
        via_root=reader.flag("publish.via.partition.root"),
        snapshot=_snapshot(reader),
        snapshot_tables=reader.patterns("snapshot.include.collection.list"),
        overrides=_overrides(reader),
        identities=_identities(reader.take("replica.identity.autoset.values")),
        skipped=skipped,
        skip_unchanged=reader.flag("skip.messages.without.change"),
        context_headers=reader.flag("extended.headers.enabled"),
        transaction_topic=transaction_topic if transactions else None,
        message_topic=topic_name(f"{prefix}.message"),  # whatever topic.delimiter says
        messages=reader.patterns("message.prefix.include.list"),
        not_messages=reader.patterns("message.prefix.exclude.list"),
        heartbeat_topic=topic_name(wire.delimiter.join((reader.take("topic.heartbeat.prefix"), prefix))),
        heartbeat_s=heartbeat_ms / 1000,
        heartbeat_query=reader.take("heartbeat.action.query"),
        signals=signals,
        chunk_rows=reader.number("incremental.snapshot.chunk.size"),
        delete_window=reader.choice("incremental.snapshot.watermarking.strategy") == "insert_delete",
    )  # fmt: skip


def _wire(reader: _Reader, prefix: str, transactions: bool) -> WireOptions:
    unavailable = reader.take("unavailable.value.placeholder")
    reader.flag("include.schema.comments")  # changes nothing
    if unavailable.startswith("hex:"):
        unavailable = bytes.fromhex(unavailable[4:]).decode()
    return WireOptions(
        source=prefix,
        database="",
        profile="debezium",
        decimals=reader.choice("decimal.handling.mode"),
        times=reader.choice("time.precision.mode"),
        intervals=reader.choice("interval.handling.mode"),
        binary=reader.choice("binary.handling.mode"),
        hstore=reader.choice("hstore.handling.mode"),
        unavailable=unavailable,
        tombstones=reader.flag("tombstones.on.delete"),
        transactions=transactions,
        exclude=reader.patterns("column.exclude.list"),
        include=reader.patterns("column.include.list"),
        keys=_keys(reader.take("message.key.columns")),
        mask=_columns(reader, _MASK),
        truncate=_columns(reader, _TRUNCATE),
        hashed=_hashes(reader),
        money_digits=reader.number("money.fraction.digits"),
        unicode_names=reader.choice("schema.name.adjustment.mode") == "avro_unicode",
        unicode_fields=reader.choice("field.name.adjustment.mode") == "avro_unicode",
        propagate=reader.patterns("column.propagate.source.type"),
        propagate_types=reader.patterns("datatype.propagate.source.type"),
        unknown=reader.flag("include.unknown.datatypes"),
        delimiter=_delimiter(reader),
        schema_in_topic=reader.choice("topic.naming.strategy") == SCHEMA_STRATEGY,
    )


def _delimiter(reader: _Reader) -> str:
    text = reader.take("topic.delimiter")
    if not re.fullmatch(r"[\w.-]+", text, re.ASCII):
        raise ConfigError(f"topic.delimiter={text} is not allowed in the name of a Kafka topic.")
    return text


def _columns(reader: _Reader, name: re.Pattern[str]) -> tuple[tuple[str, int], ...]:
    found = reader.matching(name)
    return tuple((each, int(match[1])) for match, text in found for each in split_patterns(text, match[0]))


def _hashes(reader: _Reader) -> tuple[tuple[str, Hash], ...]:
    found = reader.matching(_HASH)
    return tuple(
        (each, Hash(match[2].lower().replace("sha-", "sha"), match[3], serialized=match[1] is None))
        for match, text in found
        for each in split_patterns(text, match[0])
    )


def _overrides(reader: _Reader) -> tuple[tuple[str, str], ...]:
    """The SELECT of each table that is listed; one for another table says nothing to Debezium either."""
    name = "snapshot.select.statement.overrides"
    listed = [table.strip() for table in reader.take(name).split(",") if table.strip()]
    given = {match[1]: text.strip().rstrip(";") for match, text in reader.matching(_OVERRIDE)}
    for table in listed:
        if not given.get(table):
            raise ConfigError(f"{name} names {table}, but there is no {name}.{table}.", "Add it: a SELECT.")
    if rest := sorted(given.keys() - set(listed)):
        reader.warnings.append(f"{name} does not name {', '.join(rest)}: the SELECT is not used")
    return tuple((table.replace('"', ""), given[table]) for table in listed)


def _identities(text: str) -> tuple[IdentityRule, ...]:
    name, rules = "replica.identity.autoset.values", []
    for entry in filter(None, map(str.strip, text.split(","))):
        found = _IDENTITY.fullmatch(entry)
        if found is None:
            raise ConfigError(
                f"{name}: {entry} is not `table:identity`.", "Known are FULL, DEFAULT, NOTHING, INDEX name."
            )
        (pattern,) = split_patterns(found[1], name)
        rules.append(IdentityRule(pattern, found[2].upper() if found[2] else "INDEX", found[3] or ""))
    return tuple(rules)


def _keys(text: str) -> tuple[str, ...]:
    """`table:column,column;table:column` as expressions of `schema.table.column`."""
    keys = []
    for entry in filter(None, map(str.strip, text.split(";"))):
        table, colon, columns = entry.partition(":")
        if not colon or not columns.strip():
            raise ConfigError(f"message.key.columns: {entry} is not `table:column,…`.")
        keys += [f"{table}.{column.strip()}" for column in columns.split(",")]  # as Debezium: a blank before `:` counts
    return tuple(keys)


def _skipped(text: str) -> frozenset[Op]:
    letters = [letter for letter in re.split(r"[,\s]+", text) if letter and letter != "none"]
    unknown = [letter for letter in letters if letter not in (*_OPERATIONS, "r")]
    if unknown:
        raise ConfigError(f"skipped.operations={text} names an unknown operation.", "Known are: c, u, d, t, none.")
    return frozenset(_OPERATIONS[letter] for letter in letters if letter in _OPERATIONS)


def _snapshot(reader: _Reader) -> Any:
    mode = reader.take("snapshot.mode").lower()
    based = "snapshot.mode.configuration.based."
    data, stream = reader.flag(based + "snapshot.data"), reader.flag(f"{based}start.stream")
    for name in ("snapshot.schema", "snapshot.on.schema.error", "snapshot.on.data.error"):
        reader.take(based + name)
    if mode == "configuration_based":
        mode = "initial_only" if data and not stream else "initial" if data else "no_data"
    if mode not in _SNAPSHOTS:
        raise ConfigError(f"snapshot.mode={mode} is not done here.", f"Known are: {', '.join(_SNAPSHOTS)}.")
    if mode in ("always", "when_needed"):
        reader.warnings.append(f"snapshot.mode={mode}: copied once; a later start goes on from the journal")
    return _SNAPSHOTS[mode]


def _dsn(reader: _Reader) -> str:
    parts = {
        "host": reader.need("database.hostname"),
        "port": reader.take("database.port"),
        "user": reader.need("database.user"),
        "password": reader.take("database.password"),
        "dbname": reader.need("database.dbname"),
        **{
            name: reader.take(f"database.{name}")
            for name in ("sslmode", "sslrootcert", "sslcert", "sslkey")
        },
    }  # fmt: skip
    return make_conninfo("", **{name: value for name, value in parts.items() if value})


def _kafka(reader: _Reader, given: KafkaSettings | None) -> KafkaSettings:
    names = ("bootstrap.servers", "producer.override.bootstrap.servers", "producer.bootstrap.servers")
    found = [value for value in map(reader.take, names) if value]
    if found:
        return (given or KafkaSettings()).model_copy(update={"bootstrap": found[0]})
    if given is None:
        raise ConfigError(
            "The connector configuration names no Kafka brokers.", "Add bootstrap.servers=HOST:PORT, or use --project."
        )
    return given


def _registry(reader: _Reader, given: RegistrySettings | None) -> RegistrySettings:
    names = ("value.converter.schema.registry.url", "key.converter.schema.registry.url", "schema.registry.url")
    found = [value for value in map(reader.take, names) if value]
    users = [reader.take(f"{part}.converter.basic.auth.user.info") for part in ("value", "key")]
    if found:
        user, _, password = next(filter(None, users), "").partition(":")
        return RegistrySettings.model_validate({"url": found[0], "user": user, "password": password})
    if given is None:
        raise ConfigError(
            "The connector configuration names no schema registry.",
            "Add value.converter.schema.registry.url=http://…, or use --project.",
        )
    return given
