"""What a capture writes besides the changes, and in which form: Instep's own profile, or Debezium's."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Final, Literal

from instep.change import Op
from instep_connectors.postgres.selection import IdentityRule, PublicationMode, Selection
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Headers

SnapshotMode = Literal["initial", "initial_only", "no_data"]


@dataclass(frozen=True, slots=True)
class Compatible:
    """What Debezium's connector would write, by the names of its settings.

    Attributes:
        wire: of the records; `source` is topic.prefix. The database's name is filled in by the session.
        selection: the tables.
        publication: publication.autocreate.mode.
        via_root: publish.via.partition.root.
        snapshot: snapshot.mode.
        snapshot_tables: snapshot.include.collection.list.
        overrides: (table, SELECT) of snapshot.select.statement.overrides.
        identities: replica.identity.autoset.values.
        skipped: skipped.operations.
        skip_unchanged: skip.messages.without.change (tables with REPLICA IDENTITY FULL).
        context_headers: extended.headers.enabled.
        transaction_topic: where transaction metadata go, None for none.
        message_topic: where logical messages go.
        messages: message.prefix.include.list.
        not_messages: message.prefix.exclude.list.
        heartbeat_topic: where heartbeats go.
        heartbeat_s: heartbeat.interval.ms in seconds; 0 for none.
        heartbeat_query: heartbeat.action.query, empty for none.
        signals: signal.data.collection (`schema.table`), empty for none.
        chunk_rows: incremental.snapshot.chunk.size.
        delete_window: incremental.snapshot.watermarking.strategy=insert_delete.
    """

    wire: WireOptions
    selection: Selection = field(default_factory=Selection)
    publication: PublicationMode = "all_tables"
    via_root: bool = False
    snapshot: SnapshotMode = "initial"
    snapshot_tables: tuple[str, ...] = ()
    overrides: tuple[tuple[str, str], ...] = ()
    identities: tuple[IdentityRule, ...] = ()
    skipped: frozenset[Op] = frozenset({Op.TRUNCATE})
    skip_unchanged: bool = False
    context_headers: bool = True
    transaction_topic: str | None = None
    message_topic: str = ""
    messages: tuple[str, ...] = ()
    not_messages: tuple[str, ...] = ()
    heartbeat_topic: str = ""
    heartbeat_s: float = 0.0
    heartbeat_query: str = ""
    signals: str = ""
    chunk_rows: int = 1024
    delete_window: bool = False

    def headers(self) -> Headers:
        """The headers of every data record of one run."""
        if not self.context_headers:
            return []
        run = uuid_v7().encode()
        values = (self.wire.source.encode(), b"0", self.wire.connector.encode(), run)
        return list(zip(_CONTEXT, values, strict=True))


_CONTEXT: Final = tuple(
    f"__debezium.context.{name}" for name in ("connectorLogicalName", "taskId", "connectorName", "runId")
)


def uuid_v7() -> str:
    """A UUID that begins with the time, as Debezium gives each run one."""
    stamp = time.time_ns() // 1_000_000
    random = uuid.uuid4().int & ((1 << 80) - 1)
    number = stamp << 80 | random
    number = number & ~(0xF << 76) | 0x7 << 76
    return str(uuid.UUID(int=number & ~(0x3 << 62) | 0x2 << 62))
