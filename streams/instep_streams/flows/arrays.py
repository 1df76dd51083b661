"""Lists as PostgreSQL's text of an array: psycopg's own way costs microseconds for each text, this some nanoseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg.adapt import Dumper


class ArrayDumper(Dumper):
    """Sends a list of texts, or of whole numbers, as a text whose type the statement says (`%s::text[]`)."""

    def dump(self, obj: Any) -> bytes:
        """The text, in UTF-8 as the session is pinned to it; raises as `array_text`."""
        return array_text(obj).encode()


def array_text(values: Sequence[str | int | None]) -> str:
    """PostgreSQL's text of a one-dimensional array.

    Raises:
        TypeError: an element is neither a text nor a whole number nor None.
    """
    if not values:
        return "{}"
    texts: Any = values
    try:
        joined = '","'.join(texts)
    except TypeError:
        return f"{{{','.join([_element(each) for each in values])}}}"
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        return f"{{{','.join([_quoted(each) for each in texts])}}}"
    return f'{{"{joined}"}}'


def _element(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    if type(value) is str:
        return _quoted(value)
    if type(value) is int:
        return str(value)
    raise TypeError(f"no element of an array here: {type(value).__name__}")


def _quoted(text: str) -> str:
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
