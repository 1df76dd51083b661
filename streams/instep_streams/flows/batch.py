"""What the engine gives to be published."""

from __future__ import annotations

from dataclasses import dataclass

from instep_streams.flows.evaluate import Emitted
from instep_streams.flows.progress import Progress


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step gives to be published, in one Kafka transaction.

    Attributes:
        progress: after the step; `progress.batch` is the marker.
        documents: every document and tombstone of the step.
        seed: the documents stem from a first or changed evaluation, not from a change.
    """

    progress: Progress
    documents: list[Emitted]
    seed: bool = False
