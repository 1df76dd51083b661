from collections.abc import Sequence

from instep_schemas.envelope import SourceBlock
from instep_schemas.program import Column

def long(number: int) -> bytes:
    """`varint.long`, of a number that fits 64 bits.

    Raises:
        OverflowError: it does not.
    """

class Transcoder:
    """The changes of one table and kind, from the store's bytes to key and value.

    Args:
        head: bytes of a message in front of its row; None: a row is a tuple.
        width: columns of the row.
        key: the program of the framed key; None for a keyless table.
        row: the program of all that stands in front of the source block.
        table: `envelope.table_block`.
        letter: what stands between source block and time stamp.
    """

    def __init__(
        self,
        head: int | None,
        width: int,
        key: Sequence[bytes | Column] | None,
        row: Sequence[bytes | Column],
        table: bytes,
        letter: bytes,
    ) -> None: ...
    def write(
        self, data: bytes | tuple[bytes | None, ...], lsn: int, source: SourceBlock, stamp: bytes
    ) -> tuple[bytes | None, bytes]:
        """A `straight.Straight`.

        Raises:
            Exception: what the message holds is not ordinary; of whatever kind.
        """
