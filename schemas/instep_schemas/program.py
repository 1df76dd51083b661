"""What `straight.py` writes as source text, as data: the program of a compiled `Transcoder`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from instep_schemas.rowcode import Cells, written
from instep_schemas.values import Codec, codec_of


class Column(NamedTuple):
    """How one column is written.

    Attributes:
        kind: the name of its codec, where no setting changes what that gives; empty otherwise.
        scale: of that codec.
        at: where its value stands in the row.
        some: the union's branch of a value; empty for a NOT NULL column.
        none: null; None for a NOT NULL column.
        guard: the bytes of a value for which there is no room, as they stand for an unchanged one.
        codec: writes what is not ordinary of that kind, and all of other kinds.
    """

    kind: str
    scale: int
    at: int
    some: bytes
    none: bytes | None
    guard: bytes | None
    codec: Codec


Program = Sequence[bytes | Column]
"""Constants and columns, in the order in which they are written."""


def program(
    prefix: bytes, cells: Sequence[Cells], suffix: bytes = b"", *, before: bool = False, key: bool = False
) -> Program:
    """The program of a row (or key), see `rowcode.row_parts`; neighbouring constants are one.

    Args:
        prefix: stands in front.
        cells: the columns.
        suffix: stands behind.
        before: it is an old row.
        key: it is a key.
    """
    items: list[bytes | Column] = []
    constant = prefix
    for each in written(cells, before=before, key=key):
        if isinstance(each, bytes):
            constant += each
            continue
        items += [constant, _column(each, key=key)] if constant else [_column(each, key=key)]
        constant = b""
    constant += suffix
    return [*items, constant] if constant else items


def _column(cell: Cells, *, key: bool) -> Column:
    mapped = cell.field.mapped
    kind = mapped.codec if key or not cell.changed else ""
    codec, guard = (codec_of(mapped), None) if key else (cell.codec, cell.guard)
    return Column(kind, mapped.scale, cell.field.index, cell.some_prefix, cell.none, guard, codec)
