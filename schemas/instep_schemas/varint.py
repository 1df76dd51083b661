"""Avro's binary form of numbers and lengths, by table look-up."""

from __future__ import annotations

import struct
from typing import Final

_BITS: Final = 14
_SIZE: Final = 1 << _BITS
_MASK: Final = _SIZE - 1


def _plain(number: int) -> bytes:
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80, number >> 7))


LOW: Final = [_plain(number) for number in range(_SIZE)]
"""The varint of each number below 2**14."""

_MORE: Final = [bytes((number & 0x7F | 0x80, number >> 7 | 0x80)) for number in range(_SIZE)]

LENGTH: Final = [LOW[number << 1] for number in range(_SIZE >> 1)]
"""The Avro long of each length below 2**13: what stands before a short string."""

SOME_LENGTH: Final = [b"\x02" + each for each in LENGTH]
"""Like LENGTH, as branch 1 of a union."""

pack_double: Final = struct.Struct("<d").pack
pack_float: Final = struct.Struct("<f").pack


def unsigned(number: int) -> bytes:
    """The varint of a number >= 0."""
    if number < _SIZE:
        return LOW[number]
    high = number >> _BITS
    if high < _SIZE:
        return _MORE[number & _MASK] + LOW[high]
    top = high >> _BITS
    if top < _SIZE:
        return _MORE[number & _MASK] + _MORE[high & _MASK] + LOW[top]
    return _MORE[number & _MASK] + _MORE[high & _MASK] + unsigned(top)


def above(number: int) -> bytes:
    """What stands behind the first 14 bits in the varint of a number >= 0: the same for all near it."""
    return unsigned(number >> _BITS) if number >= _SIZE else b""


def with_above(number: int, upper: bytes) -> bytes:
    """The varint of a number whose `above` is known."""
    return _MORE[number & _MASK] + upper if upper else LOW[number]


def long(number: int) -> bytes:
    """An Avro int or long (zigzag). The caller has seen to it that it fits 64 bits."""
    return unsigned((number << 1) ^ (number >> 63))


def counted(content: bytes) -> bytes:
    """An Avro string or bytes."""
    size = len(content)
    return (LENGTH[size] if size < len(LENGTH) else long(size)) + content


def read_long(data: bytes, at: int) -> tuple[int, int]:
    """Read an Avro int or long: the number and where it ends."""
    number = data[at]
    if number < 0x80:
        return (number >> 1) ^ -(number & 1), at + 1
    byte = data[at + 1]
    if byte < 0x80:
        number = number & 0x7F | byte << 7
        return (number >> 1) ^ -(number & 1), at + 2
    number = number & 0x7F | (byte & 0x7F) << 7
    at += 2
    shift = 14
    while (byte := data[at]) > 0x7F:
        number |= (byte & 0x7F) << shift
        at += 1
        shift += 7
    number |= byte << shift
    return (number >> 1) ^ -(number & 1), at + 1
