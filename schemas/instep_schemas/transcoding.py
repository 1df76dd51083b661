"""The compiled transcoder in the place of the functions that `straight.py` generates; the bytes are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from instep_schemas import built
from instep_schemas.program import program
from instep_schemas.rowcode import Cells
from instep_schemas.straight import Reading, Straight

_NULL: Final = b"\x00"
_SOME: Final = b"\x02"


def compiled_straight(
    key_cells: Sequence[Cells],
    cells: Sequence[Cells],
    reading: Reading,
    width: int,
    ends: tuple[tuple[bytes, bytes], tuple[bytes, bytes]],
    *,
    old: bool,
) -> Straight:
    """What `straight.generate_straight` makes of the same arguments.

    Raises:
        LookupError: the compiled module is not there, or not wanted.
    """
    compiled = built.module()
    if compiled is None:
        raise LookupError("no compiled module")
    (key_prefix, value_prefix), (table, letter) = ends
    key = program(key_prefix, key_cells, key=True) if key_cells else None
    image = (_SOME, _NULL) if old else (_NULL + _SOME, b"")
    row = program(value_prefix + image[0], cells, image[1], before=old)
    made: Straight = compiled.Transcoder(reading.head, width, key, row, table, letter).write
    return made
