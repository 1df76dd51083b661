"""One encoder per version of a table: a change's row tuples to its Kafka records.

Rows come as pgoutput or COPY gave them: `bytes`, None, or ABSENT for an unchanged TOAST column.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cached_property
from typing import Final, Literal, NamedTuple

from instep.change import ABSENT, Op
from instep.relation import Relation
from instep_schemas import built
from instep_schemas.derive import TableSchemas, derive
from instep_schemas.envelope import SourceBlock, table_block
from instep_schemas.exact import Texts, exact_header
from instep_schemas.keyjson import key_json
from instep_schemas.rowcode import Cells, Tuple, generate
from instep_schemas.straight import Reading, Straight, generate_straight
from instep_schemas.transcoding import compiled_straight
from instep_schemas.varint import counted
from instep_schemas.wire import Unencodable, WireOptions

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
        exact: header with the values that the envelope has stand-ins for; None where it tells all.
    """

    key: bytes | None
    value: bytes | None
    moved: tuple[str, bytes] | None = None
    exact: tuple[str, bytes] | None = None


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
        self._key_cells = [Cells(field, options) for field in self.schemas.key_fields]
        self._after_cells = cells
        self._key_is_old = all(field.identity for field in self.schemas.key_fields)
        self._exact: Texts | None = None
        self._whole_before = all(field.identity for field in self.schemas.fields)

    @cached_property
    def _key(self) -> Callable[[Tuple], bytes]:
        return generate(self._key_cells, len(self.relation.columns), self._key_prefix, key=True)

    @cached_property
    def _after(self) -> Callable[[Tuple], bytes]:
        return generate(self._after_cells, len(self.relation.columns), _SOME)

    @cached_property
    def _before(self) -> Callable[[Tuple], bytes]:
        return generate(self._after_cells, len(self.relation.columns), _SOME, before=True)

    def goes_straight(self, op: Op) -> bool:
        """Whether the store tells all that such a change needs."""
        return op is not Op.DELETE or self._key_is_old

    def straight(self, op: Op, reading: Reading) -> Straight:
        """The function that writes ordinary changes, where such an operation `goes_straight`.

        Args:
            op: CREATE, UPDATE (of a row whose old one is not sent) or DELETE.
            reading: of the message's one row.
        """
        ends = (self._key_prefix, self._value_prefix), (self._table, _NULL + _LETTER[op])
        make = generate_straight if built.module() is None else compiled_straight
        return make(self._key_cells, self._after_cells, reading, len(self.relation.columns), ends, old=op is Op.DELETE)

    def tombstone(self, key: bytes | None) -> bool:
        """Whether a record with this key and no value follows a delete."""
        # A keyless table's tombstone (null, null) says nothing; Debezium writes it all the same.
        return self.options.tombstones and (key is not None or self.options.profile != "native")

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

    def alike(self, before: Tuple, after: Tuple) -> bool:
        """Whether both rows, the first one whole, are written alike; not if one of them cannot be written.

        1.0 and 1.00 are one number, and a mask hides what has changed.
        """
        whole = [old if new is ABSENT else new for old, new in zip(before, after, strict=True)]
        try:
            return self._row(self._after, before, "after") == self._row(self._after, whole, "after")
        except Unencodable:
            return False

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

        Values that `Record.exact` tells have stand-ins here.

        Raises:
            Unencodable: a value that the column's Avro type cannot carry.
        """
        self._exact = None
        return b"".join(
            (
                self._value_prefix,
                _NULL if before is None else self._row(self._before, before, "before"),
                _NULL if after is None else self._row(self._after, after, "after"),
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
            deleted = self._record(key, self.envelope(op, before, None, source, lsn, stamp, block()))
            return [deleted, *self._tombstone(key)]
        key = None if after is None else self.key(after)
        value = self.envelope(op, before, after, source, lsn, stamp, block())
        return [Record(key, value) if self._exact is None else self._record(key, value)]

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
            value = self.envelope(Op.UPDATE, before, after, source, lsn, stamp, block())
            return [Record(key, value) if self._exact is None else self._record(key, value)]
        halves: list[Record] = []
        if Op.DELETE not in self.options.skipped:
            gone = (NEW_KEY, self._json(key))
            deleted = self.envelope(Op.DELETE, before, None, source, lsn, stamp, block())
            halves.append(self._record(old_key, deleted, gone))
            halves += self._tombstone(old_key, gone)
        if Op.CREATE not in self.options.skipped:
            came = (OLD_KEY, self._json(old_key))
            created = self.envelope(Op.CREATE, None, after, source, lsn, stamp, block())
            halves.append(self._record(key, created, came))
        return halves

    def _record(self, key: bytes | None, value: bytes, moved: tuple[str, bytes] | None = None) -> Record:
        """The record of the envelope made last."""
        return Record(key, value, moved, None if self._exact is None else exact_header(self._exact))

    def _old_key(self, before: Tuple) -> bytes | None:
        if not self._key_is_old:
            missing = next(field for field in self.schemas.key_fields if not field.identity)
            raise Unencodable(
                missing.column.name,
                "the store does not tell the deleted row's key, because the table's REPLICA IDENTITY leaves it out",
            )
        return self.key(before)

    def _tombstone(self, key: bytes | None, moved: tuple[str, bytes] | None = None) -> list[Record]:
        return [Record(key, None, moved)] if self.tombstone(key) else []

    def _json(self, key: bytes) -> bytes:
        if self.schemas.key is None:
            raise AssertionError("a key without a schema")
        return key_json(self.schemas.key, key[len(self._key_prefix) :])

    def _row(self, generated: Callable[[Tuple], bytes], row: Tuple, image: Literal["before", "after"]) -> bytes:
        try:
            return generated(row)
        except (TypeError, ValueError, LookupError, AttributeError):
            if len(row) != len(self.relation.columns):
                raise
            texts: dict[str, str] = {}
            cell = Cells.before if image == "before" else Cells.after
            written = b"".join(cell(each, row, texts) for each in self._after_cells)
            if texts:
                self._exact = {**(self._exact or {}), image: texts}
            return _SOME + written


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
