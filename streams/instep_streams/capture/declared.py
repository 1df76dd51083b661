"""Debezium's settings as capture knows them: what each means here, what it is when nothing is said, what is refused.

`connector.py` takes its defaults from here, and docs/reference/capture.md is written from here: the page cannot say
anything else than the code does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from instep_schemas.wire import UNAVAILABLE

SCHEMA_STRATEGY: Final = "io.debezium.schema.SchemaTopicNamingStrategy"


class Option(NamedTuple):
    """A setting that is done as Debezium means it.

    Attributes:
        name: its name; `<…>` stands for a part that varies.
        default: its text when nothing is said; empty for none.
        meaning: what it does.
        values: the texts it may have, the default first; empty for any.
        required: there is no default.
    """

    name: str
    default: str
    meaning: str
    values: tuple[str, ...] = ()
    required: bool = False


class Only(NamedTuple):
    """A setting of which only some values are done.

    Attributes:
        names: settings that are treated alike.
        values: the texts that are accepted; the empty text stands for "not set".
        reason: why any other is refused.
    """

    names: tuple[str, ...]
    values: tuple[str, ...]
    reason: str


class Steering(NamedTuple):
    """Settings that are read over, since they steer how Debezium works and not what it writes.

    Attributes:
        names: with `*` for any text.
        instead: how it is here.
    """

    names: tuple[str, ...]
    instead: str


def _one_of(name: str, meaning: str, *values: str) -> Option:
    return Option(name, values[0], meaning, values)


def _flag(name: str, default: bool, meaning: str) -> Option:
    return _one_of(name, meaning, *(("true", "false") if default else ("false", "true")))


GROUPS: Final[Mapping[str, tuple[Option, ...]]] = {
    "Store": (
        Option("topic.prefix", "", "name of the source; first part of every topic", required=True),
        Option("database.hostname", "", "host of the store", required=True),
        Option("database.port", "5432", "its port"),
        Option("database.user", "", "user with the replication right", required=True),
        Option("database.password", "", "password; empty: `.pgpass` or `PGPASSWORD`"),
        Option("database.dbname", "", "database", required=True),
        Option("database.sslmode", "", "as libpq's `sslmode`; default: libpq's own, `prefer`"),
        Option("database.sslrootcert", "", "as libpq's"),
        Option("database.sslcert", "", "as libpq's"),
        Option("database.sslkey", "", "as libpq's; PEM (Debezium wants DER)"),
        Option("slot.name", "debezium", "replication slot; made at the first start, never silently made again"),
        _flag("slot.failover", False, "the slot is kept on standbys, too (PostgreSQL 17 and later)"),
        Option("publication.name", "dbz_publication", "publication"),
        _one_of(
            "publication.autocreate.mode",
            "which publication to make when it is missing",
            "all_tables",
            "filtered",
            "disabled",
            "no_tables",
        ),
        Option(
            "replica.identity.autoset.values",
            "",
            "`regular expression:identity,…`: the tables' REPLICA IDENTITY is made `FULL`, `DEFAULT`, `NOTHING` or "
            "`INDEX name`; the user must own them",
        ),
        _flag("publish.via.partition.root", False, "a made publication shows partitioned tables as their root"),
    ),
    "What is captured": (
        Option("schema.include.list", "", "regular expressions of schemas"),
        Option("schema.exclude.list", "", "regular expressions of schemas left out"),
        Option("table.include.list", "", "regular expressions of `schema.table`"),
        Option("table.exclude.list", "", "regular expressions of `schema.table` left out"),
        Option("column.include.list", "", "regular expressions of `schema.table.column`; key columns stay"),
        Option("column.exclude.list", "", "regular expressions of `schema.table.column` left out"),
        Option("column.mask.with.<n>.chars", "", "these columns' text is n asterisks"),
        Option("column.truncate.to.<n>.chars", "", "these columns' text is cut to n characters"),
        Option("column.mask.hash.<algorithm>.with.salt.<salt>", "", "these columns' text is a salted hash"),
        Option("column.mask.hash.v2.<algorithm>.with.salt.<salt>", "", "the same, hashed without Java's serialisation"),
        Option("message.key.columns", "", "`table:column,…;…`: the Kafka key's columns instead of the primary key's"),
        Option("skipped.operations", "t", "of `c`, `u`, `d`, `t`, or `none`: changes not written"),
        _flag("skip.messages.without.change", False, "an UPDATE that changes no captured column is not written"),
    ),
    "Snapshots": (
        Option(
            "snapshot.mode",
            "initial",
            "the first copy; `always` and `when_needed` copy once, since a later start goes on from the journal",
            ("initial", "always", "when_needed", "initial_only", "no_data", "never", "schema_only",
             "configuration_based"),
        ),
        _flag("snapshot.mode.configuration.based.snapshot.data", False, "with `configuration_based`: copy rows"),
        _flag("snapshot.mode.configuration.based.start.stream", False, "with `configuration_based`: stream then"),
        Option("snapshot.mode.configuration.based.snapshot.schema", "", "read over: schemas come with the rows"),
        Option("snapshot.mode.configuration.based.snapshot.on.schema.error", "", "read over: no schema history"),
        Option("snapshot.mode.configuration.based.snapshot.on.data.error", "", "read over"),
        Option(
            "snapshot.select.statement.overrides",
            "",
            "`schema.table,…`: tables of which the first copy reads what a SELECT gives, by the column's names",
        ),
        Option("snapshot.select.statement.overrides.<schema>.<table>", "", "that SELECT, with every column it has"),
        Option("snapshot.include.collection.list", "", "regular expressions of the tables whose rows are copied"),
        Option("signal.data.collection", "", "`schema.table` whose rows ask for incremental and blocking snapshots"),
        Option("incremental.snapshot.chunk.size", "1024", "rows of one chunk"),
        _one_of(
            "incremental.snapshot.watermarking.strategy",
            "how a chunk's window is closed",
            "insert_insert",
            "insert_delete",
        ),
    ),
    "How values are written": (
        _one_of("decimal.handling.mode", "numeric and money", "precise", "string", "double"),
        _one_of(
            "time.precision.mode",
            "dates and times",
            "adaptive",
            "adaptive_time_microseconds",
            "microseconds",
            "nanoseconds",
            "connect",
            "isostring",
        ),
        _one_of("interval.handling.mode", "intervals", "numeric", "string"),
        _one_of("binary.handling.mode", "bytea", "bytes", "base64", "base64-url-safe", "hex"),
        _one_of("hstore.handling.mode", "hstore", "json", "map"),
        Option("money.fraction.digits", "2", "scale of money"),
        _flag("include.unknown.datatypes", False, "types that Debezium's mapping lacks: the bytes of their text"),
        Option("column.propagate.source.type", "", "regular expressions of columns: the schema tells their type"),
        Option("datatype.propagate.source.type", "", "the same, of `schema.table.type`"),
        Option(
            "schema.name.adjustment.mode",
            "none",
            "characters that Avro lacks are `_`, or `_uXXXX`; `none` is as `avro`",
            ("none", "avro", "avro_unicode"),
        ),
        _one_of("field.name.adjustment.mode", "the same for columns", "none", "avro", "avro_unicode"),
        _flag("include.schema.comments", False, "changes nothing: Debezium for PostgreSQL writes no comments either"),
        Option("unavailable.value.placeholder", UNAVAILABLE, "text of an unchanged TOAST column; `hex:` for bytes"),
        _flag("tombstones.on.delete", True, "a delete is followed by a null value"),
        _flag("extended.headers.enabled", True, "each record has Debezium's four context headers"),
    ),
    "Topics": (
        Option("topic.delimiter", ".", "between the parts of a topic's name (not that of logical messages)"),
        _one_of(
            "topic.naming.strategy",
            "topics are `prefix.schema.table`; by the other one `prefix.table`",
            SCHEMA_STRATEGY,
            "io.debezium.schema.DefaultTopicNamingStrategy",
        ),
        _flag("provide.transaction.metadata", False, "transactions' begin and end; `transaction` in each change"),
        Option("topic.transaction", "transaction", "last part of that topic's name"),
        Option("heartbeat.interval.ms", "0", "a heartbeat record this often; 0: none (the slot moves on all the same)"),
        Option("topic.heartbeat.prefix", "__debezium-heartbeat", "first part of that topic's name"),
        Option("heartbeat.action.query", "", "a statement run in the store with each heartbeat"),
        Option("message.prefix.include.list", "", "regular expressions of logical messages' prefixes"),
        Option("message.prefix.exclude.list", "", "regular expressions of prefixes left out"),
        Option("topic.creation.default.partitions", "1", "partitions of a new topic"),
    ),
    "Kafka and registry": (
        Option("bootstrap.servers", "", "brokers; default: those of instep.toml"),
        Option("producer.override.bootstrap.servers", "", "the same"),
        Option("producer.bootstrap.servers", "", "the same"),
        Option("value.converter.schema.registry.url", "", "schema registry; default: that of instep.toml"),
        Option("key.converter.schema.registry.url", "", "the same"),
        Option("schema.registry.url", "", "the same"),
        Option("value.converter.basic.auth.user.info", "", "`user:password` for it"),
        Option("key.converter.basic.auth.user.info", "", "the same"),
    ),
}  # fmt: skip
"""What is done, by subject."""

DONE: Final[Mapping[str, Option]] = {option.name: option for group in GROUPS.values() for option in group}

_CONVERTERS: Final[Mapping[str, tuple[str, ...]]] = {
    "connect.meta.data": ("true", ""),
    "enhanced.avro.schema.support": ("true", "false", ""),
    "ignore.default.for.nullables": ("true", "false", ""),
    "scrub.invalid.names": ("false", ""),
    "generalized.sum.type.support": ("false", ""),
    "flatten.unions": ("true", ""),
    "flatten.singleton.unions": ("true", ""),
    "allow.optional.map.keys": ("false", ""),
    "discard.type.doc.default": ("false", ""),
    "avro.remove.java.properties": ("false", ""),
    "normalize.schemas": ("false", ""),
    "auto.register.schemas": ("true", ""),
    "use.latest.version": ("false", ""),
    "use.schema.id": ("", "-1"),
}
"""Confluent's converter settings that bear on what is written, and the values with which it is what capture writes."""

_TOPIC_NAMES: Final = "io.confluent.kafka.serializers.subject.TopicNameStrategy"

_AVRO = ("io.confluent.connect.avro.AvroConverter", "avro", "")

ONLY: Final[tuple[Only, ...]] = (
    Only(("connector.class",), ("io.debezium.connector.postgresql.PostgresConnector", ""), "another database"),
    Only(
        ("key.converter", "value.converter", "key", "value"), _AVRO, "records are Avro in Confluent's framing, no other"
    ),
    *(
        Only(
            (f"key.converter.{name}", f"value.converter.{name}"),
            values,
            "schemas are those of the converter's own defaults",
        )
        for name, values in _CONVERTERS.items()
    ),
    Only(
        ("key.converter.key.subject.name.strategy", "value.converter.value.subject.name.strategy"),
        (_TOPIC_NAMES, ""),
        "subjects are `topic-key` and `topic-value`",
    ),
    Only(("header.converter",), ("org.apache.kafka.connect.storage.SimpleHeaderConverter", ""), "headers are texts"),
    Only(("tasks.max",), ("1", ""), "Debezium itself has one task per slot"),
    Only(
        ("transaction.metadata.factory",),
        ("io.debezium.pipeline.txmetadata.DefaultTransactionMetadataFactory",),
        "a Java class",
    ),
    Only(
        ("sourceinfo.struct.maker",),
        ("io.debezium.connector.postgresql.PostgresSourceInfoStructMaker",),
        "a Java class",
    ),
    Only(
        ("converters", "transforms", "predicates", "post.processors"),
        ("",),
        "Java code that rewrites records; columns, masks and keys have settings of their own",
    ),
    Only(("notification.enabled.channels",), ("",), "`instep capture status` and the metrics tell it"),
    Only(("signal.enabled.channels",), ("source", ""), "signals come by the signal table alone"),
    Only(("database.initial.statements", "slot.stream.params"), ("",), "the connections' settings are pinned"),
    Only(("read.only",), ("false",), "incremental snapshots write their watermarks"),
    Only(("xmin.fetch.interval.ms",), ("0", ""), "`source.xmin` is always null, as without this setting"),
    Only(("table.ignore.builtin",), ("true", ""), "PostgreSQL publishes no changes of its own tables"),
    Only(("guardrail.collections.limit.action",), ("warn", ""), "no number of tables stops capture"),
    Only(("snapshot.query.mode",), ("select_all", ""), "a Java class"),
)

STEERING: Final[tuple[Steering, ...]] = (
    Steering(("name", "class", "plugin.name", "database.server.name", "config.*", "quarkus.*"), "names and launchers"),
    Steering(("debezium.sink.type",), "the sink is Kafka"),
    Steering(
        ("poll.*", "max.batch.*", "max.queue.*", "queue.*", "streaming.delay.ms", "executor.*"),
        "`batch_changes`, `batch_wait_ms`",
    ),
    Steering(
        ("event.*.failure.handling.mode",),
        "in every mode what cannot be encoded goes to the dead letters: never skipped, never the end of capture",
    ),
    Steering(
        ("snapshot.fetch.size", "snapshot.max.threads*", "snapshot.delay.ms", "snapshot.lock*",
         "snapshot.isolation.mode", "snapshot.tables.order.by.row.count", "query.fetch.size",
         "incremental.snapshot.allow.schema.changes"),
        "rows come by COPY under the slot's own snapshot, without locks",
    ),
    Steering(
        ("slot.max.retries", "slot.retry.delay.ms", "slot.drop.on.stop", "status.update.interval.ms",
         "retriable.*", "errors.*", "lsn.flush.*", "flush.lsn.source",
         "connection.validation.*"),
        "passing faults are waited out; the slot is confirmed behind each Kafka transaction",
    ),
    Steering(
        ("offset*", "exactly.once.support", "transaction.boundary*"),
        "the position is in the journal, in the same Kafka transaction as the changes",
    ),
    Steering(
        ("database.tcpKeepAlive", "database.query.timeout.ms", "database.sslfactory", "database.sslpassword"),
        "libpq's own settings, by PG… variables",
    ),
    Steering(
        ("schema.refresh.mode", "schema.history.*", "include.schema.changes", "legacy.*"),
        "each row is decoded with the RELATION before it",
    ),
    Steering(
        ("snapshot.mode.custom.name", "snapshot.query.mode.custom.name", "notification.sink.topic.name"),
        "they name parts of what is refused by a setting of its own",
    ),
    Steering(
        ("memory.management.*", "custom.sanitize.pattern", "connector.plugin.version"), "there is no Java to steer"
    ),
    Steering(("topic.cache.size", "topic.creation.*"), "topics are made with what Instep needs of them"),
    Steering(
        ("producer.*", "consumer.*", "admin.*", "key.converter.*", "value.converter.*"), "`[kafka]` and `[registry]`"
    ),
    Steering(
        ("custom.metric.tags", "statistics.*", "guardrail.*", "openlineage.*", "signal.*", "internal.*"),
        "metrics are Prometheus's; signals come by the signal table",
    ),
)  # fmt: skip


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\*", ".*")


STEERED: Final = re.compile("|".join(_pattern(name) for steering in STEERING for name in steering.names))
"""Matches the name of every setting that is read over."""

LIMITED: Final[Mapping[str, Only]] = {name: only for only in ONLY for name in only.names}
