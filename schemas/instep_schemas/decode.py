"""Generated decoders: an envelope's Avro body to PostgreSQL texts, only the columns that are asked for.

Works on what Instep writes and on what Debezium writes: the column's Avro and Connect types say how to read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from instep.change import ABSENT, Op, Row
from instep_schemas import standins
from instep_schemas.ciphers import opening
from instep_schemas.keyjson import key_body
from instep_schemas.mapping import Avro
from instep_schemas.standins import kind_of
from instep_schemas.texts import reader_of, zoned_text
from instep_schemas.varint import read_long
from instep_schemas.wire import CIPHER, UNAVAILABLE, Cipher


class Envelope(NamedTuple):
    """One change as its envelope tells it.

    Attributes:
        op: what happened.
        before: the old row; columns that the replica identity leaves out are ABSENT in Instep's own profile
            (Debezium writes fillers there: of a `d`, trust the key columns only).
        after: the new row; unchanged TOAST columns are ABSENT.
        ts_us: source commit time, microseconds since the Unix epoch.
        lsn: of the change; None for incremental snapshots.
        tx_id: the source transaction's 32-bit id.
        snapshot: `false`, or the snapshot marker.
    """

    op: Op
    before: Row | None
    after: Row | None
    ts_us: int
    lsn: int | None
    tx_id: int | None
    snapshot: str


Decoder = Callable[[bytes], Envelope]
KeyDecoder = Callable[[bytes], dict[str, str | None]]

_SMALL: Final = [str((number >> 1) ^ -(number & 1)) for number in range(128)]
_OPS: Final = {op.value: op for op in Op}
_SOURCE: Final = {"ts_ms": "None", "ts_us": "None", "lsn": "None", "txId": "None", "snapshot": "'false'"}
_RESULT: Final = (
    "return Envelope(OPS[op], before, after, ts_us if ts_us is not None else (ts_ms or 0) * 1000, lsn, txId, snapshot)"
)


def compile_decoder(
    value_schema_text: str, columns: Collection[str] | None = None, unavailable: str = UNAVAILABLE
) -> Decoder:
    """Make the decoder of one envelope schema.

    Args:
        value_schema_text: as registered.
        columns: the columns to read (PostgreSQL's names); None for all.
        unavailable: the placeholder of an unchanged TOAST column.

    Raises:
        ValueError: not an envelope, or a wanted column's type has no PostgreSQL text.
    """
    schema = expand(json.loads(value_schema_text))
    fields = {field["name"]: field for field in schema.get("fields", ())}
    if not {"before", "after", "source", "op"} <= fields.keys():
        raise ValueError("not an envelope: before, after, source or op is missing")
    code = _Code(unavailable)
    code.add("def decode(d):")
    code.add(" p = 0")
    for name, start in _SOURCE.items():
        code.add(f" {name} = {start}")
    missing = {"before", "after", "source", "op"}
    for name, field in fields.items():
        if name in ("before", "after"):
            code.image(name, field["type"], columns)
        elif name == "source":
            code.source(field["type"])
        elif name == "op":
            code.string(1, "op")
        else:
            code.skip(1, field["type"])
        missing.discard(name)
        if not missing:
            break
    code.add(f" {_RESULT}")
    decoder: Decoder = code.compile("decode")
    return decoder


def decode_key(key_schema_text: str) -> KeyDecoder:
    """Make the decoder of one key schema: body to column name → PostgreSQL text."""
    schema = expand(json.loads(key_schema_text))
    code = _Code(UNAVAILABLE)
    code.add("def decode(d):")
    code.add(" p = 0")
    code.row(1, "row", schema["fields"], None, frozenset())
    code.add(" return row")
    decoder: KeyDecoder = code.compile("decode")
    return decoder


def decode_key_header(key_schema_text: str) -> KeyDecoder:
    """Make the decoder of a key change's header (`__debezium.oldkey`, `…newkey`): JSON to column name → text."""
    schema = expand(json.loads(key_schema_text))
    body = decode_key(key_schema_text)
    return lambda text: body(key_body(schema, text))


def column_name(field: Mapping[str, Any]) -> str:
    """A field's column as PostgreSQL names it."""
    name: str = field.get("pg.name", field["name"])
    return name


def value_record(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The row's record of an (expanded) envelope schema.

    Raises:
        ValueError: not an envelope.
    """
    for field in envelope.get("fields", ()):
        if field["name"] in ("before", "after"):
            record: dict[str, Any] = next(each for each in field["type"] if each != "null")
            return record
    raise ValueError("not an envelope: it has neither before nor after")


def expand(schema: Any) -> Any:
    """Put each record's definition where only its name stands."""
    return _expand(schema, "", {})


def _expand(schema: Any, namespace: str, known: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_expand(each, namespace, known) for each in schema]
    if isinstance(schema, str):
        return known.get(schema) or known.get(f"{namespace}.{schema}") or schema
    inner = dict(schema)
    if schema["type"] != "record":
        for name in ("items", "values"):
            if name in inner:
                inner[name] = _expand(inner[name], namespace, known)
        return inner
    inner["namespace"] = namespace = schema.get("namespace", namespace)
    known[f"{namespace}.{schema['name']}"] = inner
    inner["fields"] = [{**field, "type": _expand(field["type"], namespace, known)} for field in schema["fields"]]
    return inner


class _Code:
    """Source text of a decoder: `d` is the body, `p` where the reader stands."""

    def __init__(self, unavailable: str) -> None:
        self.lines: list[str] = []
        self.unavailable = unavailable
        self.names: dict[str, Any] = {
            "ABSENT": ABSENT,
            "Envelope": Envelope,
            "OPS": _OPS,
            "SMALL": _SMALL,
            "more": read_long,
            "zoned": zoned_text,
            "PLACEHOLDER": unavailable,
        }

    def add(self, line: str) -> None:
        self.lines.append(line)

    def compile(self, name: str) -> Any:
        exec(compile("\n".join(self.lines), "<generated decoder>", "exec"), self.names)
        return self.names[name]

    def image(self, name: str, union: Any, columns: Collection[str] | None) -> None:
        """The old or the new row."""
        record = next(each for each in union if each != "null")
        identity = record.get("pg.identity")
        unknown: frozenset[str] = frozenset()
        if name == "before" and identity is not None:
            unknown = frozenset(field["name"] for field in record["fields"]) - frozenset(identity)
        self.add(f" {name} = None")
        self.add(" p += 1")
        self.add(f" if d[p - 1] == {union.index(record) << 1}:")
        self.row(2, name, record["fields"], columns, unknown)

    def row(
        self,
        depth: int,
        target: str,
        fields: list[dict[str, Any]],
        columns: Collection[str] | None,
        unknown: frozenset[str],
    ) -> None:
        """A record's fields into a dictionary of texts."""
        items: list[str] = []
        for number, field in enumerate(fields):
            column = column_name(field)
            if columns is not None and column not in columns:
                self.skip(depth, field["type"])
            elif field["name"] in unknown:
                self.skip(depth, field["type"])
                items.append(f"{column!r}: ABSENT")
            else:
                self.value(depth, f"v{number}", field["type"])
                if CIPHER in field:
                    self.opened(depth, f"v{number}", Cipher(**field[CIPHER]), column)
                items.append(f"{column!r}: v{number}")
        self.add(f"{' ' * depth}{target} = {{{', '.join(items)}}}")

    def value(self, depth: int, target: str, avro: Any) -> None:
        """One column."""
        pad = " " * depth
        if isinstance(avro, list):
            branch = 0 if avro[1] == "null" else 1
            self.add(f"{pad}p += 1")
            self.add(f"{pad}if d[p - 1] != {branch << 1}:")
            self.add(f"{pad} {target} = None")
            self.add(f"{pad}else:")
            self.value(depth + 1, target, avro[branch])
            return
        kind, name = kind_of(avro)
        if kind == "string" and name in _AS_IS:
            self.text(depth, target)
        elif name == "io.debezium.time.ZonedTimestamp":
            self.string(depth, target)
            usual = f"n == 27 and {target}[10] == 'T' and {target}[25] != '0' and {target}[26] == 'Z'"
            self.add(f"{pad}{target} = f'{{{target}[:10]}} {{{target}[11:26]}}+00' if {usual} else zoned({target})")
        elif kind == "boolean" and not name:
            self.add(f"{pad}{target} = 't' if d[p] else 'f'")
            self.add(f"{pad}p += 1")
        elif kind in ("int", "long") and not name:
            self.number(depth, target, f"{target} = str({target})", "SMALL")
        else:
            self.read(depth, target, avro)

    def opened(self, depth: int, target: str, cipher: Cipher, column: str) -> None:
        """The text of an encrypted column; neither null nor absent is encrypted, nor a filler."""
        function = f"o{len(self.names)}"
        self.names[function] = opening(cipher, column)
        self.add(f"{' ' * depth}if {target} and {target} is not ABSENT: {target} = {function}({target})")

    def text(self, depth: int, target: str) -> None:
        """A string column; the placeholder is ABSENT."""
        pad = " " * depth
        self.string(depth, target)
        self.add(f"{pad}if n == {len(self.unavailable.encode())} and {target} == PLACEHOLDER: {target} = ABSENT")

    def string(self, depth: int, target: str) -> None:
        """Any string."""
        pad = " " * depth
        self._length(pad)
        self.add(f"{pad}{target} = d[p:p + n].decode()")
        self.add(f"{pad}p += n")

    def _length(self, pad: str) -> None:
        self.add(f"{pad}n = d[p]")
        self.add(f"{pad}if n > 127: n, p = more(d, p)")
        self.add(f"{pad}else: n >>= 1; p += 1")

    def number(self, depth: int, target: str, large: str = "", small: str = "") -> None:
        """An int or long; `small` is a table for those of one byte."""
        pad = " " * depth
        self.add(f"{pad}n = d[p]")
        self.add(f"{pad}if n > 127:")
        self.add(f"{pad} {target}, p = more(d, p)")
        if large:
            self.add(f"{pad} {large}")
        value = f"{small}[n]" if small else "(n >> 1) ^ -(n & 1)"
        self.add(f"{pad}else: {target} = {value}; p += 1")

    def read(self, depth: int, target: str, avro: Avro) -> None:
        """Any other column, by its reader; a type that may be toasted first looks for its placeholder."""
        pad = " " * depth
        reader = f"r{len(self.names)}"
        self.names[reader] = reader_of(avro)
        placeholder = standins.placeholder(avro, self.unavailable)
        if placeholder is None:
            self.add(f"{pad}{target}, p = {reader}(d, p)")
            return
        constant = f"k{len(self.names)}"
        self.names[constant] = placeholder
        self.add(f"{pad}if d.startswith({constant}, p): {target} = ABSENT; p += {len(placeholder)}")
        self.add(f"{pad}else: {target}, p = {reader}(d, p)")

    def source(self, record: dict[str, Any]) -> None:
        """The source block: five of its fields are read, the rest is skipped.

        All changes of one transaction share the same bytes but for `sequence` and `lsn`: each run of fields between
        those is remembered with what it meant, and recognised as a whole.
        """
        run: list[dict[str, Any]] = []
        for field in record["fields"]:
            if field["name"] in ("sequence", "lsn"):
                self._run(run)
                self._source_field(1, field)
                run = []
            else:
                run.append(field)
        for field in run:
            self._source_field(1, field)

    def _run(self, fields: list[dict[str, Any]]) -> None:
        memory = f"m{len(self.names)}"
        self.names[memory] = [(b"\xff" * 11,)]  # no varint is that long: matches nothing
        told = ", ".join(field["name"] for field in fields if field["name"] in _SOURCE)
        self.add(f" run = {memory}[0]")
        self.add(" if d.startswith(run[0], p):")
        self.add("  p += len(run[0])")
        if told:
            self.add(f"  _, {told} = run")
        self.add(" else:")
        self.add("  start = p")
        for field in fields:
            self._source_field(2, field)
        self.add(f"  {memory}[0] = (d[start:p], {told})")

    def _source_field(self, depth: int, field: dict[str, Any]) -> None:
        name, avro, pad = field["name"], field["type"], " " * depth
        if name not in _SOURCE:
            self.skip(depth, avro)
            return
        if isinstance(avro, list):
            branch = 0 if avro[1] == "null" else 1
            avro = avro[branch]
            self.add(f"{pad}p += 1")
            self.add(f"{pad}if d[p - 1] == {branch << 1}:")
            depth += 1
        if kind_of(avro)[0] == "string":
            self.string(depth, name)
        else:
            self.number(depth, name)

    def skip(self, depth: int, avro: Any) -> None:
        """Step over a value."""
        pad = " " * depth
        if isinstance(avro, list):
            self.add(f"{pad}p += 1")
            for branch, each in enumerate(avro):
                if each != "null":
                    self.add(f"{pad}if d[p - 1] == {branch << 1}:")
                    self.skip(depth + 1, each)
            return
        kind, _ = kind_of(avro)
        if kind in ("int", "long"):
            self.add(f"{pad}while d[p] > 127: p += 1")
            self.add(f"{pad}p += 1")
        elif kind in ("string", "bytes"):
            self._length(pad)
            self.add(f"{pad}p += n")
        elif kind in _FIXED:
            self.add(f"{pad}p += {_FIXED[kind]}")
        elif kind == "record":
            self.add(f"{pad}pass")
            for field in avro["fields"]:
                self.skip(depth, field["type"])
        else:
            self._skip_blocks(depth, avro)

    def _skip_blocks(self, depth: int, avro: Any) -> None:
        """An array or map: blocks of items until a count of 0."""
        pad, counter = " " * depth, f"i{depth}"
        self.add(f"{pad}{counter}, p = more(d, p)")
        self.add(f"{pad}while {counter}:")
        self.add(f"{pad} if {counter} < 0: {counter} = -{counter}; n, p = more(d, p)")
        self.add(f"{pad} for _ in range({counter}):")
        if avro["type"] == "map":
            self.skip(depth + 2, "string")
        self.skip(depth + 2, avro["items"] if avro["type"] == "array" else avro["values"])
        self.add(f"{pad} {counter}, p = more(d, p)")


_FIXED: Final = {"boolean": 1, "float": 4, "double": 8, "null": 0}
_AS_IS: Final = frozenset(
    {
        "",
        "io.debezium.data.Json",
        "io.debezium.data.Xml",
        "io.debezium.data.Uuid",
        "io.debezium.data.Enum",
        "io.debezium.data.Ltree",
        "io.debezium.data.Tsvector",
        "io.debezium.time.Interval",
    }
)
"""Connect names of strings that are PostgreSQL's text already."""
