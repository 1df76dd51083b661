from collections.abc import Callable, Mapping

from instep.change import Op, Row
from instep_schemas.changeprogram import Program

class ChangeReader:
    """The changes of one envelope schema, from a framed record to what a replica needs of it.

    Args:
        frame: bytes in front of the Avro body.
        program: how the body is read.
        ops: by their letters.
        python: reads what is not ordinary.
    """

    def __init__(
        self, frame: int, program: Program, ops: Mapping[str, Op], python: Callable[[bytes], tuple[Op, Row | None]]
    ) -> None: ...
    def read(self, data: bytes) -> tuple[Op, Row | None]:
        """The operation and the new row; raises as `python`."""
