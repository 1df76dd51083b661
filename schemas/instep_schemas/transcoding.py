"""The compiled transcoder in the place of the functions that `straight.py` generates; the bytes are the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from instep_schemas.program import program
from instep_schemas.rowcode import Cells
from instep_schemas.straight import Reading, Straight

if TYPE_CHECKING:
    from instep_schemas._transcode import Transcoder

PURE: Final = "INSTEP_PURE"
"""Environment variable: anything but nothing and `0` asks for Python alone."""

_NULL: Final = b"\x00"
_SOME: Final = b"\x02"


def transcoder() -> type[Transcoder] | None:
    """The compiled transcoder; None where it was not built, or is not wanted."""
    if _pure():
        return None
    try:
        from instep_schemas._transcode import Transcoder
    except ImportError:
        return None
    return Transcoder


def told() -> str:
    """Which of the two is in use, for people."""
    if _pure():
        return f"pure Python, as {PURE} asks"
    return "pure Python, as no other was built" if transcoder() is None else "compiled"


def _pure() -> bool:
    return os.environ.get(PURE, "0") not in ("", "0")


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
        LookupError: there is no `transcoder`.
    """
    made = transcoder()
    if made is None:
        raise LookupError("no compiled transcoder")
    (key_prefix, value_prefix), (table, letter) = ends
    key = program(key_prefix, key_cells, key=True) if key_cells else None
    image = (_SOME, _NULL) if old else (_NULL + _SOME, b"")
    row = program(value_prefix + image[0], cells, image[1], before=old)
    return made(reading.head, width, key, row, table, letter).write
