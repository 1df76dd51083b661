"""How a source's changes look on the wire: the options of one source, and Avro's naming rules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from instep.change import Op
from instep.errors import InstepError
from instep.topics import topic_name

Profile = Literal["debezium", "native"]

CONNECTOR_VERSION = "3.6.3.Final"
"""The Debezium release whose output the `debezium` profile repeats byte for byte."""

UNAVAILABLE = "__debezium_unavailable_value"
"""What stands in the place of an unchanged TOAST column (Debezium's default)."""

_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9_]")
_NOT_IN_NAMESPACE = re.compile(r"[^A-Za-z0-9_.]")


class Refused(ValueError):
    """A value that an Avro type cannot carry; the message is the reason and never holds the value."""


class NoRoom(Refused):
    """A value of the column's type for which its Avro type has no room: the native profile tells it in a header."""


class Unencodable(InstepError):
    """A value that the column's Avro type cannot carry: the change belongs into the dead letters.

    Attributes:
        column: the column's name.
        reason: what is wrong with the value, without the value itself.
    """

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"Column {column!r} cannot be written to Kafka: {reason}.")
        self.column = column
        self.reason = reason


class UnknownLabel(Unencodable):
    """An enum's value that its type did not have when the table was described.

    ALTER TYPE … ADD VALUE sends no RELATION: describe the table again from the catalog, and encode the change again.
    """


class RefusedLabel(Refused):
    """What a codec raises for `UnknownLabel`."""


class Unsupported(InstepError):
    """A table whose columns cannot be told apart in Avro (their adjusted names collide)."""


class Hash(NamedTuple):
    """How a column's texts are hashed.

    Attributes:
        algorithm: hashlib's name.
        salt: goes in front of the value.
        serialized: hash Java's serialized form of the string, as Debezium's first version does.
    """

    algorithm: str
    salt: str
    serialized: bool = True


PLAIN: Final = "plain"
"""The algorithm of a tag whose columns are not encrypted, on purpose."""
CIPHER: Final = "instep.cipher"
"""Attribute of an encrypted column's field: its `Cipher`."""
EXACT: Final = "instep.exact"
"""The header of a data record, and attribute of a document's field, that tell values without room in their types."""


class Tag(NamedTuple):
    """A tag of a column.

    Attributes:
        name: `PII`.
        algorithm: what the rule for it says; `plain`: not encrypted, on purpose; empty: there is no rule.
    """

    name: str
    algorithm: str


class Cipher(NamedTuple):
    """How a column's texts are encrypted.

    Attributes:
        tag: whose rule holds the key.
        algorithm: AES256_GCM, or AES256_SIV where equal texts are to have equal ciphertexts.
    """

    tag: str
    algorithm: str


@dataclass(frozen=True, slots=True)
class WireOptions:
    """What one source writes; the names in brackets are Debezium's settings.

    The handling modes (decimals, times, intervals, binary, hstore) hold for the debezium profile only.

    Attributes:
        source: first part of every topic name and namespace [topic.prefix].
        database: the store's database name, told in each record's source block.
        profile: `debezium` repeats Debezium's bytes; `native` adds `pg.*` attributes to the schemas and carries as
            PostgreSQL text what Debezium's mapping loses or leaves out.
        decimals: numeric as decimal bytes, text or double [decimal.handling.mode].
        times: dates and times as numbers by precision, Connect's types or ISO text [time.precision.mode].
        intervals: microseconds or ISO 8601 text [interval.handling.mode].
        binary: bytea as bytes or text [binary.handling.mode].
        hstore: JSON text or an Avro map [hstore.handling.mode].
        unavailable: stands for an unchanged TOAST column [unavailable.value.placeholder].
        tombstones: whether a null value follows each delete [tombstones.on.delete].
        transactions: whether records name their transaction [provide.transaction.metadata].
        skipped: operations that are not written, also as the halves of a key change [skipped.operations].
        exclude: regular expressions of `schema.table.column`: not written [column.exclude.list].
        include: the same: what does not match is not written, when there are any [column.include.list].
        keys: the same, in order: the Kafka key's columns of the tables that have any [message.key.columns].
        mask: (expression, n): n asterisks instead of the value [column.mask.with.n.chars].
        truncate: (expression, n): at most n characters [column.truncate.to.n.chars].
        hashed: (expression, hash): a salted hash instead of the value [column.mask.hash.algorithm.with.salt.salt].
        tags: (expression, tags of the column); those whose rule says so are encrypted.
        money_digits: the store's fraction digits of `money` [money.fraction.digits].
        unicode_names: characters that Avro lacks are `_uXXXX` in namespaces [schema.name.adjustment.mode=avro_unicode].
        unicode_fields: the same in fields' names [field.name.adjustment.mode=avro_unicode].
        propagate: expressions of `schema.table.column`: the schema tells the column's type, length and scale
            [column.propagate.source.type].
        propagate_types: the same, of `schema.table.type` and `database.schema.table.type`
            [datatype.propagate.source.type].
        unknown: types that Debezium's mapping lacks are written as the bytes of their text, by `binary`
            [include.unknown.datatypes].
        delimiter: between the parts of a table's topic [topic.delimiter].
        schema_in_topic: whether the schema is one of them [topic.naming.strategy].
        copied: the rows come by a first copy, of which Debezium tells some source types otherwise.
        version: told in each record's source block.
        connector: told in each record's source block.
    """

    source: str
    database: str
    profile: Profile = "native"
    decimals: Literal["precise", "string", "double"] = "precise"
    times: Literal["adaptive", "adaptive_time_microseconds", "microseconds", "nanoseconds", "connect", "isostring"] = (
        "adaptive"
    )
    intervals: Literal["numeric", "string"] = "numeric"
    binary: Literal["bytes", "base64", "base64-url-safe", "hex"] = "bytes"
    hstore: Literal["json", "map"] = "json"
    unavailable: str = UNAVAILABLE
    tombstones: bool = True
    transactions: bool = False
    skipped: frozenset[Op] = frozenset()
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    mask: tuple[tuple[str, int], ...] = ()
    truncate: tuple[tuple[str, int], ...] = ()
    hashed: tuple[tuple[str, Hash], ...] = ()
    tags: tuple[tuple[str, tuple[Tag, ...]], ...] = ()
    money_digits: int = 2
    unicode_names: bool = False
    unicode_fields: bool = False
    propagate: tuple[str, ...] = ()
    propagate_types: tuple[str, ...] = ()
    unknown: bool = False
    delimiter: str = "."
    schema_in_topic: bool = True
    copied: bool = False
    version: str = CONNECTOR_VERSION
    connector: str = "postgresql"

    def topic(self, schema: str, table: str) -> str:
        """The topic of a table's records."""
        return topic_name(self._path(schema, table))

    def namespace(self, schema: str, table: str) -> str:
        """The namespace of a table's records.

        Like Debezium's, a part that begins with a digit stays so (only the whole name's first character is looked at).
        """
        if self.unicode_names:
            return _as_unicode(self.topic(schema, table), ".")
        adjusted = _NOT_IN_NAMESPACE.sub("_", self._path(schema, table))
        return f"_{adjusted}" if adjusted[:1].isdigit() else adjusted

    def _path(self, schema: str, table: str) -> str:
        parts = (self.source, schema, table) if self.schema_in_topic else (self.source, table)
        return self.delimiter.join(parts)

    @property
    def propagates(self) -> bool:
        """Whether schemas tell source types."""
        return bool(self.propagate or self.propagate_types)


def adjusted_name(name: str, *, unicode: bool = False) -> str:
    """A column name as an Avro name: other characters become `_`, a leading digit gets one in front."""
    if unicode:
        return _as_unicode(name, "")
    adjusted = _NOT_IN_NAME.sub("_", name)
    return f"_{adjusted}" if adjusted[:1].isdigit() else adjusted


def _as_unicode(name: str, more: str) -> str:
    """Each UTF-16 unit but ASCII letters, digits behind the first character and `more` as `_uXXXX`; so also `_`."""
    units = name.encode("utf-16-be", "surrogatepass")
    shown = []
    for at in range(0, len(units), 2):
        number = int.from_bytes(units[at : at + 2], "big")
        plain = number < 128 and (chr(number).isalpha() or (at and (chr(number).isdigit() or chr(number) in more)))
        shown.append(chr(number) if plain else f"_u{number:04x}")
    return "".join(shown)


def column_matches(pattern: str, qualified: str) -> bool:
    """Whether a column filter (a regular expression, case-insensitive, whole match) names `schema.table.column`."""
    return re.fullmatch(pattern.strip(), qualified, re.IGNORECASE) is not None


class Deviation(NamedTuple):
    """Where the `debezium` profile deliberately writes something else than Debezium.

    Attributes:
        debezium: what it writes.
        instep: what we do, and why.
    """

    debezium: str
    instep: str


EXCEPTIONS: Final[Mapping[str, Deviation]] = {
    "null-with-default": Deviation(
        "An explicit NULL in a nullable column that has a DEFAULT becomes the default value, also in a key "
        "(message.key.columns).",
        "null: the schema can carry it. (Of a delete's old row, unknown columns still show their defaults.)",
    ),
    "name-in-stream": Deviation(
        "A column of type `name` is null or empty in streamed changes.",
        "its text, as in the snapshot.",
    ),
    "connector-death": Deviation(
        "A fault of its own stops the connector for good: a null in an array of domains, a NOT NULL column that is not "
        "in the WAL and for whose type it has no filler (nanoseconds; an unchanged TOAST bytea written as text), a "
        "table without columns, a name that Avro lacks, a SELECT for the snapshot that gives other columns, a database "
        "with bytea_output=escape.",
        "goes on: a filler, the placeholder, the adjusted name, the columns by their names.",
    ),
    "store-settings": Deviation(
        "An IntervalStyle of the database or the role takes years, months and days from intervals, or all of them; "
        "an extra_float_digits the last digits from floats.",
        "whole: the connections' settings are pinned.",
    ),
    "copied-again": Deviation(
        "snapshot.mode=always copies again at each start, and drops what changed since the last one: a row deleted "
        "meanwhile is never deleted for the readers.",
        "copied once; a later start goes on from the journal, with every change.",
    ),
    "dropped-table": Deviation(
        "A change that is read when its table is dropped already has no key.",
        "the key, by the replica identity of that time.",
    ),
    "renamed-away": Deviation(
        "A table that is renamed, or moved to a schema, so that the filters leave it out goes on under its old name.",
        "left out from then on.",
    ),
    "adjusted-names": Deviation(
        "With schema.name.adjustment.mode=none, its default, namespaces have characters that Avro lacks (`my-shop`), "
        "which strict readers and registries refuse.",
        "adjusted, as with `avro`; topics and subjects are the same.",
    ),
    "shared-topic": Deviation(
        "Tables whose names differ in characters that topics lack write into one topic, with a warning.",
        "a refusal at the start that names both.",
    ),
    "unheeded-stop": Deviation(
        "The signal stop-snapshot does not find the tables it names, and their copies go on.",
        "their copies stop.",
    ),
    "identity-given-up": Deviation(
        "replica.identity.autoset.values is given up for all tables when one of those it names needs quotes.",
        "done for all of them.",
    ),
    "array-times": Deviation(
        "Times in arrays lose their microseconds, those with a time zone all of their fraction.",
        "all six digits.",
    ),
    "vector": Deviation(
        "An int2vector or oidvector is always an empty array.",
        "its numbers.",
    ),
    "names-with-schema": Deviation(
        "With include.unknown.datatypes a regclass, regtype or the like is told by its name alone, where the role's "
        "search_path finds it.",
        "with its schema, whatever the search_path is.",
    ),
    "iso-infinity": Deviation(
        "With time.precision.mode=isostring the infinities of dates and timestamps are days and moments very far away.",
        "`infinity` and `-infinity`, as timestamps with a time zone have it.",
    ),
    "iso-midnight": Deviation(
        "With time.precision.mode=isostring 24:00:00 becomes 00:00:00.",
        "`24:00:00Z`.",
    ),
    "negative-scale": Deviation(
        "With decimal.handling.mode=string a numeric(5,-2) gets some two thousand zeros behind the point.",
        "the number.",
    ),
    "mask-not-text": Deviation(
        "Masks and hashes leave values alone whose type is not quite a text (json, uuid, inet, citext, …).",
        "masked, hashed: who names such a column does not want it to be read. Numbers and dates stay, as the schema "
        "has no room for a mask; so the schema says `masked` of them in vain there and here.",
    ),
    "left-out-key": Deviation(
        "Where column filters leave the primary key out, the first copy's rows all have a key of zeros.",
        "the key, as in the stream.",
    ),
    "keyless-copy": Deviation(
        "An incremental snapshot of a table without a key brings the last row of each chunk only.",
        "all of its rows.",
    ),
    "bit-array": Deviation(
        "An array of bit strings is described as one bit string, and is always null.",
        "null is null; Unencodable else.",
    ),
    "enum-labels": Deviation(
        "After ALTER TYPE … ADD or RENAME VALUE the schema goes on telling the labels from before.",
        "the labels as they are when the table is described.",
    ),
    "unknown-key": Deviation(
        "A delete under REPLICA IDENTITY USING INDEX that leaves the primary key out gets a key of zeros.",
        "Unencodable: a made-up key would delete nothing, or another row. An update of the index stays an update under "
        "the key it has. (The native profile keys such a table by that index, so that this cannot happen.)",
    ),
    "date-infinity": Deviation(
        "The infinities of a date differ between snapshot and stream.",
        "the stream's numbers in both; the decoder reads them as infinity again.",
    ),
    "numeric-special": Deviation(
        "NaN or Infinity in a numeric becomes null, or stops the connector where null is not allowed "
        "(decimal.handling.mode=precise).",
        "Unencodable: that change goes to the dead letters. (The native profile carries it.)",
    ),
    "array-dimensions": Deviation(
        "Only one-dimensional arrays from 1 are supported; others lose their shape.",
        "Unencodable. (The native profile tells their text in a header.)",
    ),
    "null-in-enum-array": Deviation(
        "An array of enum labels that holds a null becomes null as a whole: its schema has no null for the items.",
        "Unencodable.",
    ),
    "timestamp-range": Deviation(
        "Timestamps after the year 294247 and intervals of more than 292271 years do not fit the 64 bits of "
        "microseconds: they become other ones.",
        "Unencodable. (The native profile tells their text in a header.)",
    ),
    "far-dates": Deviation(
        "Dates and times BC are shifted.",
        "right: the proleptic calendar as PostgreSQL counts, years as ISO 8601 numbers them.",
    ),
    "null-in-not-null": Deviation(
        "Null in a column that the (newer) catalog declares NOT NULL becomes zero.",
        "Unencodable, upon which capture widens the schema.",
    ),
    "toast-without-placeholder": Deviation(
        "An unchanged TOAST value of a type without a placeholder becomes null.",
        "every type that can be toasted has a placeholder.",
    ),
}
"""Every deliberate deviation, by name; the golden test lists which recorded columns fall under which."""
