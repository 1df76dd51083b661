"""What docs/reference/schemas.md says of unsent and unknown values holds for every type."""

from __future__ import annotations

import pytest
from tests.schemas.bythedocs import NOT_SENT, UNKNOWN, Reader
from tests.schemas.samples import SAMPLES, Sample, column_of, relation_of

from instep.change import ABSENT, Op
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.wire import Unencodable, WireOptions

NATIVE = WireOptions("shop", "inventory", "native")
NEVER_TOASTED = frozenset("int2 int4 int8 oid float4 float8 bool date time timestamp timestamptz".split())


@pytest.mark.parametrize("not_null", [False, True])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_value_that_was_not_sent_is_told_from_one_that_was(name: str, not_null: bool) -> None:
    sample: Sample = SAMPLES[name]
    encoder = compile_encoder(relation_of([column_of(0, sample, not_null=not_null)]), NATIVE)
    source, stamp = SourceBlock(NATIVE, committed_us=1, transaction=2), time_stamp(4)
    try:
        record, *_ = encoder.records(Op.UPDATE, (b"1", None), (b"1", ABSENT), source, 3, stamp)
    except Unencodable:
        assert sample.type.name in NEVER_TOASTED
        return
    images = Reader(encoder.schemas.value_text).read(record.value or b"", [])
    assert images == {"before": {"id": "1", "c0": UNKNOWN}, "after": {"id": "1", "c0": NOT_SENT}}
