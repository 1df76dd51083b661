"""What `documentcode.py` writes as source text, as data for the compiled `DocumentWriter`; the bytes are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from instep_schemas import built
from instep_schemas.documentcode import DocumentField, compile_document

_KINDS: Final = {
    **dict.fromkeys(("text", "character varying", "character", "uuid"), "text"),
    **dict.fromkeys(("timestamp with time zone", "timestamp without time zone"), "moment"),
    **dict.fromkeys(("smallint", "integer"), "whole"),
    **dict.fromkeys(("bigint", "oid"), "long"),
    **dict.fromkeys(("real", "double precision"), "double"),
    "boolean": "boolean",
    "date": "date",
    "numeric": "digits",
    "time without time zone": "time",
}
"""The compiled encoder by type."""
_QUOTED: Final = frozenset({"text", "moment", "date", "time"})


class Column(NamedTuple):
    """How one column is written.

    Attributes:
        name: what stands in front of its value: the name as JSON, and a colon.
        kind: of its encoder; empty for a type that has none.
        scale: of that encoder.
        quoted: the encoder reads what stands between a string's quotes.
        optional: null is allowed.
        codec: makes bytes of JSON that is not ordinary of that kind, and of all of other kinds.
    """

    name: bytes
    kind: str
    scale: int
    quoted: bool
    optional: bool
    codec: Callable[[str], bytes]


def compiled_document(fields: Sequence[DocumentField], number: type[str], end: bytes) -> Callable[[str], bytes] | None:
    """What `documentcode.compile_document` makes of the same arguments; None without the compiled module."""
    module = built.module("_documents")
    if module is None:
        return None
    write: Callable[[str], bytes] = module.DocumentWriter([_column(each, number) for each in fields], end).write
    return write


def _column(field: DocumentField, number: type[str]) -> Column:
    name = json.dumps(field.column, ensure_ascii=False)
    kind = _KINDS.get(field.type, "") if field.scale is None else "decimal"
    alone = compile_document([field], number)
    return Column(
        f"{name}:".encode(), kind, field.scale or 0, kind in _QUOTED or field.type == "oid", field.optional,
        lambda value: alone(f"{{{name}:{value}}}"),
    )  # fmt: skip
