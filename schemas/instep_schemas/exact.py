"""The header that tells the few values for which a column's Avro type has no room (pure).

A value that the type cannot carry (an array of two dimensions, NaN in a `numeric(12,2)`, a text that is the placeholder
itself) has a stand-in in the record, and its own text here: UTF-8 JSON, `{"after":{"grid":"{{1,2},{3,4}}"}}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from instep.change import Row
from instep_schemas.decode import Envelope
from instep_schemas.wire import EXACT

EXACT_HEADER: Final = EXACT
"""Kafka header of a data record of the native profile, where there is such a value: PostgreSQL's texts by column."""

Texts = dict[str, dict[str, str]]
"""`before`, `after` → column (PostgreSQL's name) → text."""


def exact_header(texts: Texts) -> tuple[str, bytes]:
    """The header that tells these values."""
    return EXACT_HEADER, json.dumps(texts, ensure_ascii=False, separators=(",", ":")).encode()


def exact_texts(content: bytes) -> Texts:
    """What the header tells.

    Raises:
        ValueError: it is not JSON, or not two levels of objects with texts in them.
    """
    found = json.loads(content)
    images = found.values() if isinstance(found, dict) else (None,)
    if not all(isinstance(image, dict) and all(isinstance(text, str) for text in image.values()) for image in images):
        raise ValueError(f"{EXACT_HEADER} does not hold texts by column")
    texts: Texts = found
    return texts


def exact_row(row: Row, content: bytes, image: str = "after") -> Row:
    """The row with the values that the header tells of it, in place of their stand-ins; raises as `exact_texts`."""
    texts: Mapping[str, str] = exact_texts(content).get(image, {})
    return {name: texts.get(name, value) for name, value in row.items()}


def restored(envelope: Envelope, headers: Sequence[tuple[str, Any]]) -> Envelope:
    """The change with the values that its record's header tells, in place of their stand-ins.

    Raises:
        ValueError: as `exact_texts`.
    """
    for name, content in headers:
        if name == EXACT_HEADER:
            before, after = envelope.before, envelope.after
            return envelope._replace(
                before=None if before is None else exact_row(before, content, "before"),
                after=None if after is None else exact_row(after, content),
            )
    return envelope
