"""One generated function per table and operation: a change as the store sends it to its record's key and value.

`TableEncoder.records` does the same in steps, and for every change. These functions are for the ordinary ones, nearly
all. What they cannot write raises, before anything has been done: `records` then decides. Where the compiled transcoder
is there it takes their place (`transcoding.py`); they are what it is held to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from instep_schemas.envelope import SourceBlock
from instep_schemas.generated import compiled
from instep_schemas.rowcode import NAMES, Cells, joined, row_parts
from instep_schemas.values import codec_of

Straight = Callable[[bytes, int, SourceBlock, bytes], tuple[bytes | None, bytes]]
"""From (message, its LSN, its transaction's block, `envelope.time_stamp`) to (framed key, framed envelope)."""

_NULL = b"\x00"
_SOME = b"\x02"


class Reading(NamedTuple):
    """How a generated function reads the store's bytes.

    Attributes:
        lines: given the number of columns and which are wanted: statements that read `data` into `c0`, `c1`, …
        names: what they need.
        head: the same as data: bytes of a message in front of its one row, which ends it; None: a row is a tuple.
    """

    lines: Callable[[int, Collection[int]], Sequence[str]]
    names: Mapping[str, Any]
    head: int | None


def generate_straight(
    key_cells: Sequence[Cells],
    cells: Sequence[Cells],
    reading: Reading,
    width: int,
    ends: tuple[tuple[bytes, bytes], tuple[bytes, bytes]],
    *,
    old: bool,
) -> Straight:
    """Compile the function.

    Args:
        key_cells: columns of the key; none for a keyless table.
        cells: columns of the row.
        reading: of the message.
        width: columns of the message's row.
        ends: what stands in front of key and envelope; the table's block, and what is between source and time stamp.
        old: it is the row from before the change.
    """
    (key_prefix, value_prefix), (table, letter) = ends
    # by name, so that tables with the same columns have the same source text
    names = {**NAMES, **reading.names, "KEY": key_prefix, "VALUE": value_prefix, "TABLE": table}
    used: set[int] = set()
    key = [part for cell in key_cells for part in _key_parts(cell, cells, names, used)]
    row = row_parts(cells, names, used, before=old)
    shared = {part: f"shared{number}" for number, part in enumerate(key) if isinstance(part, str) and part in row}
    key, row = _renamed(key, shared), _renamed(row, shared)
    image: list[bytes | str] = [_SOME, *row, _NULL] if old else [_NULL, _SOME, *row]
    source: list[bytes | str] = [
        "front",
        "number",
        "source.middle",
        "TABLE",
        "source.behind",
        _SOME,
        "position",
        "source.tail",
    ]
    lines = [
        *reading.lines(width, used),
        *(f"{name} = {part}" for part, name in shared.items()),
        "front, number, position = source.spot(lsn)",
        f"value = {joined(['VALUE', *image, *source, letter, 'stamp'])}",
        f"return {joined(['KEY', *key]) if key_cells else None}, value",
    ]
    return compiled("data, lsn, source, stamp", lines, names)


def _key_parts(cell: Cells, cells: Sequence[Cells], names: dict[str, Any], used: set[int]) -> list[bytes | str]:
    """The items of a key's column: the very ones of the row's column where both are written alike."""
    plain = codec_of(cell.field.mapped)
    for twin in cells:
        if twin.field == cell.field and twin.codec is plain and twin.constant is None:
            return row_parts([twin], names, used)
    return row_parts([cell], names, used, key=True)


def _renamed(parts: Sequence[bytes | str], names: Mapping[str, str]) -> list[bytes | str]:
    """The items, those that have a name already by their names."""
    return [names.get(part, part) if isinstance(part, str) else part for part in parts]
