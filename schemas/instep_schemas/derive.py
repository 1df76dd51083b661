"""From a captured table to its Avro schemas: the exact JSON text that Debezium's Avro converter would register."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from instep.relation import Column, Relation, ReplicaIdentity
from instep_schemas import javatext, standins
from instep_schemas.connectrecords import source_record, transaction_record, with_default
from instep_schemas.mapping import Avro, Mapped, domain_base, labels_of, map_column
from instep_schemas.sourcetypes import length_of, source_parameters
from instep_schemas.wire import (
    CIPHER,
    PLAIN,
    Cipher,
    Hash,
    Tag,
    Unsupported,
    WireOptions,
    adjusted_name,
    column_matches,
)

_LONG: Final = ["null", "long"]


@dataclass(frozen=True, slots=True)
class Field:
    """One written column.

    Attributes:
        name: its adjusted name, the Avro field's.
        column: as PostgreSQL describes it.
        index: where its value stands in the row's tuple.
        mapped: its Avro type and codec.
        optional: whether null is written (the Avro type is a union).
        default: Avro bytes of the default that the schema shows, None for none.
        identity: whether UPDATE and DELETE carry its old value.
        masked: (n) asterisks instead of any value, None otherwise.
        truncated: at most so many characters, None otherwise.
        hashed: a salted hash instead of any value, None otherwise.
        tags: the column's, with the rules for them.
        cipher: how its values are encrypted, None otherwise.
    """

    name: str
    column: Column
    index: int
    mapped: Mapped
    optional: bool
    default: bytes | None
    identity: bool
    masked: int | None = None
    truncated: int | None = None
    hashed: Hash | None = None
    tags: tuple[Tag, ...] = ()
    cipher: Cipher | None = None


@dataclass(frozen=True, slots=True)
class TableSchemas:
    """A table on the wire.

    Attributes:
        namespace: of its records.
        fields: the written columns, in tuple order.
        key_fields: the Kafka key's columns in key order; empty for a keyless table.
        key_text: schema text of the Kafka key, None for a keyless table.
        value_text: schema text of the envelope.
        key: `key_text`, parsed.
        value: `value_text`, parsed.
    """

    namespace: str
    fields: tuple[Field, ...]
    key_fields: tuple[Field, ...]
    key_text: str | None
    value_text: str
    key: dict[str, Any] | None
    value: dict[str, Any]


def derive(relation: Relation, options: WireOptions) -> TableSchemas:
    """Give the table's key and envelope schemas.

    Raises:
        Unsupported: two columns have one name in Avro (they differ by case only, or by characters that Avro lacks),
            or a key column is encrypted or (native profile) left out or masked, or a tag has no rule.
    """
    fields = tuple(_fields(relation, options))
    _refuse_collisions(relation, fields)
    namespace = options.namespace(relation.schema, relation.name)
    key_fields = _key_fields(relation, options, fields)
    key = _key_record(namespace, key_fields, options) if key_fields else None
    key_text = None if key is None else schema_text(key)
    value = _envelope(namespace, relation, fields, options)
    return TableSchemas(namespace, fields, key_fields, key_text, schema_text(value), key, value)


def _key_fields(relation: Relation, options: WireOptions, fields: Iterable[Field]) -> tuple[Field, ...]:
    names = chosen_key(relation, options) or relation.key if options.profile == "debezium" else relation.key
    _refuse_encrypted_keys(names, fields, relation)
    if options.profile == "native":
        _refuse_changed_keys(relation, options)
    else:  # Debezium's column filters leave the key alone
        shown = {field.column.name for field in fields}
        plain = replace(
            options, exclude=(), include=(), mask=(), truncate=(), hashed=(), propagate=(), propagate_types=()
        )
        fields = [
            field if field.column.name in shown else replace(field, optional=True, default=None)
            for field in _fields(relation, plain)
        ]
    by_name = {field.column.name: field for field in fields}
    return tuple(by_name[name] for name in names if name in by_name)


def chosen_key(relation: Relation, options: WireOptions) -> tuple[str, ...]:
    """The key columns that the settings choose for this table, in the settings' order; empty when they choose none."""
    return tuple(
        column.name
        for pattern in options.keys
        for column in relation.columns
        if column_matches(pattern, f"{relation.table}.{column.name}")
    )


def _fields(relation: Relation, options: WireOptions) -> Iterable[Field]:
    full, native = relation.replica_identity is ReplicaIdentity.FULL, options.profile == "native"
    keys = relation.key if native or relation.primary_key else ()  # Debezium's may be an index of nullable columns
    for index, column in enumerate(relation.columns):
        qualified = f"{relation.table}.{column.name}"
        if any(column_matches(pattern, qualified) for pattern in options.exclude):
            continue
        if options.include and not any(column_matches(pattern, qualified) for pattern in options.include):
            continue
        mapped = map_column(column, options)
        if mapped is None:
            continue
        field = Field(
            name=adjusted_name(column.name, unicode=options.unicode_fields),
            column=column,
            index=index,
            mapped=mapped,
            optional=not column.not_null and column.name not in keys,
            default=None if column.generated and native else standins.default_bytes(column, mapped, java=not native),
            identity=full or column.identity,
        )
        changed = _changed(field, qualified, options)
        # of several settings for one column Debezium follows the first alone, and would show what is to be hashed
        told = source_parameters(relation, column, options) if changed is field else {}
        for parameter, text in told.items():
            mapped = replace(changed.mapped, avro=_marked(changed.mapped.avro, parameter, text))
            changed = replace(changed, mapped=mapped)
        yield changed


def _changed(field: Field, qualified: str, options: WireOptions) -> Field:
    """The field as the masking settings change it; Debezium masks texts only, and marks whatever they name."""
    field = _tagged(field, qualified, options)
    if field.cipher is not None:
        return field
    mapped = field.mapped
    text = mapped.codec == "text"
    masked = _filter(options.mask, qualified)
    if masked is not None and (text or options.profile == "native"):
        avro = mapped.avro if text and options.profile == "debezium" else "string"
        return replace(field, mapped=Mapped(_marked(avro, "masked", "true"), "text", base=mapped.base), masked=masked)
    hashed = next((each for pattern, each in options.hashed if column_matches(pattern, qualified)), None)
    if masked is not None or hashed is not None:
        changed = replace(mapped, avro=_marked(mapped.avro, "masked", "true"))
        return replace(field, mapped=changed, hashed=hashed if text else None)
    truncated = _filter(options.truncate, qualified)
    if truncated is not None and options.profile == "debezium" and length_of(field.column) <= truncated:
        return field  # nothing of it can be cut
    if truncated is not None and (text or options.profile == "debezium"):
        changed = replace(mapped, avro=_marked(mapped.avro, "truncateLength", str(truncated)))
        return replace(
            field, mapped=changed, truncated=truncated if standins.kind_of(mapped.avro)[0] == "string" else None
        )
    return field


def _tagged(field: Field, qualified: str, options: WireOptions) -> Field:
    """The field with its tags; encrypted, its values are texts, and no default gives one away."""
    found = [tag for pattern, tags in options.tags if column_matches(pattern, qualified) for tag in tags]
    if not found:
        return field
    for tag in found:
        if not tag.algorithm:
            raise Unsupported(
                f"The column {qualified} has the tag {tag.name}, and there is no rule encryption.{tag.name}.",
                f'Set encryption.{tag.name}; algorithm = "plain" says that it is not to be encrypted.',
            )
    cipher = next((Cipher(tag.name, tag.algorithm) for tag in found if tag.algorithm != PLAIN), None)
    if cipher is None:
        return replace(field, tags=tuple(found))
    mapped = Mapped("string", "text", base=field.mapped.base)
    return replace(field, mapped=mapped, default=None, tags=tuple(found), cipher=cipher)


def _marked(avro: Avro, name: str, value: str) -> dict[str, Any]:
    """The type with one more Connect parameter."""
    if isinstance(avro, str):
        return {"type": avro, "connect.parameters": {name: value}}
    if "connect.parameters" in avro:
        return {**avro, "connect.parameters": {**avro["connect.parameters"], name: value}}
    later = ("connect.name", "connect.type", "logicalType")
    first = {key: each for key, each in avro.items() if key not in later}
    return {**first, "connect.parameters": {name: value}, **{key: avro[key] for key in later if key in avro}}


def _filter(rules: Iterable[tuple[str, int]], qualified: str) -> int | None:
    return next((number for pattern, number in rules if column_matches(pattern, qualified)), None)


def _refuse_collisions(relation: Relation, fields: Iterable[Field]) -> None:
    seen: dict[str, str] = {}
    for field in fields:
        other = seen.setdefault(field.name.lower(), field.column.name)
        if other != field.column.name:
            raise Unsupported(
                f"The columns {other!r} and {field.column.name!r} of {relation.table} have one name in Avro.",
                "Rename one of them, or leave it out of the publication.",
            )


def _refuse_encrypted_keys(names: Iterable[str], fields: Iterable[Field], relation: Relation) -> None:
    encrypted = {field.column.name for field in fields if field.cipher is not None}
    for name in names:
        if name in encrypted:
            raise Unsupported(
                f"The column {name!r} of {relation.table} is part of its key, and has a tag that says to encrypt it.",
                "A key is needed to find the row again: take the tag from the column, or give the table another key.",
            )


def _refuse_changed_keys(relation: Relation, options: WireOptions) -> None:
    changing = [*options.exclude, *(pattern for pattern, _ in (*options.mask, *options.truncate))]
    for name in relation.key:
        if any(column_matches(pattern, f"{relation.table}.{name}") for pattern in changing):
            raise Unsupported(
                f"The column {name!r} of {relation.table} is part of its key, but a setting leaves it out or masks it.",
                "Take it out of that setting: different rows would get one key.",
            )


def _key_record(namespace: str, fields: Iterable[Field], options: WireOptions) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "Key",
        "namespace": namespace,
        "fields": [_avro_field(field, options) | _own_name(field, options) for field in fields],
        "connect.name": f"{namespace}.Key",
    }


def _avro_field(field: Field, options: WireOptions) -> dict[str, Any]:
    avro, default = field.mapped.avro, None
    if field.default is not None:
        default = standins.json_default(avro, field.default)
    shown: dict[str, Any] = {"name": field.name}
    if default is None:
        shown["type"] = ["null", avro] if field.optional else avro
        if field.optional:
            shown["default"] = None
    else:
        short = options.profile == "debezium" and standins.kind_of(avro)[0] == "float" and isinstance(default, float)
        avro = with_default(avro, javatext.shortest(default) if short else default)
        shown |= {"type": [avro, "null"] if field.optional else avro, "default": default}
    return shown


def _own_name(field: Field, options: WireOptions) -> dict[str, Any]:
    """The column's name where Avro's differs.

    All that a key's field tells besides its type: whatever changes a key's schema moves its rows to other partitions.
    """
    own = options.profile == "native" and field.name != field.column.name
    return {"pg.name": field.column.name} if own else {}


def _tag_attributes(field: Field) -> dict[str, Any]:
    """Tags, where Confluent's rules look for them, and how to read what is encrypted."""
    told: dict[str, Any] = {"confluent:tags": [tag.name for tag in field.tags]} if field.tags else {}
    return told | ({CIPHER: field.cipher._asdict()} if field.cipher is not None else {})


def _native_attributes(field: Field, options: WireOptions) -> dict[str, Any]:
    """What the replica needs to make the column again."""
    if options.profile != "native":
        return _tag_attributes(field)
    column = field.column
    attributes = {
        "pg.type": column.sql_type,
        "pg.labels": list(labels_of(column.type)),
        "pg.base": domain_base(column.type),
        "pg.default": None if column.generated else standins.constant_default(column),
    }
    return {name: value for name, value in attributes.items() if value not in (None, [])} | (
        _own_name(field, options) | _tag_attributes(field)
    )


def _envelope(namespace: str, relation: Relation, fields: tuple[Field, ...], options: WireOptions) -> dict[str, Any]:
    value: dict[str, Any] = {
        "type": "record",
        "name": "Value",
        "namespace": namespace,
        "fields": [_avro_field(field, options) | _native_attributes(field, options) for field in fields],
        "connect.name": f"{namespace}.Value",
    }
    if options.profile == "native":
        value["pg.schema"], value["pg.table"] = relation.schema, relation.name
        value["pg.identity"] = [field.name for field in fields if field.identity]
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": namespace,
        "fields": [
            {"name": "before", "type": ["null", value], "default": None},
            {"name": "after", "type": ["null", value], "default": None},
            {"name": "source", "type": source_record()},
            {"name": "transaction", "type": ["null", transaction_record()], "default": None},
            {"name": "op", "type": "string"},
            {"name": "ts_ms", "type": _LONG, "default": None},
            {"name": "ts_us", "type": _LONG, "default": None},
            {"name": "ts_ns", "type": _LONG, "default": None},
        ],
        "connect.version": 2,
        "connect.name": f"{namespace}.Envelope",
    }


def schema_text(schema: Mapping[str, Any]) -> str:
    """The schema as Apache Avro for Java prints it: a record's second use is its name, no inherited namespace."""
    text = javatext.json_text(_compact(schema, "", set()))
    return _ESCAPE.sub(lambda found: found[1] or found[2].upper().replace("\\U", "\\u"), text)


_ESCAPE = re.compile(r"(\\\\)|(\\u[0-9a-f]{4})")


def _compact(schema: Any, enclosing: str, seen: set[str]) -> Any:
    if isinstance(schema, list):
        return [_compact(each, enclosing, seen) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    if schema["type"] != "record":
        return {
            name: _compact(value, enclosing, seen) if name in ("items", "values", "type") else value
            for name, value in schema.items()
        }
    namespace = schema["namespace"]
    full = f"{namespace}.{schema['name']}"
    if full in seen:
        return schema["name"] if namespace == enclosing else full
    seen.add(full)
    shown = {name: value for name, value in schema.items() if name != "namespace" or value != enclosing}
    shown["fields"] = [
        {name: _compact(value, namespace, seen) if name == "type" else value for name, value in field.items()}
        for field in schema["fields"]
    ]
    return shown
