"""A flow's documents as Avro: schema from the SELECT's own columns, encoding from PostgreSQL's JSON of the row.

Each field carries `pg.type`, PostgreSQL's name of the column's type. Numbers keep their digits: `numeric(p,s)` is
Avro's decimal, an unconstrained numeric is its text. Decoding gives exact Python values for sinks.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

import fastavro

from instep.protocols import Fields, Key
from instep_schemas.civil import format_date, format_time, format_timestamp, parse_date, parse_time, parse_timestamp
from instep_schemas.documentcode import UNWRITTEN, DocumentField, compile_document, compile_key

_INVALID: Final = re.compile(r"[^A-Za-z0-9_]")
_MODIFIER: Final = re.compile(r"\([^)]*\)")
_DECIMAL: Final = re.compile(r"numeric\((\d+),(\d+)\)")
_EPOCH: Final = datetime(1970, 1, 1)
_TIMESTAMP_END: Final = 2**63 - 1
"""`infinity` as Avro timestamp; PostgreSQL itself keeps it as the largest int64. `-infinity` is its negative."""
_DATE_END: Final = 2**31 - 1


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


class Number(str):
    """A JSON number as it was written: its digits stay."""

    __slots__ = ()


class _Form(NamedTuple):
    """How values of one PostgreSQL type travel."""

    avro: Any
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


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
        self._columns = [(field["name"], _column_of(field)) for field in schema["fields"]]
        self._forms = [(name, column.name, _form(column)) for name, column in self._columns]
        self._physical = fastavro.parse_schema(_physical(schema))
        optional = [isinstance(field["type"], list) for field in schema["fields"]]
        self._generated = compile_document(
            [
                DocumentField(column.name, _plain_type(column), form.avro, null, form.encode)
                for (_, column), (*_, form), null in zip(self._columns, self._forms, optional, strict=True)
            ],
            Number,
        )

    def encode(self, document: str) -> bytes:
        """The Avro body (unframed) of PostgreSQL's `row_to_json` text.

        Raises:
            Unencodable: a value that the column's Avro type cannot carry (NaN as decimal, an array of arrays).
        """
        try:
            return self._generated(document)
        except UNWRITTEN:
            return self._by_column(document)

    def _by_column(self, document: str) -> bytes:
        row = json.loads(document, parse_float=Number, parse_int=Number)
        record = {}
        for name, column, form in self._forms:
            value = row[column]
            try:
                record[name] = None if value is None else form.encode(value)
            except (ValueError, TypeError, ArithmeticError) as exc:
                raise Unencodable(f'column "{column}" holds a value that {form.avro} cannot carry') from exc
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, self._physical, record)
        except (ValueError, OverflowError, TypeError) as exc:
            raise Unencodable("a value does not fit its Avro type") from exc
        return out.getvalue()

    def decode(self, body: bytes) -> Fields:
        """The columns by their SQL names, as exact Python values."""
        record: Any = fastavro.schemaless_reader(io.BytesIO(body), self._physical, None)
        return {
            column: None if record[name] is None else form.decode(record[name]) for name, column, form in self._forms
        }


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
    return {"b": _MODIFIER.sub("", column.type), "e": "text"}.get(column.kind, "")


def _physical(node: Any) -> Any:
    """The schema without logical types: the values are converted here, over PostgreSQL's whole range."""
    if isinstance(node, dict):
        return {name: _physical(each) for name, each in node.items() if name != "logicalType"}
    return [_physical(each) for each in node] if isinstance(node, list) else node


def _form(column: DocumentColumn) -> _Form:
    if column.kind == "a" and column.element:
        return _array(_form(DocumentColumn(column.name, column.element)))
    if column.kind == "c":
        return _Form("string", json_text, json.loads)
    found = _DECIMAL.fullmatch(column.type)
    if found is not None and int(found[2]) <= int(found[1]):
        return _decimal(int(found[1]), int(found[2]))
    return _FORMS.get(_MODIFIER.sub("", column.type), _TEXT) if column.kind == "b" else _TEXT


def _array(element: _Form) -> _Form:
    def encode(values: Any) -> list[Any]:
        if not isinstance(values, list):
            raise ValueError("not an array")
        return [None if each is None else element.encode(each) for each in values]

    def decode(values: Any) -> list[Any]:
        return [None if each is None else element.decode(each) for each in values]

    return _Form({"type": "array", "items": ["null", element.avro]}, encode, decode)


def _decimal(precision: int, scale: int) -> _Form:
    def encode(value: Any) -> bytes:
        number = int(Decimal(value).scaleb(scale, _EXACT))
        return number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)

    def decode(content: bytes) -> Decimal:
        return Decimal(int.from_bytes(content, "big", signed=True)).scaleb(-scale, _EXACT)

    return _Form({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}, encode, decode)


def json_text(value: Any) -> str:
    """A JSON value read with `Number` as text again: same digits, no blanks."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{','.join(map(json_text, value))}]"
    return (
        "{"
        + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{json_text(each)}" for name, each in value.items())
        + "}"
    )


def _plain(value: Any) -> str:
    """Text as it is; anything else that PostgreSQL's JSON of a type may be, as JSON."""
    return value if type(value) is str else json_text(value)


def _timestamp_us(text: str) -> int:
    if text.endswith("infinity"):
        return -_TIMESTAMP_END if text.startswith("-") else _TIMESTAMP_END
    return parse_timestamp(text.replace("T", " ", 1).encode())


def _zoned(micros: int) -> datetime | str:
    moment = _local(micros)
    return moment.replace(tzinfo=UTC) if isinstance(moment, datetime) else moment


def _local(micros: int) -> datetime | str:
    """A datetime, or PostgreSQL's text of a moment that Python does not know."""
    if abs(micros) == _TIMESTAMP_END:
        return "infinity" if micros > 0 else "-infinity"
    try:
        return _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return format_timestamp(micros)


def _days(text: str) -> int:
    if text.endswith("infinity"):
        return -_DATE_END if text.startswith("-") else _DATE_END
    return parse_date(text.encode())


def _date(days: int) -> date | str:
    if abs(days) == _DATE_END:
        return "infinity" if days > 0 else "-infinity"
    try:
        return _EPOCH.date() + timedelta(days=days)
    except OverflowError:
        return format_date(days)


def _float(value: Any) -> float:
    number = float(value)
    if isinstance(value, Number) and math.isinf(number):
        raise OverflowError
    return number


def _same(value: Any) -> Any:
    return value


_EXACT: Final = Context(prec=150_000)
"""Enough for every numeric PostgreSQL can hold, so that moving the point never rounds."""
_TEXT: Final = _Form("string", _plain, _same)
_INT: Final = _Form("int", int, _same)
_LONG: Final = _Form("long", int, _same)
_DOUBLE: Final = _Form("double", _float, _same)
_JSON: Final = _Form("string", json_text, json.loads)
_FORMS: Final[dict[str, _Form]] = {
    "smallint": _INT,
    "integer": _INT,
    "bigint": _LONG,
    "oid": _LONG,
    "real": _DOUBLE,
    "double precision": _DOUBLE,
    "boolean": _Form("boolean", bool, _same),
    "numeric": _Form("string", _plain, Decimal),
    "uuid": _Form({"type": "string", "logicalType": "uuid"}, _plain, _same),
    "bytea": _Form("bytes", lambda text: bytes.fromhex(text[2:]), _same),
    "json": _JSON,
    "jsonb": _JSON,
    "date": _Form({"type": "int", "logicalType": "date"}, _days, _date),
    "time without time zone": _Form(
        {"type": "long", "logicalType": "time-micros"}, lambda text: parse_time(text.encode()), format_time
    ),
    "timestamp without time zone": _Form(
        {"type": "long", "logicalType": "local-timestamp-micros"}, _timestamp_us, _local
    ),
    "timestamp with time zone": _Form({"type": "long", "logicalType": "timestamp-micros"}, _timestamp_us, _zoned),
}
