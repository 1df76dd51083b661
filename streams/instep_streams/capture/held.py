"""The rows that a data topic leaves, on disk: what a reader of the topic holds. For recovery."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from instep.change import ABSENT, Op, Row
from instep_connectors.kafka import Record
from instep_connectors.postgres.snapshot import TextRow
from instep_schemas.records import unframe
from instep_streams.capture.folding import FoldedRow, Schemas

_UNKNOWN: Final = "\x00?"
"""A value nobody knows; no text of PostgreSQL holds a zero byte, so it differs from every value."""


class Held:
    """One table's rows as its topic leaves them, by Kafka key; in a temporary file, which goes with the object.

    Args:
        schemas: decoders.

    Attributes:
        key_ids: registry ids of the keys.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._rows = sqlite3.connect("", isolation_level=None)
        self._rows.execute("PRAGMA synchronous = OFF")
        self._rows.execute("CREATE TABLE held (key BLOB PRIMARY KEY, part INT, row TEXT, times INT) WITHOUT ROWID")
        self._rows.execute("BEGIN")
        self.key_ids: set[int] = set()

    def read(self, records: Iterable[Record]) -> None:
        """Fold records, in offset order per partition."""
        for record in self._schemas.prefixed(records):
            if record.value is None:
                continue
            envelope = self._schemas.envelope(record)
            if envelope.op is Op.TRUNCATE:
                self._clear(record)
            elif record.key is None:
                self._count(envelope.before, -1)
                self._count(envelope.after, 1)
            elif envelope.op is Op.DELETE:
                self._rows.execute("DELETE FROM held WHERE key = ?", (record.key,))
            elif envelope.after is not None:
                self._put(record, envelope.after)

    def _clear(self, record: Record) -> None:
        everywhere = -1 if record.partition == 0 else None
        self._rows.execute("DELETE FROM held WHERE part IN (?, ?)", (record.partition, everywhere))

    def _put(self, record: Record, row: Row) -> None:
        assert record.key is not None
        self.key_ids.add(unframe(record.key)[0])
        base = self._get(record.key) if ABSENT in row.values() else None
        whole = {name: (base or {}).get(name, _UNKNOWN) if value is ABSENT else value for name, value in row.items()}
        self._rows.execute(
            "INSERT OR REPLACE INTO held VALUES (?, ?, ?, 1)", (record.key, record.partition, json.dumps(whole))
        )

    def _get(self, key: bytes) -> FoldedRow | None:
        found = self._rows.execute("SELECT row FROM held WHERE key = ?", (key,)).fetchone()
        return None if found is None else json.loads(found[0])

    def _count(self, row: Row | None, by: int) -> None:
        """A row without a key counts by its contents."""
        if row is None:
            return
        text = json.dumps({name: _UNKNOWN if value is ABSENT else value for name, value in sorted(row.items())})
        self._rows.execute(
            "INSERT INTO held VALUES (?, -1, ?, ?) ON CONFLICT (key) DO UPDATE SET times = times + excluded.times",
            (text.encode(), text, by),
        )

    def take(self, key: bytes | None, names: Sequence[str], row: TextRow) -> bool:
        """Take a row of the store out; true when the topic's readers hold it just so."""
        texts = {name: None if cell is None else cell.decode() for name, cell in zip(names, row, strict=True)}
        if key is None:
            text = json.dumps(dict(sorted(texts.items()))).encode()
            done = self._rows.execute("UPDATE held SET times = times - 1 WHERE key = ? AND times > 0", (text,))
            return done.rowcount == 1
        held = self._get(key)
        if held is None:
            return False
        self._rows.execute("DELETE FROM held WHERE key = ?", (key,))
        return all(held.get(name, _UNKNOWN) == value for name, value in texts.items())

    def left(self) -> Iterator[tuple[bytes | None, FoldedRow]]:
        """The rows that nobody took: the store has them no more. Keyless ones come as often as they are held."""
        for key, part, text, times in self._rows.execute("SELECT key, part, row, times FROM held"):
            for _ in range(max(0, times)):
                yield (None if part < 0 else key), json.loads(text)

    def clear(self) -> None:
        """The topic's readers hold nothing any more."""
        self._rows.execute("DELETE FROM held")

    def close(self) -> None:
        """Forget it all."""
        self._rows.close()
