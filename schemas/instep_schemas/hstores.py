"""An hstore's pairs as Debezium writes them, in the order of Java's HashMap."""

from __future__ import annotations

import json

from instep_schemas import javatext, literals
from instep_schemas.varint import counted, long


def hstore_json(text: bytes) -> bytes:
    """An hstore as a JSON object, in the order of Java's HashMap."""
    pairs = literals.parse_hstore(text.decode())
    pairs = {key: pairs[key] for key in javatext.hash_order(pairs)}
    return counted(json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode())


def hstore_map(text: bytes) -> bytes:
    """An hstore as an Avro map of nullable strings."""
    pairs = literals.parse_hstore(text.decode())
    order = javatext.hash_order(javatext.hash_order(pairs), len(pairs))
    return avro_map({key: pairs[key] for key in order})


def avro_map(pairs: dict[str, str | None]) -> bytes:
    """An Avro map of nullable strings."""
    if not pairs:
        return b"\x00"
    parts = [long(len(pairs))]
    for key, value in pairs.items():
        parts += counted(key.encode()), b"\x00" if value is None else b"\x02" + counted(value.encode())
    return b"".join(parts) + b"\x00"
