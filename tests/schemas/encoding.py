"""What tests of encoded changes share: options, a source block, common columns, encoding and decoding in one call."""

from __future__ import annotations

from typing import Any

from tests.schemas.samples import array, base, numeric

from instep.change import Op
from instep.relation import Column, Relation
from instep_schemas.decode import compile_decoder
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import WireOptions

DEBEZIUM = WireOptions("shop", "inventory", "debezium")
NATIVE = WireOptions("shop", "inventory", "native")
PROFILES = {"debezium": DEBEZIUM, "native": NATIVE}
NOW = 1_795_492_217_335_095_251
SOURCE = {
    profile: SourceBlock(options, committed_us=1_795_492_217_239_251, transaction=11_362, last_commit=642_443_128)
    for profile, options in PROFILES.items()
}

NUMBER = [Column("v", base("numeric"), numeric(10, 2), sql_type="numeric(10,2)")]
LIST = [Column("v", array(base("int4")), sql_type="integer[]")]
MOMENT = [Column("v", base("timestamp"), sql_type="timestamp without time zone")]
TEXTS = [Column("v", base("text"), sql_type="text")]
REQUIRED = [Column("v", base("text"), not_null=True, sql_type="text")]


def records(options: WireOptions, relation: Relation, op: Op, before: Any, after: Any, lsn: int = 642_443_168) -> Any:
    encoder = compile_encoder(relation, options)
    return encoder.records(op, before, after, SOURCE[options.profile], lsn, time_stamp(NOW))


def bytes_of(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def decoded(options: WireOptions, relation: Relation, value: bytes) -> Any:
    return compile_decoder(compile_encoder(relation, options).schemas.value_text)(value)
