"""What waits for a target, and the rule that a newer waiting version of a key supersedes the older ones. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from instep.protocols import Document


@dataclass(frozen=True, slots=True)
class Origin:
    """The Kafka record a document was read from."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A document on its way to a target.

    Attributes:
        document: what the target shall hold.
        origin: where it was read.
        value: the Kafka value as it was read, for the dead letter.
    """

    document: Document
    origin: Origin
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest waiting version of one key, and the versions it supersedes, oldest first."""

    waiting: Waiting
    older: tuple[Waiting, ...] = ()


def conflate(waiting: Iterable[Waiting]) -> list[Newest]:
    """Keep the newest version per flow and key, in the order in which the keys first came.

    A version that is there twice (delivered again by Kafka) counts once.
    """
    versions: dict[tuple[str, tuple[str, ...]], dict[int, Waiting]] = {}
    for each in waiting:
        document = each.document
        versions.setdefault((document.flow, document.key), {})[document.version] = each
    result = []
    for found in versions.values():
        *older, newest = (found[version] for version in sorted(found))
        result.append(Newest(newest, tuple(older)))
    return result
