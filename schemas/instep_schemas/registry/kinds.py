"""Media types of the answers (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_KINDS: Final = (CONTENT_TYPE, "application/vnd.schemaregistry+json", "application/json")
"""What is answered, in our order of preference; the content is the same."""


def accepted(headers: Sequence[str]) -> str | None:
    """The kind that an Accept header asks for; None when it takes none of ours.

    A range without a type (`*`, `*/anything`) takes everything, as at other registries.
    """
    ranges = [part.strip() for header in headers for part in header.split(",") if part.strip()]
    if not ranges:
        return CONTENT_TYPE
    wanted: dict[str, float] = {}
    for part in ranges:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        for kind in _KINDS:
            if name == kind or name == "application/*" or name.partition("/")[0] == "*":
                wanted[kind] = max(wanted.get(kind, 0.0), _weight(parameters))
    liked = {kind: weight for kind, weight in wanted.items() if weight > 0}
    return max(liked, key=lambda kind: (liked[kind], -_KINDS.index(kind))) if liked else None


def _weight(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 1.0
    return 1.0
