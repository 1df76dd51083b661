"""Generated decoders: an envelope's Avro body to PostgreSQL texts, only the columns that are asked for.

Works on what Instep writes and on what Debezium writes: the column's Avro and Connect types say how to read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

from instep.change import Op, Row
from instep_schemas import built
from instep_schemas.changeprogram import program
from instep_schemas.decodercode import SOURCE, Code
from instep_schemas.keyjson import key_body
from instep_schemas.wire import UNAVAILABLE

FRAME: Final = 5
"""Bytes in front of an Avro body in the registry's wire format."""


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
ChangeDecoder = Callable[[bytes], tuple[Op, Row | None]]
KeyTexts = Callable[[bytes], tuple[str | None, ...]]

_OPS: Final = {op.value: op for op in Op}
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
    code = _Decoder(unavailable)
    code.envelope(value_schema_text, lambda name, union: code.image(name, union, columns))
    code.add(f" {_RESULT}")
    decoder: Decoder = code.compile("decode")
    return decoder


def compile_change_decoder(value_schema_text: str, unavailable: str = UNAVAILABLE) -> ChangeDecoder:
    """Make the decoder of what a replica needs of a framed record: the operation and the new row; raises as above."""
    code = _Decoder(unavailable, FRAME)

    def image(name: str, union: Any) -> None:
        if name == "after":
            code.image(name, union, None)
        else:
            code.skip(1, union)

    code.envelope(value_schema_text, image)
    code.add(" return OPS[op], after")
    decoder: ChangeDecoder = code.compile("decode")
    module = built.module("_changes")
    compiled = None if module is None else program(expand(json.loads(value_schema_text)), unavailable)
    return decoder if module is None or compiled is None else module.ChangeReader(FRAME, compiled, _OPS, decoder).read


def decode_key(key_schema_text: str) -> KeyDecoder:
    """Make the decoder of one key schema: body to column name → PostgreSQL text."""
    schema = expand(json.loads(key_schema_text))
    code = _Decoder(None)
    code.row(1, "row", schema["fields"], None, frozenset())
    code.add(" return row")
    decoder: KeyDecoder = code.compile("decode")
    return decoder


def compile_key_texts(key_schema_text: str) -> KeyTexts:
    """Make the decoder of a framed key: its columns' texts, in the schema's order."""
    schema = expand(json.loads(key_schema_text))
    code = _Decoder(None, FRAME)
    told = code.texts(1, schema["fields"])
    code.add(f" return ({''.join(f'{text}, ' for _, text in told)})")
    decoder: KeyTexts = code.compile("decode")
    return decoder


def decode_key_header(key_schema_text: str) -> KeyDecoder:
    """Make the decoder of a key change's header (`__debezium.oldkey`, `…newkey`): JSON to column name → text."""
    schema = expand(json.loads(key_schema_text))
    body = decode_key(key_schema_text)
    return lambda text: body(key_body(schema, text))


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


class _Decoder(Code):
    """The source text of a whole decoder.

    Args:
        unavailable: as `Code`.
        start: where the Avro body begins in what the decoder is given.
    """

    def __init__(self, unavailable: str | None, start: int = 0) -> None:
        super().__init__(unavailable)
        self.names |= {"Envelope": Envelope, "OPS": _OPS}
        self.add("def decode(d):")
        self.add(f" p = {start}")

    def envelope(self, schema_text: str, image: Callable[[str, Any], None]) -> None:
        """The fields of an envelope up to the last one that is needed; `image` reads the old and the new row.

        Raises:
            ValueError: not an envelope, or a type has no PostgreSQL text.
        """
        fields = {field["name"]: field for field in expand(json.loads(schema_text)).get("fields", ())}
        missing = {"before", "after", "source", "op"}
        if not missing <= fields.keys():
            raise ValueError("not an envelope: before, after, source or op is missing")
        for name, start in SOURCE.items():
            self.add(f" {name} = {start}")
        for name, field in fields.items():
            if name in ("before", "after"):
                image(name, field["type"])
            elif name == "source":
                self.source(field["type"])
            elif name == "op":
                self.string(1, "op")
            else:
                self.skip(1, field["type"])
            missing.discard(name)
            if not missing:
                break
