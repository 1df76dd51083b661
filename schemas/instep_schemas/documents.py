"""A flow's documents as Avro: schema from the SELECT's own columns, encoding from PostgreSQL's JSON of the row.

Each field carries `pg.type`, PostgreSQL's name of the column's type. Numbers keep their digits: `numeric(p,s)` is
Avro's decimal, an unconstrained numeric is its text. Decoding gives exact Python values for sinks.

The few values that an Avro type has no room for are null in their own field, and their JSON stands in the last one, a
map by column; a SELECT none of whose columns can hold such values has no such field.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import fastavro

from instep.protocols import Fields, Key
from instep_schemas.documentcode import UNWRITTEN, DocumentField, compile_document, compile_key
from instep_schemas.documentforms import Form, Number, form_of, json_text, unmodified
from instep_schemas.documentprogram import compiled_document
from instep_schemas.wire import EXACT, NoRoom

_INVALID: Final = re.compile(r"[^A-Za-z0-9_]")
_EXACT_FIELD: Final = "instep_exact"
_EXACT_TYPE: Final = ["null", {"type": "map", "values": "string"}]


class DocumentColumn(NamedTuple):
    """One output column of a SELECT.

    Attributes:
        name: PostgreSQL's name of it.
        type: `format_type` text; a domain is replaced by its base type.
        kind: `pg_type.typtype`, and `a` for an array.
        element: an array's element type.
    """

    name: str
    type: str
    kind: str = "b"
    element: str | None = None


class Unencodable(ValueError):
    """A document holds a value that its Avro type cannot carry; names the column, never the value."""


def value_schema(flow: str, columns: Sequence[DocumentColumn], key: Sequence[str]) -> str:
    """Avro schema text of a flow's documents; every field but the key's may be null."""
    names = _field_names([column.name for column in columns])
    fields: list[dict[str, Any]] = []
    for column in columns:
        field: dict[str, Any] = {"name": names[column.name]}
        avro = _form(column).avro
        if column.name in key:
            field["type"] = avro
        else:
            field |= {"type": ["null", avro], "default": None}
        fields.append(field | _attributes(column, names))
    if any(_form(column).exact for column in columns if column.name not in key):
        name = _EXACT_FIELD
        while name in names.values():
            name += "_"
        fields.append({"name": name, "type": _EXACT_TYPE, "default": None, EXACT: True})
    return _record(flow, "Value", fields)


def key_schema(flow: str, columns: Sequence[DocumentColumn], key: Sequence[str]) -> str:
    """Avro schema text of a flow's keys: whole numbers as such, all else as PostgreSQL's text."""
    names = _field_names(key)
    by_name = {column.name: column for column in columns}
    fields = []
    for name in key:
        column = by_name[name]
        whole = {"smallint": "int", "integer": "int", "bigint": "long"}.get(column.type)
        fields.append({"name": names[name], "type": whole or "string"} | _attributes(column, names))
    return _record(flow, "Key", fields)


def _record(flow: str, name: str, fields: list[dict[str, Any]]) -> str:
    record = {"type": "record", "name": name, "namespace": f"flow.{_avro_name(flow)}", "fields": fields}
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False)


def _attributes(column: DocumentColumn, names: dict[str, str]) -> dict[str, Any]:
    found = {"pg.type": column.type}
    if column.kind != "b":
        found["pg.kind"] = column.kind
    if column.element:
        found["pg.element"] = column.element
    if names[column.name] != column.name:
        found["pg.name"] = column.name
    return found


def _avro_name(name: str) -> str:
    made = _INVALID.sub("_", name)
    return made if made[:1].isalpha() or made[:1] == "_" else f"_{made}"


def _field_names(names: Sequence[str]) -> dict[str, str]:
    """Avro names for SQL names; two that become the same get a number."""
    found: dict[str, str] = {}
    for name in names:
        made, number = _avro_name(name), 2
        while made in found.values():
            made, number = f"{_avro_name(name)}_{number}", number + 1
        found[name] = made
    return found


class DocumentCodec:
    """Encodes and decodes the documents of one value schema.

    Args:
        schema_text: as `value_schema` made it.
    """

    def __init__(self, schema_text: str) -> None:
        schema = json.loads(schema_text)
        self._columns = [(field["name"], _column_of(field)) for field in schema["fields"] if EXACT not in field]
        self._forms = [(name, column.name, _form(column)) for name, column in self._columns]
        self._exact: str | None = next((field["name"] for field in schema["fields"] if EXACT in field), None)
        self._nullable = {field["name"] for field in schema["fields"] if isinstance(field["type"], list)}
        self._physical = fastavro.parse_schema(_physical(schema))
        fields = [
            DocumentField(column.name, _plain_type(column), form.avro, name in self._nullable, form.encode)
            for (_, column), (name, _, form) in zip(self._columns, self._forms, strict=True)
        ]
        end = b"" if self._exact is None else b"\x00"  # no values without room
        self._written = compiled_document(fields, Number, end) or compile_document(fields, Number, end)

    def encode(self, document: str) -> bytes:
        """The Avro body (unframed) of PostgreSQL's `row_to_json` text.

        Raises:
            Unencodable: a value that the column's Avro type cannot carry (of another type; in a key, one without room).
        """
        try:
            return self._written(document)
        except UNWRITTEN:
            return self._by_column(document)

    def _by_column(self, document: str) -> bytes:
        row = json.loads(document, parse_float=Number, parse_int=Number)
        record: dict[str, Any] = {}
        exact: dict[str, str] = {}
        for name, column, form in self._forms:
            value = row[column]
            try:
                record[name] = None if value is None else form.encode(value)
            except (ValueError, TypeError, ArithmeticError) as exc:
                if not isinstance(exc, NoRoom) or self._exact is None or name not in self._nullable:
                    raise Unencodable(f'column "{column}" holds a value that {form.avro} cannot carry') from exc
                record[name], exact[column] = None, json_text(value)
        if self._exact is not None:
            record[self._exact] = exact or None
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, self._physical, record)
        except (ValueError, OverflowError, TypeError) as exc:
            raise Unencodable("a value does not fit its Avro type") from exc
        return out.getvalue()

    def decode(self, body: bytes) -> Fields:
        """The columns by their SQL names, as exact Python values."""
        record: Any = fastavro.schemaless_reader(io.BytesIO(body), self._physical, None)
        fields = {
            column: None if record[name] is None else form.decode(record[name]) for name, column, form in self._forms
        }
        exact = None if self._exact is None else record[self._exact]
        if exact:
            fields |= {
                column: form.read(json.loads(exact[column], parse_float=Number, parse_int=Number))
                for _, column, form in self._forms
                if column in exact
            }
        return fields


class KeyCodec:
    """Encodes and decodes the keys of one key schema."""

    def __init__(self, schema_text: str) -> None:
        schema = json.loads(schema_text)
        self._names = [field["name"] for field in schema["fields"]]
        self._schema = fastavro.parse_schema(schema)
        self._generated = compile_key([field["type"] for field in schema["fields"]])

    def encode(self, key: Key) -> bytes:
        """The Avro body (unframed) of a key given as PostgreSQL texts."""
        return self._generated(key)

    def decode(self, body: bytes) -> Key:
        """The key as PostgreSQL texts, in the order the flow names its columns."""
        record: Any = fastavro.schemaless_reader(io.BytesIO(body), self._schema, None)
        return tuple(str(record[name]) for name in self._names)


@lru_cache(256)
def _document_codec(schema_text: str) -> DocumentCodec:
    return DocumentCodec(schema_text)


@lru_cache(256)
def _key_codec(schema_text: str) -> KeyCodec:
    return KeyCodec(schema_text)


def decode_document(schema_text: str, body: bytes) -> Fields:
    """A document's columns from its Avro body (unframed): exact Python values by SQL name."""
    return _document_codec(schema_text).decode(body)


def decode_key(schema_text: str, body: bytes) -> Key:
    """A document's key from its Avro body (unframed), as PostgreSQL texts."""
    return _key_codec(schema_text).decode(body)


def _column_of(field: dict[str, Any]) -> DocumentColumn:
    return DocumentColumn(
        field.get("pg.name", field["name"]), field["pg.type"], field.get("pg.kind", "b"), field.get("pg.element")
    )


def _plain_type(column: DocumentColumn) -> str:
    """The type's name without modifiers; an enum's labels are texts."""
    return {"b": unmodified(column.type), "e": "text"}.get(column.kind, "")


def _form(column: DocumentColumn) -> Form:
    return form_of(column.type, column.kind, column.element)


def _physical(node: Any) -> Any:
    """The schema without logical types: the values are converted here, over PostgreSQL's whole range."""
    if isinstance(node, dict):
        return {name: _physical(each) for name, each in node.items() if name != "logicalType"}
    return [_physical(each) for each in node] if isinstance(node, list) else node
