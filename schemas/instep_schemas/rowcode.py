"""One generated function per table: a row's texts to Avro bytes, straight-line, without dictionaries in between.

A column's constants (union branches, fillers, masks) are joined at generation. What the generated function cannot
write raises; `Cells` then writes the row column by column and names the column at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from instep.change import Absent
from instep_schemas import standins
from instep_schemas.ciphers import sealing
from instep_schemas.derive import Field
from instep_schemas.generated import compiled
from instep_schemas.masking import hashing, truncating
from instep_schemas.values import BOOLEANS, MEMOISED, Codec, Memo, codec_of
from instep_schemas.varint import LENGTH, SOME_LENGTH, counted
from instep_schemas.wire import NoRoom, Refused, RefusedLabel, Unencodable, UnknownLabel, WireOptions

Cell = bytes | None | Absent
Tuple = Sequence[Cell]
"""A row in the relation's column order."""

_NULL: Final = b"\x00"
_SOME: Final = b"\x02"

NAMES: Final[Mapping[str, Any]] = {
    "LENGTH": LENGTH,
    "SOME": SOME_LENGTH,
    "BOOLEANS": BOOLEANS,
    "join": b"".join,
}
"""What all generated functions may need."""


class Cells:
    """One column's ways of being written, and the constants the generated code is made of."""

    __slots__ = (
        "_none",
        "_some",
        "codec",
        "constant",
        "field",
        "filler",
        "guard",
        "options",
        "placeholder",
        "stand_in",
    )

    def __init__(self, field: Field, options: WireOptions) -> None:
        self.field = field
        self.options = options
        self.codec: Codec = codec_of(field.mapped)
        if field.truncated is not None:
            self.codec = truncating(self.codec, field.truncated, java=options.profile == "debezium")
        if field.hashed is not None:
            self.codec = hashing(field.hashed, field.column)
        if field.cipher is not None:
            self.codec = sealing(field.cipher, field.column.name)
        self.placeholder = standins.unchanged(field.mapped, options.unavailable)
        never = field.mapped.codec == "label" and options.unavailable not in field.mapped.labels  # no value is it
        self.guard = self.placeholder if options.profile == "native" and not never else None
        if self.guard is not None:
            self.codec = _guarded(self.codec, self.guard)
        self.stand_in = self._make_stand_in()
        defaulted = field.optional and field.default is not None
        self._some, self._none = (_NULL, _SOME) if defaulted else (_SOME, _NULL)
        self.constant = None if field.masked is None else self.some(counted(b"*" * field.masked))
        self.filler = self._make_filler()

    def some(self, encoded: bytes) -> bytes:
        """A value with its union's branch."""
        return self._some + encoded if self.field.optional else encoded

    @property
    def some_prefix(self) -> bytes:
        """The branch of a value."""
        return self._some if self.field.optional else b""

    @property
    def none(self) -> bytes | None:
        """Null; None for a NOT NULL column."""
        return self._none if self.field.optional else None

    @property
    def changed(self) -> bool:
        """Whether the codec is not that of the column's type alone: it cuts, hashes or encrypts."""
        field = self.field
        return (field.truncated, field.hashed, field.cipher) != (None, None, None)

    def _make_filler(self) -> bytes:
        """What `before` holds of a column that the replica identity leaves out."""
        field = self.field
        if field.optional and (field.default is None or self.options.profile == "native"):
            return self._none
        content = field.default if field.default is not None else standins.zero(field.mapped)
        if field.hashed is not None:
            content = self.codec(b"")
        return self.some(content)

    def _make_stand_in(self) -> bytes | None:
        """What the row holds of a value that a header tells; None where none may: what is hidden is not told there."""
        field = self.field
        if self.options.profile != "native" or field.hashed is not None or field.cipher is not None:
            return None
        if field.mapped.codec in ("timestamp_us", "timestamp_ms"):
            return self.codec(b"infinity")  # what it cannot count is the far future
        return self.placeholder

    def after(self, row: Tuple, exact: dict[str, str] | None = None) -> bytes:
        """This column of a new row; a value with a stand-in is added to `exact`.

        Raises:
            Unencodable: always for a fault, naming the column.
        """
        if self.constant is not None:
            return self.constant
        cell = row[self.field.index]
        name = self.field.column.name
        if cell is None:
            if self.none is None:
                raise Unencodable(name, "it is null, although the column is declared NOT NULL")
            return self.none
        if isinstance(cell, Absent):
            if self.placeholder is None:
                raise Unencodable(name, "its unchanged value was not sent, and its Avro type has no way to say so")
            return self.some(self.placeholder)
        try:
            return self.some(self.codec(cell))
        except (ValueError, LookupError) as exc:
            if not isinstance(exc, NoRoom) or exact is None or self.stand_in is None:
                raise _unencodable(name, exc) from exc
            exact[name] = cell.decode()[: self.field.truncated]
            return self.some(self.stand_in)

    def before(self, row: Tuple, exact: dict[str, str] | None = None) -> bytes:
        """This column of an old row, as `after`."""
        return self.after(row, exact) if self.field.identity or self.constant is not None else self.filler

    def key(self, row: Tuple) -> bytes:
        """This column as a part of the Kafka key; never absent or masked, null only where a setting chose the key."""
        cell = row[self.field.index]
        if cell is None and self.none is not None:
            return self.none
        if not isinstance(cell, bytes):
            raise Unencodable(self.field.column.name, "it belongs to the key and has no value")
        try:
            return self.some(codec_of(self.field.mapped)(cell))
        except (ValueError, LookupError) as exc:
            raise _unencodable(self.field.column.name, exc) from exc


def _unencodable(column: str, exc: Exception) -> Unencodable:
    """Only our own words: Python's own messages quote the value."""
    if isinstance(exc, RefusedLabel):
        return UnknownLabel(column, str(exc))
    return Unencodable(column, str(exc) if isinstance(exc, Refused) else "it is not the text of its type")


def _guarded(codec: Codec, placeholder: bytes) -> Codec:
    """A real value that looks like the placeholder would be read back as absent: there is no room for it."""

    def encode(text: bytes) -> bytes:
        encoded = codec(text)
        if encoded == placeholder:
            raise NoRoom("this value stands for an unchanged one on the wire")
        return encoded

    return encode


def generate(
    cells: Sequence[Cells], width: int, prefix: bytes, *, before: bool = False, key: bool = False
) -> Callable[[Tuple], bytes]:
    """Compile the function that writes a row (or key) of these columns."""
    names = dict(NAMES)
    used: set[int] = set()
    parts = [prefix, *row_parts(cells, names, used, before=before, key=key)]
    if width == 0:
        return compiled("row", [f"return {prefix!r}"], names)
    variables = ",".join(f"c{index}" if index in used else "_" for index in range(width))
    lines = [f"({variables}{',' if width == 1 else ''}) = row", f"return {joined(parts)}"]
    return compiled("row", lines, names)


def row_parts(
    cells: Sequence[Cells], names: dict[str, Any], used: set[int], *, before: bool = False, key: bool = False
) -> list[bytes | str]:
    """The items that write a row (or key): constants, and source text over the columns, which are `c0`, `c1` and so on.

    Args:
        cells: the columns.
        names: gets what the source text needs besides `NAMES`.
        used: gets the numbers of the columns it reads.
        before: it is an old row.
        key: it is a key.
    """
    parts: list[bytes | str] = []
    for each in written(cells, before=before, key=key):
        if isinstance(each, bytes):
            parts.append(each)
        else:
            used.add(each.field.index)
            parts += _expression(each, names, key)
    return parts


def written(cells: Sequence[Cells], *, before: bool = False, key: bool = False) -> list[bytes | Cells]:
    """What a row (or key) is made of, column by column: a constant, or what writes the value."""
    items: list[bytes | Cells] = []
    for cell in cells:
        if cell.constant is not None and not key:
            items.append(cell.constant)
        elif before and not cell.field.identity:
            items.append(cell.filler)
        else:
            items.append(cell)
    return items


def joined(parts: Sequence[bytes | str]) -> str:
    """Source text that joins the items."""
    return f"join(({_items(parts)},))"


def _items(parts: Sequence[bytes | str]) -> str:
    """Join neighbouring constants, so that they cost one item."""
    items: list[str] = []
    constant = b""
    for part in parts:
        if isinstance(part, bytes):
            constant += part
            continue
        if constant:
            items.append(repr(constant))
            constant = b""
        items.append(part)
    if constant or not items:
        items.append(repr(constant))
    return ",".join(items)


def _expression(cell: Cells, names: dict[str, Any], key: bool) -> list[bytes | str]:
    """The tuple items that write one column: source text, and constants as bytes."""
    variable = f"c{cell.field.index}"
    optional = cell.field.optional
    codec = cell.field.mapped.codec
    function = f"{'k' if key else 'f'}{cell.field.index}"
    if codec == "text" and not cell.changed:
        some = cell.some_prefix if optional else b""
        names[function] = _sized(cell, some)
        return _text_items(cell, variable, function, optional)
    encode = codec_of(cell.field.mapped) if key else cell.codec
    if codec in MEMOISED:
        names[function] = Memo(encode)
        call = f"{function}[{variable}]"
    elif codec == "bool":
        call = f"BOOLEANS[{variable}]"
    else:
        names[function] = encode
        call = f"{function}({variable})"
    if not optional:
        return [call]
    return [f"({cell.none!r} if {variable} is None else {cell.some_prefix!r}+{call})"]


def _sized(cell: Cells, some: bytes) -> Callable[[bytes], bytes]:
    """The branch and length of a text that is long, or as long as the placeholder."""
    codec = cell.codec

    def size(text: bytes) -> bytes:
        return some + codec(text)[: -len(text) or None]

    return size


def _text_items(cell: Cells, variable: str, function: str, optional: bool) -> list[bytes | str]:
    limit = f"< {len(LENGTH)}"
    if cell.options.profile == "native":
        limit += f" and n != {len(cell.options.unavailable.encode())}"
    some = cell.some_prefix if optional else b""
    short = {b"": "LENGTH[n]", _SOME: "SOME[n]"}.get(some, f"{some!r}+LENGTH[n]")
    size = f"({short} if (n := len({variable})) {limit} else {function}({variable}))"
    if not optional:
        return [size, variable]
    return [f"({cell.none!r} if {variable} is None else {size})", f"({variable} or b'')"]
