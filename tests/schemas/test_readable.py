"""Records for people: envelopes, documents, any Avro, and what is none."""

from __future__ import annotations

import io
import json
from typing import Any

import fastavro
import pytest
from tests.schemas.samples import SAMPLES, column_of, relation_of

from instep.change import ABSENT, Op
from instep_schemas.documents import DocumentCodec, DocumentColumn, KeyCodec, key_schema, value_schema
from instep_schemas.encode import compile_encoder
from instep_schemas.envelope import SourceBlock, time_stamp
from instep_schemas.exact import exact_header
from instep_schemas.readable import Readable, with_exact
from instep_schemas.records import frame
from instep_schemas.wire import WireOptions

NATIVE = WireOptions("shop", "inventory", "native")


def readable(**schemas: str) -> Readable:
    return Readable(lambda schema_id: schemas[f"s{schema_id}"])


def test_an_envelope_gives_the_rows_as_postgresql_writes_them() -> None:
    encoder = compile_encoder(relation_of([column_of(0, SAMPLES["text"], not_null=False)]), NATIVE, 1, 2)
    (column,) = [field.column.name for field in encoder.schemas.fields if field.column.name != "id"]
    reader = readable(s1=encoder.schemas.key_text or "", s2=encoder.schemas.value_text)
    source = SourceBlock(NATIVE, committed_us=7, transaction=9)
    created, *_ = encoder.records(Op.CREATE, None, (b"5", b"Caf\xc3\xa9"), source, 3, time_stamp(4))
    assert reader.read(created.key) == {"id": "5"}
    assert reader.read(created.value) == {
        "op": "c", "before": None, "after": {"id": "5", column: "Café"}, "committed_us": 7, "tx_id": 9,
    }  # fmt: skip
    kept, *_ = encoder.records(Op.UPDATE, None, (b"5", ABSENT), source, 3, time_stamp(4))
    shown = reader.read(kept.value)
    assert (shown["after"], shown["unchanged"]) == ({"id": "5"}, [column])


def test_an_envelope_shows_what_its_header_tells() -> None:
    shown = {"op": "u", "before": {"id": "5"}, "after": {"id": "5", "w": "1"}, "unchanged": ["v", "x"]}
    header = exact_header({"before": {"w": "NaN"}, "after": {"v": "{{1}}"}})
    told = with_exact(shown, [header])
    assert told == {
        "op": "u", "before": {"id": "5", "w": "NaN"}, "after": {"id": "5", "w": "1", "v": "{{1}}"}, "unchanged": ["x"]
    }  # fmt: skip
    assert "unchanged" not in with_exact({**shown, "unchanged": ["v"]}, [header])
    assert with_exact(shown, []) == shown
    with pytest.raises(ValueError, match="envelope"):
        with_exact("of another program", [header])


def test_documents_give_their_values() -> None:
    columns = [DocumentColumn("sku", "text"), DocumentColumn("price", "numeric(10,2)"), DocumentColumn("at", "date")]
    values, keys = value_schema("card", columns, ["sku"]), key_schema("card", columns, ["price"])
    reader = readable(s1=keys, s2=values)
    body = DocumentCodec(values).encode('{"sku":"A","price":"NaN","at":"2026-01-31"}')
    assert reader.read(frame(2, body))["price"] == "NaN"
    body = DocumentCodec(values).encode('{"sku":"A","price":9.50,"at":"2026-01-31"}')
    assert reader.read(frame(2, body)) == {"sku": "A", "price": "9.50", "at": "2026-01-31"}
    assert reader.read(frame(1, KeyCodec(keys).encode(("9.50",)))) == {"price": "9.50"}


FOREIGN: dict[str, Any] = {
    "type": "record", "name": "R", "namespace": "t",
    "fields": [
        {"name": "b", "type": "bytes"},
        {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "t", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "a", "type": {"type": "array", "items": "int"}},
    ],
}  # fmt: skip


def test_any_other_avro() -> None:
    from datetime import UTC, datetime
    from decimal import Decimal

    out = io.BytesIO()
    row = {"b": b"\x00\xff", "d": Decimal("1.50"), "t": datetime(2026, 1, 31, tzinfo=UTC), "a": [1, 2]}
    fastavro.schemaless_writer(out, fastavro.parse_schema(FOREIGN), row)
    shown = readable(s3=json.dumps(FOREIGN), s4='"string"').read(frame(3, out.getvalue()))
    assert shown == {"b": "00ff", "d": "1.50", "t": "2026-01-31 00:00:00+00:00", "a": [1, 2]}
    assert readable(s4='"string"').read(frame(4, b"\x04hi")) == "hi"


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (None, None),
        (b"batch", "batch"),
        (b'{"a": 1}', {"a": 1}),
        (b"17", "17"),
        (b"\x01\xff", {"hex": "01ff"}),
        (b"", ""),
    ],
)
def test_what_is_not_in_the_wire_format(data: bytes | None, shown: Any) -> None:
    assert readable().read(data) == shown


def test_a_body_that_does_not_fit_is_shown_as_it_is() -> None:
    shown = readable(s3=json.dumps(FOREIGN)).read(frame(3, b"\x02"))
    assert shown["hex"] == "000000000302"
    assert "schema 3" in shown["undecodable"]
