"""Salted hashes and first characters in the place of texts, as Debezium's column settings write them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Final

from instep.relation import Column
from instep_schemas.varint import counted, read_long
from instep_schemas.wire import Hash

_STREAM: Final = b"\xac\xed\x00\x05"
"""Magic and version of Java's object streams."""


def hashing(how: Hash, column: Column) -> Callable[[bytes], bytes]:
    """A codec: PostgreSQL text to the Avro string of its hash, cut to the column's length."""
    limit = column.modifier - 4 if column.modifier > 4 else None

    def encode(text: bytes) -> bytes:
        digest = hashlib.new(how.algorithm, how.salt.encode(), usedforsecurity=False)
        digest.update(serialized(text.decode()) if how.serialized else text)
        return counted(digest.hexdigest()[:limit].encode())

    return encode


def truncating(codec: Callable[[bytes], bytes], limit: int, *, java: bool) -> Callable[[bytes], bytes]:
    """A codec: PostgreSQL text to the first characters of the Avro string that another codec makes of it.

    Args:
        codec: the other one.
        limit: most characters.
        java: count and cut as Debezium does: in UTF-16 units, half a character becoming `?`.
    """

    def encode(text: bytes) -> bytes:
        encoded = codec(text)
        content = encoded[read_long(encoded, 0)[1] :]
        if len(content) <= limit:
            return encoded
        if not java:
            return counted(content.decode()[:limit].encode())
        units = content.decode().encode("utf-16-le")[: 2 * limit]
        return counted(units.decode("utf-16-le", "surrogatepass").encode("utf-8", "replace"))

    return encode


def serialized(text: str) -> bytes:
    """A string as Java's ObjectOutputStream writes it: its own UTF-8, with surrogate pairs and a two-byte NUL."""
    units = struct.iter_unpack(">H", text.encode("utf-16-be"))
    content = b"".join(_unit(unit) for (unit,) in units)
    if len(content) < 1 << 16:
        return _STREAM + b"t" + struct.pack(">H", len(content)) + content
    return _STREAM + b"|" + struct.pack(">Q", len(content)) + content


def _unit(unit: int) -> bytes:
    if 0 < unit < 0x80:
        return bytes((unit,))
    if unit < 0x800:
        return bytes((0xC0 | unit >> 6, 0x80 | unit & 0x3F))
    return bytes((0xE0 | unit >> 12, 0x80 | unit >> 6 & 0x3F, 0x80 | unit & 0x3F))
