from collections.abc import Sequence

from instep_schemas.documentprogram import Column

class DocumentWriter:
    """The documents of one schema, from PostgreSQL's JSON to Avro.

    Args:
        fields: the columns, in their order in the JSON and in the schema.
        end: what stands behind the columns.
    """

    def __init__(self, fields: Sequence[Column], end: bytes) -> None: ...
    def write(self, document: str) -> bytes:
        """The Avro body.

        Raises:
            Exception: the JSON is not ordinary; of whatever kind.
        """
