"""What one capture process works on, and the parts one session is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from instep.settings import Settings, SourceSettings
from instep_connectors.postgres.recording import Recorder
from instep_connectors.postgres.slot import Connection
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Headers
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.options import Compatible
from instep_streams.capture.publishing import PublishingThread
from instep_streams.capture.sidetopics import SideTopics
from instep_streams.capture.tables import Tables


@dataclass(frozen=True, slots=True)
class Task:
    """What to capture, and how to be told to stop.

    Attributes:
        settings: of the project.
        source: name of the source.
        idle: sleeps for so many seconds at most; true when the process should stop.
        compatible: write what Debezium would; None: Instep's own profile.
        recorder: keeps the frames; None: nobody asked for that.
        parts: whether the store may send transactions that still run, where the settings want it to.
    """

    settings: Settings
    source: str
    idle: Callable[[float], bool]
    compatible: Compatible | None = None
    recorder: Recorder | None = None
    parts: bool = True

    @property
    def own(self) -> SourceSettings:
        """The source's settings."""
        return self.settings.sources[self.source]

    @property
    def dsn(self) -> str:
        """The source's connection string, revealed."""
        return self.own.dsn.reveal()

    @property
    def application(self) -> str:
        """Our name in the store."""
        return f"instep capture {self.source}"

    def stopping(self) -> bool:
        """Whether the process should stop."""
        return self.idle(0.0)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the snapshot and the stream of one session share.

    Attributes:
        control: a normal connection, which holds the slot lock.
        publishing: takes the batches.
        tables: makes captured tables.
        options: how the source is written.
        dead_letters: writes what cannot be encoded.
        epoch: of the positions.
        largest: the most bytes a record's value may have.
        compatible: see `Task`.
        headers: Debezium's headers of every data record; None: each has its position instead.
        side: makes Debezium's other topics, None in Instep's own profile.
    """

    control: Connection
    publishing: PublishingThread
    tables: Tables
    options: WireOptions
    dead_letters: DeadLetters
    epoch: int
    largest: int
    compatible: Compatible | None = None
    headers: Headers | None = None
    side: SideTopics | None = None
