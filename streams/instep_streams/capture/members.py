"""Which tables a source captures, kept in Kafka: a table that is not among them is new, and its rows are to be copied.

One compacted topic; a table's record travels in the same Kafka transaction as the journal entry that says that its copy
is to be made. So after a kill a table is either known, with its copy on the list, or new again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from instep.settings import KafkaSettings
from instep.topics import tables_topic
from instep_connectors.kafka import read_topic
from instep_connectors.postgres.publication import Published
from instep_streams.capture.batch import Record

log = logging.getLogger(__name__)

_FORMER: Final = 16
"""So many former OIDs of a table are kept."""

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
        former: OIDs that a table had while it was captured.
    """

    def __init__(
        self, source: str, known: dict[str, Identity | None], former: dict[str, list[int]] | None = None
    ) -> None:
        self._topic = tables_topic(source)
        self._known = known
        self._former = former or {}
        self._records: list[Record] = []

    @classmethod
    def load(cls, kafka: KafkaSettings, source: str) -> Members:
        """Read them.

        Raises:
            ConnectionError, TimeoutError: no broker answers.
            KafkaFault: refused.
        """
        known: dict[str, Identity | None] = {}
        former: dict[str, list[int]] = {}
        for record in read_topic(kafka, tables_topic(source)):
            table, value = (record.key or b"").decode(), json.loads(record.value or b"null")
            known[table] = (value["oid"], value["member"]) if value is not None and value["oid"] else None
            former[table] = [] if value is None else value.get("former", [])
        return cls(source, known, former)

    @property
    def unknown(self) -> bool:
        """Whether nothing was ever written: a source from before there was this topic."""
        return not self._known

    def knows(self, table: str, oid: int) -> bool:
        """Whether a table is captured."""
        identity = self._known.get(table)
        return identity is not None and identity[0] == oid

    def former(self, table: str, oid: int) -> bool:
        """Whether it was captured with this OID until it left the publication, or another one took its name.

        The stream may be behind that: the store decodes what was written before as it was then.
        """
        return oid in self._former.get(table, ()) and not self.knows(table, oid)

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
        before = self._known.get(table)
        former = [oid for oid in self._former.get(table, []) if identity is None or oid != identity[0]]
        if before is not None and before[0] not in former and (identity is None or before[0] != identity[0]):
            former = [*former, before[0]][-_FORMER:]
        self._known[table], self._former[table] = identity, former
        value: dict[str, Any] = {"oid": identity[0] if identity else 0, "member": identity[1] if identity else 0}
        if former:
            value["former"] = former
        self._records.append(Record(self._topic, table.encode(), json.dumps(value).encode(), 0, []))
