"""Without I/O: the compatibility check, and the generated encoder and decoder beside fastavro on the same envelopes."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from typing import Any

import fastavro

from instep.change import Op
from instep.relation import Column, Relation, Type
from instep_schemas.compatibility import Level, check
from instep_schemas.decode import compile_decoder
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import WireOptions

OPTIONS = WireOptions("shop", "inventory", "debezium")
_NUMERIC_10_2 = ((10 << 16) | 2) + 4
_KINDS: tuple[tuple[str, str, int], ...] = (
    ("int8", "9007199254740993", -1),
    ("text", "Räucherlachs, 200 g", -1),
    ("numeric", "1234.50", _NUMERIC_10_2),
    ("timestamptz", "2026-11-24 08:30:17.239251+00", -1),
    ("bool", "t", -1),
    ("float8", "0.30000000000000004", -1),
)


def _table(columns: int) -> tuple[Relation, tuple[bytes, ...]]:
    made = [Column("id", Type(0, "pg_catalog", "int4"), not_null=True, identity=True, sql_type="integer")]
    row = [b"4711"]
    for number in range(1, columns):
        name, text, modifier = _KINDS[number % len(_KINDS)]
        made.append(Column(f"c{number}", Type(0, "pg_catalog", name), modifier, sql_type=name))
        row.append(text.encode())
    return Relation(1, "public", "things", tuple(made), ("id",)), tuple(row)


def envelope_text(columns: int) -> str:
    """The envelope schema of a table with this many columns of mixed types."""
    return compile_encoder(_table(columns)[0], OPTIONS).schemas.value_text


def _each(work: Callable[[], object], seconds: float) -> float:
    """Seconds of one call, over at least so many seconds; the best of three rounds: neighbours only add."""
    rounds = []
    for _ in range(3):
        calls, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds / 3:
            work()
            calls += 1
        rounds.append((time.perf_counter() - start) / calls)
    return min(rounds)


def check_ms(columns: int, seconds: float) -> float:
    """A FULL check of an envelope against one version with a column less, milliseconds.

    Parsed schemas are remembered by the registry as in service, so each check is of a text not seen before.
    """
    old, new = envelope_text(columns - 1), json.loads(envelope_text(columns))
    numbers = iter(range(10**9))

    def work() -> None:
        text = json.dumps(new | {"n": next(numbers)}, separators=(",", ":"))
        if faults := check(Level.FULL, text, [(1, old)]):
            raise RuntimeError(f"the check finds a fault: {faults[0]}")

    return _each(work, seconds) * 1000


def codecs(columns: int, seconds: float) -> dict[str, float]:
    """Envelopes per second: ours and fastavro's, writing and reading; fails unless both write the same bytes."""
    relation, row = _table(columns)
    encoder, stamp = compile_encoder(relation, OPTIONS), time_stamp(1_795_492_217_335_095_251)
    source = SourceBlock(OPTIONS, committed_us=1_795_492_217_239_251, transaction=11_362, last_commit=642_443_128)
    body = encoder.envelope(Op.CREATE, None, row, source, 642_443_168, stamp)
    text = encoder.schemas.value_text
    schema = fastavro.parse_schema(json.loads(text.replace('"logicalType"', '"was"')))  # physical values for both
    value: Any = fastavro.schemaless_reader(io.BytesIO(body), schema, None)

    def fastavro_writes() -> bytes:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, value)
        return out.getvalue()

    if fastavro_writes() != body:
        raise RuntimeError("fastavro writes other bytes")
    decode, projected = compile_decoder(text), compile_decoder(text, ["id", "c1", "c2"])
    ours = {
        "encode_per_s": lambda: encoder.envelope(Op.CREATE, None, row, source, 642_443_168, stamp),
        "fastavro_encode_per_s": fastavro_writes,
        "decode_per_s": lambda: decode(body),
        "decode_3_columns_per_s": lambda: projected(body),
        "fastavro_decode_per_s": lambda: fastavro.schemaless_reader(io.BytesIO(body), schema, None),
    }
    return {name: 1 / _each(work, seconds) for name, work in ours.items()}
