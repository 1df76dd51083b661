"""Which tables a source captures, kept in Kafka: a table that is not among them is new, and its rows are to be copied.

One compacted topic; a table's record travels in the same Kafka transaction as the journal entry that says that its copy
is to be made. So after a kill a table is either known, with its copy on the list, or new again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from instep.settings import KafkaSettings
from instep.topics import tables_topic
from instep_connectors.kafka import read_topic
from instep_connectors.postgres.publication import Published
from instep_streams.capture.batch import Record

log = logging.getLogger(__name__)

Identity = tuple[int, int]
"""OID of the table, and of its place in the publication (0: the publication names no tables)."""


class Joined(NamedTuple):
    """A table that was not captured until now; `before`: another one of its name was, or it was once."""

    table: str
    before: bool


class Members:
    """The captured tables.

    Args:
        source: its name.
        known: identity by table; None: captured once, but not any more.
    """

    def __init__(self, source: str, known: dict[str, Identity | None]) -> None:
        self._topic = tables_topic(source)
        self._known = known
        self._records: list[Record] = []

    @classmethod
    def load(cls, kafka: KafkaSettings, source: str) -> Members:
        """Read them.

        Raises:
            ConnectionError, TimeoutError: no broker answers.
            KafkaFault: refused.
        """
        known: dict[str, Identity | None] = {}
        for record in read_topic(kafka, tables_topic(source)):
            value = json.loads(record.value or b"null")
            known[(record.key or b"").decode()] = None if value is None else (value["oid"], value["member"])
        return cls(source, known)

    @property
    def unknown(self) -> bool:
        """Whether nothing was ever written: a source from before there was this topic."""
        return not self._known

    def knows(self, table: str, oid: int) -> bool:
        """Whether a table is captured."""
        identity = self._known.get(table)
        return identity is not None and identity[0] == oid

    def seed(self, published: Iterable[Published], places: dict[int, int]) -> None:
        """Take these tables as captured."""
        for table in published:
            self._write(table.table, (table.oid, places.get(table.oid, 0)))

    def look(self, published: Sequence[Published], places: dict[int, int]) -> tuple[list[Joined], list[str]]:
        """Compare with the publication as it is now; gives the tables that joined, and those that left."""
        joined = []
        for table in published:
            identity = (table.oid, places.get(table.oid, 0))
            if self._known.get(table.table) != identity:
                joined.append(Joined(table.table, table.table in self._known))
                self._write(table.table, identity)
        present = {table.table for table in published}
        left = [name for name, identity in self._known.items() if identity is not None and name not in present]
        for name in left:
            self._write(name, None)
        return joined, left

    def records(self) -> list[Record]:
        """What has changed since the last call, to be written."""
        records, self._records = self._records, []
        return records

    def _write(self, table: str, identity: Identity | None) -> None:
        self._known[table] = identity
        value = None if identity is None else {"oid": identity[0], "member": identity[1]}
        self._records.append(Record(self._topic, table.encode(), json.dumps(value).encode(), [], 0))
