"""A change's Kafka records: their headers, and what is too large."""

from __future__ import annotations

from typing import Any

import pytest
from tests.schemas.samples import array, base, relation_of

from instep.change import POSITION_HEADER, Op, Position
from instep.relation import Column
from instep_schemas.encode import NEW_KEY, OLD_KEY, compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.exact import EXACT_HEADER, exact_texts
from instep_schemas.wire import Unencodable, WireOptions
from instep_streams.capture.batch import Batch
from instep_streams.capture.framing import add_change
from instep_streams.capture.tables import CapturedTable

NATIVE = WireOptions("shop", "inventory", "native")
ENCODER = compile_encoder(relation_of([Column("v", array(base("int4")), identity=True, sql_type="integer[]")]), NATIVE)
TABLE = CapturedTable("public.things", "shop.public.things", 3, ENCODER, frozenset({1, 2}))
AT = Position(1, 8)
GRID = b"{{1,2},{3,4}}"


def added(op: Op, old: Any, new: Any, largest: int = 10_000, context: Any = None) -> Batch:
    batch = Batch()
    source = SourceBlock(NATIVE, committed_us=1, transaction=2)
    encoded = ENCODER.records(op, old, new, source, 3, time_stamp(4))
    add_change(batch, TABLE, op, encoded, AT, largest, context)
    return batch


def headers(batch: Batch) -> list[list[str]]:
    return [[name for name, _ in record.headers] for record in batch.records]


def test_only_a_record_with_a_value_without_room_gets_the_header() -> None:
    assert headers(added(Op.CREATE, None, (b"1", b"{1,2}"))) == [[POSITION_HEADER]]
    told = added(Op.UPDATE, (b"1", GRID), (b"1", b"{}"))
    assert headers(told) == [[POSITION_HEADER, EXACT_HEADER]]
    assert exact_texts(dict(told.records[0].headers)[EXACT_HEADER]) == {"before": {"v": GRID.decode()}}


def test_of_a_key_change_each_half_tells_its_own_row() -> None:
    split = added(Op.UPDATE, (b"1", GRID), (b"2", b"[0:0]={7}"))
    assert headers(split) == [
        [POSITION_HEADER, EXACT_HEADER, NEW_KEY], [POSITION_HEADER, NEW_KEY], [POSITION_HEADER, EXACT_HEADER, OLD_KEY]
    ]  # fmt: skip
    gone, _, came = (dict(record.headers) for record in split.records)
    assert exact_texts(gone[EXACT_HEADER]) == {"before": {"v": GRID.decode()}}
    assert exact_texts(came[EXACT_HEADER]) == {"after": {"v": "[0:0]={7}"}}


def test_debeziums_own_headers_do_not_displace_it() -> None:
    context = [("__debezium.context.task", b"0")]
    assert headers(added(Op.CREATE, None, (b"1", GRID), context=context)) == [["__debezium.context.task", EXACT_HEADER]]
    split = added(Op.UPDATE, (b"1", b"{}"), (b"2", GRID), context=context)
    assert headers(split)[2] == [OLD_KEY, "__debezium.context.task", EXACT_HEADER]


def test_the_header_counts_to_what_kafka_takes() -> None:
    wide = b"{" + b",".join([b"{1}"] * 900) + b"}"
    assert added(Op.CREATE, None, (b"1", wide)).size > len(wide)
    with pytest.raises(Unencodable, match="larger than Kafka"):
        added(Op.CREATE, None, (b"1", wide), largest=len(wide))
