"""Source text that reads one kind of row message, for generated functions: column by column, without a loop.

`pgoutput.decode` reads any message; this is for the messages of one table that come again and again.
"""

from __future__ import annotations

from collections.abc import Collection
from struct import Struct
from typing import Any, Final

_HEAD: Final = Struct(">cIch")

HEAD: Final = _HEAD.size
"""Bytes in front of the values of a row message: what `row_head` gives."""

NAMES: Final[dict[str, Any]] = {"size_at": Struct(">xI").unpack_from, "SINGLE": {110: 1, 117: 1}}
"""What the source text needs."""


def row_head(kind: bytes, oid: int, part: bytes, width: int) -> bytes:
    """The first 8 bytes of the row messages that are alike.

    Args:
        kind: I, U or D.
        oid: of the table.
        part: of the row that comes first: N, K or O.
        width: columns of that row.
    """
    return _HEAD.pack(kind, oid, part, width)


def reading(width: int, used: Collection[int]) -> list[str]:
    """Statements that read the one row of the message `data` into `c0`, `c1`, …: bytes, or None.

    They raise (ValueError, IndexError, struct.error) for everything else: unchanged TOAST values, a message that is cut
    short or goes on. Columns that are not in `used` are passed over.
    """
    lines, passed = [f"at = {HEAD}"], 0
    for index in range(width):
        if index not in used:
            passed += 1
            continue
        lines += _passing(passed)
        lines += [
            "if data[at] == 116:",  # t: text
            " begin = at + 5",
            " at = begin + size_at(data, at)[0]",
            f" c{index} = data[begin:at]",
            "elif data[at] == 110:",  # n: null
            f" c{index} = None",
            " at += 1",
            "else: raise ValueError",
        ]
        passed = 0
    return [*lines, *_passing(passed), "if at != len(data): raise ValueError"]


def _passing(columns: int) -> list[str]:
    """Pass over some columns: mostly those that the store leaves out of an old row."""
    if not columns:
        return []
    step = "at += 5 + size_at(data, at)[0] if data[at] == 116 else SINGLE[data[at]]"
    return [f"if data.startswith({b'n' * columns!r}, at): at += {columns}", f"else:\n {'; '.join([step] * columns)}"]


def unpacking(width: int, used: Collection[int]) -> list[str]:
    """Statements that take the row `data`, a tuple of as many columns, apart into `c0`, `c1`, …: bytes, or None."""
    variables = "".join(f"c{index}," if index in used else "_," for index in range(width))
    return [f"({variables}) = data"]
