"""One generated encoder per table: a row's texts to Avro bytes, straight-line, without dictionaries in between.

The generated functions take the row's tuple as pgoutput or COPY gave it (`bytes`, None, or ABSENT for an unchanged
TOAST column). A row that they cannot write goes column by column through `_slowly`, which puts the placeholder in the
place of ABSENT and names the column of any other fault.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from instep.change import ABSENT, Absent, Op
from instep.relation import Relation
from instep_schemas import standins
from instep_schemas.derive import Field, TableSchemas, derive
from instep_schemas.envelope import SourceBlock, table_block
from instep_schemas.keyjson import key_json
from instep_schemas.values import BOOLEANS, MEMOISED, Codec, Memo, codec_of
from instep_schemas.varint import LENGTH, SOME_LENGTH, counted, long
from instep_schemas.wire import Unencodable, WireOptions

Cell = bytes | None | Absent
Tuple = Sequence[Cell]
"""A row in the relation's column order."""

NEW_KEY: Final = "__debezium.newkey"
OLD_KEY: Final = "__debezium.oldkey"

_NULL: Final = b"\x00"
_SOME: Final = b"\x02"
_LETTER: Final = {op: counted(op.value.encode()) for op in Op}
_PREFIX = struct.Struct(">BI").pack


class Record(NamedTuple):
    """One Kafka record of a change.

    Attributes:
        key: framed key, None for keyless tables and truncates.
        value: framed envelope, None for a tombstone.
        moved: on the records of a key change: (`__debezium.newkey` or `…oldkey`, the other key as JSON text).
    """

    key: bytes | None
    value: bytes | None
    moved: tuple[str, bytes] | None = None


class TableEncoder:
    """Writes one version of one table. Build it with `compile_encoder`; it is used by one thread at a time."""

    def __init__(self, relation: Relation, options: WireOptions, key_id: int | None, value_id: int | None) -> None:
        self.relation = relation
        self.options = options
        self.schemas: TableSchemas = derive(relation, options)
        self._key_prefix = b"" if key_id is None else _PREFIX(0, key_id)
        self._value_prefix = b"" if value_id is None else _PREFIX(0, value_id)
        self._table = table_block(relation.schema, relation.name)
        self._no_transaction: Callable[[], bytes] = lambda: _NULL
        cells = [Cells(field, options) for field in self.schemas.fields]
        by_name = {cell.field.column.name: cell for cell in cells}
        self._key_cells = [by_name[field.column.name] for field in self.schemas.key_fields]
        self._after_cells = cells
        self._key = _generate(self._key_cells, len(relation.columns), self._key_prefix, key=True)
        self._after = _generate(cells, len(relation.columns), _SOME)
        self._before = _generate(cells, len(relation.columns), _SOME, before=True)
        self._key_is_old = all(field.identity for field in self.schemas.key_fields)
        self._whole_before = all(field.identity for field in self.schemas.fields)

    def key(self, row: Tuple) -> bytes | None:
        """The framed Kafka key of a row; None for a keyless table.

        Raises:
            Unencodable: a key column is absent or cannot be written.
        """
        if not self._key_cells:
            return None
        try:
            return self._key(row)
        except (TypeError, ValueError, LookupError, AttributeError):
            return self._key_prefix + b"".join(cell.key(row) for cell in self._key_cells)

    def envelope(
        self,
        op: Op,
        before: Tuple | None,
        after: Tuple | None,
        source: SourceBlock,
        lsn: int | None,
        stamp: bytes,
        transaction: bytes = _NULL,
    ) -> bytes:
        """The framed envelope of one change.

        Args:
            op: what happened.
            before: the old row as far as the replica identity gives it.
            after: the new row.
            source: the transaction's block.
            lsn: of the change.
            stamp: from `envelope.time_stamp`.
            transaction: from `envelope.transaction_block`.

        Raises:
            Unencodable: a value that the column's Avro type cannot carry.
        """
        return b"".join(
            (
                self._value_prefix,
                _NULL if before is None else self._row(self._before, before, Cells.before),
                _NULL if after is None else self._row(self._after, after, Cells.after),
                source.at(lsn, self._table),
                transaction,
                _LETTER[op],
                stamp,
            )
        )

    def records(
        self,
        op: Op,
        before: Tuple | None,
        after: Tuple | None,
        source: SourceBlock,
        lsn: int | None,
        stamp: bytes,
        transaction: Callable[[], bytes] | None = None,
    ) -> list[Record]:
        """Every Kafka record of one change, in order: usually one; a delete's tombstone; a key change's three.

        `transaction` is asked once per data record (Debezium counts the two halves of a key change as two).

        Raises:
            Unencodable: a value that an Avro type cannot carry, or a key that the store does not tell.
        """
        block = transaction or self._no_transaction
        if op is Op.UPDATE and before is not None:
            return self._update(before, after, source, lsn, stamp, block)
        if op is Op.DELETE and before is not None:
            key = self._old_key(before)
            deleted = Record(key, self.envelope(op, before, None, source, lsn, stamp, block()))
            return [deleted, *self._tombstone(key)]
        key = None if after is None else self.key(after)
        return [Record(key, self.envelope(op, before, after, source, lsn, stamp, block()))]

    def _update(
        self,
        before: Tuple,
        after: Tuple | None,
        source: SourceBlock,
        lsn: int | None,
        stamp: bytes,
        block: Callable[[], bytes],
    ) -> list[Record]:
        if after is None:
            raise ValueError("an update without its new row")
        if self._whole_before:
            after = [old if new is ABSENT else new for old, new in zip(before, after, strict=True)]
        key = self.key(after)
        old_key = self.key(before) if self._key_is_old else key
        if key is None or old_key is None or key == old_key:
            return [Record(key, self.envelope(Op.UPDATE, before, after, source, lsn, stamp, block()))]
        gone = (NEW_KEY, self._json(key))
        came = (OLD_KEY, self._json(old_key))
        return [
            Record(old_key, self.envelope(Op.DELETE, before, None, source, lsn, stamp, block()), gone),
            *self._tombstone(old_key, gone),
            Record(key, self.envelope(Op.CREATE, None, after, source, lsn, stamp, block()), came),
        ]

    def _old_key(self, before: Tuple) -> bytes | None:
        if not self._key_is_old:
            missing = next(field for field in self.schemas.key_fields if not field.identity)
            raise Unencodable(
                missing.column.name,
                "the store does not tell the deleted row's key, because the table's REPLICA IDENTITY leaves it out",
            )
        return self.key(before)

    def _tombstone(self, key: bytes | None, moved: tuple[str, bytes] | None = None) -> list[Record]:
        # A keyless table's tombstone (null, null) says nothing; Debezium writes it all the same.
        if not self.options.tombstones or (key is None and self.options.profile == "native"):
            return []
        return [Record(key, None, moved)]

    def _json(self, key: bytes) -> bytes:
        if self.schemas.key is None:
            raise AssertionError("a key without a schema")
        return key_json(self.schemas.key, key[len(self._key_prefix) :])

    def _row(self, generated: Callable[[Tuple], bytes], row: Tuple, cell: Callable[[Cells, Tuple], bytes]) -> bytes:
        try:
            return generated(row)
        except (TypeError, ValueError, LookupError, AttributeError):
            if len(row) != len(self.relation.columns):
                raise
            return _SOME + b"".join(cell(each, row) for each in self._after_cells)


class Cells:
    """One column's ways of being written, and the constants the generated code is made of."""

    __slots__ = ("_none", "_some", "codec", "constant", "field", "filler", "options", "placeholder")

    def __init__(self, field: Field, options: WireOptions) -> None:
        self.field = field
        self.options = options
        self.codec: Codec = codec_of(field.mapped)
        if field.truncated is not None:
            limit = field.truncated
            self.codec = lambda text: counted(text.decode()[:limit].encode())
        defaulted = field.optional and field.default is not None
        self._some, self._none = (_NULL, _SOME) if defaulted else (_SOME, _NULL)
        self.placeholder = standins.placeholder(field.mapped.avro, options.unavailable)
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

    def _make_filler(self) -> bytes:
        """What `before` holds of a column that the replica identity leaves out."""
        field = self.field
        if field.optional and (field.default is None or self.options.profile == "native"):
            return self._none
        content = field.default if field.default is not None else standins.zero(field.mapped.avro)
        return self.some(content or b"\x00")

    def after(self, row: Tuple) -> bytes:
        """This column of a new row.

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
        except ValueError as exc:
            raise Unencodable(name, str(exc) if type(exc) is ValueError else "not the text of its type") from exc
        except LookupError as exc:
            raise Unencodable(name, "not the text of its type") from exc

    def before(self, row: Tuple) -> bytes:
        """This column of an old row."""
        return self.after(row) if self.field.identity or self.constant is not None else self.filler

    def key(self, row: Tuple) -> bytes:
        """This column as a part of the Kafka key; never null, absent or masked."""
        cell = row[self.field.index]
        if not isinstance(cell, bytes):
            raise Unencodable(self.field.column.name, "it belongs to the key and has no value")
        try:
            return codec_of(self.field.mapped)(cell)
        except (ValueError, LookupError) as exc:
            raise Unencodable(self.field.column.name, str(exc)) from exc


def _generate(
    cells: Sequence[Cells], width: int, prefix: bytes, *, before: bool = False, key: bool = False
) -> Callable[[Tuple], bytes]:
    """Compile the function that writes a row (or key) of these columns."""
    names: dict[str, Any] = {"LENGTH": LENGTH, "SOME": SOME_LENGTH, "long": long, "BOOLEANS": BOOLEANS}
    used: set[int] = set()
    parts: list[bytes | str] = [prefix]
    for cell in cells:
        if cell.constant is not None and not key:
            parts.append(cell.constant)
        elif before and not cell.field.identity:
            parts.append(cell.filler)
        else:
            used.add(cell.field.index)
            parts += _expression(cell, names, key)
    variables = ",".join(f"c{index}" if index in used else "_" for index in range(width))
    source = f"def write(row):\n ({variables}{',' if width == 1 else ''}) = row\n return join(({_items(parts)},))"
    if width == 0:
        source = f"def write(row):\n return {prefix!r}"
    names["join"] = b"".join
    exec(compile(source, "<generated encoder>", "exec"), names)
    generated: Callable[[Tuple], bytes] = names["write"]
    return generated


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
    optional = cell.field.optional and not key
    codec = cell.field.mapped.codec
    if codec == "text" and cell.field.truncated is None:
        return _text_items(cell, variable, optional)
    function = f"f{cell.field.index}"
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


def _text_items(cell: Cells, variable: str, optional: bool) -> list[bytes | str]:
    limit = len(LENGTH)
    if not optional:
        size = f"(LENGTH[n] if (n := len({variable})) < {limit} else long(n))"
        return [size, variable]
    table = "SOME" if cell.some_prefix == _SOME else "LENGTH"
    some = cell.some_prefix
    first = f"{table}[n]" if some == _SOME else f"{some!r}+LENGTH[n]"
    size = f"({first} if (n := len({variable})) < {limit} else {some!r}+long(n))"
    return [f"({cell.none!r} if {variable} is None else {size})", f"({variable} or b'')"]


def compile_encoder(
    relation: Relation, options: WireOptions, key_id: int | None = None, value_id: int | None = None
) -> TableEncoder:
    """Make the encoder of one version of a table.

    Args:
        relation: the table as the store describes it.
        options: of the source.
        key_id: registry id of the key schema; None: bodies without the 5 bytes in front.
        value_id: registry id of the envelope schema.

    Raises:
        Unsupported: its columns' names collide in Avro.
    """
    return TableEncoder(relation, options, key_id, value_id)
