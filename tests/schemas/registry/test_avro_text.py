"""Canonical text, references written out, GUIDs."""

from __future__ import annotations

import hashlib
import json
import uuid

import pytest

from instep_schemas.compatibility import SchemaFault, parse
from instep_schemas.registry.avro_text import Content, Reference, canonical, resolved

# as sent, and as Java prints it
CANONICAL = [
    ('{"type": "string"}', '"string"'),
    ('{"type":{"type":"int"}}', '"int"'),
    ('["null", {"type":"long","logicalType":"timestamp-micros"}]',
     '["null",{"type":"long","logicalType":"timestamp-micros"}]'),
    ('{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}',
     '{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}'),
    ('{"name":"a.b.R","type":"record","fields":[{"type":"a.b.R2","name":"x"}],"doc":"d","custom":[1]}',
     '{"type":"record","name":"R","namespace":"a.b","doc":"d","fields":[{"name":"x","type":"R2"}],"custom":[1]}'),
    ('{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":{"type":"enum","symbols":["A"],'
     '"name":"E","namespace":"b","default":"A"}},{"name":"y","type":"b.E","order":"ascending","default":"A"}]}',
     '{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":{"type":"enum","name":"E",'
     '"namespace":"b","symbols":["A"],"default":"A"}},{"name":"y","type":"b.E","default":"A"}]}'),
    ('{"type":"fixed","size":4,"name":"F","aliases":["G","x.H"],"logicalType":"decimal","precision":3}',
     '{"type":"fixed","name":"F","size":4,"logicalType":"decimal","precision":3,"aliases":["G","x.H"]}'),
    ('{"items":{"values":"int","type":"map"},"type":"array","java-class":"x"}',
     '{"type":"array","items":{"type":"map","values":"int"},"java-class":"x"}'),
    ('{"type":"record","name":"R","fields":[{"name":"ü","doc":"ü","type":"int","order":"ignore","aliases":["b"],"z":1}]}',
     '{"type":"record","name":"R","fields":[{"name":"ü","type":"int","doc":"ü","order":"ignore","aliases":["b"],"z":1}]}'),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "kept"), CANONICAL, ids=range(len(CANONICAL)))
def test_canonical_text(sent: str, kept: str) -> None:
    assert canonical(sent) == kept
    assert canonical(kept) == kept


def test_normalized_text_does_not_depend_on_spelling() -> None:
    one = '{"type":"record","name":"R","namespace":"a","fields":[{"name":"x","type":"int","b":1,"a":2}]}'
    two = '{"name":"a.R","fields":[{"a":2,"b":1,"type":{"type":"int"},"name":"x"}],"type":"record"}'
    assert canonical(one, normalize=True) == canonical(two, normalize=True)
    assert canonical(one) != canonical(two)


@pytest.mark.parametrize("bad", ["{", '{"name":"R"}', '{"type":"record","name":"R"}', "[" * 100_000])
def test_malformed_texts(bad: str) -> None:
    with pytest.raises(SchemaFault):
        canonical(bad)


def test_references_are_written_out_where_they_are_first_used() -> None:
    address = '{"type":"record","name":"Address","namespace":"x","fields":[{"name":"kind","type":{"type":"enum","name":"Kind","symbols":["A"]}}]}'  # noqa: E501  # as one would send it
    main = '{"type":"record","name":"C","namespace":"y","fields":[{"name":"k","type":"x.Kind"},{"name":"a","type":"x.Address"},{"name":"b","type":"x.Address"}]}'  # noqa: E501
    text = resolved(main, [address])
    parse(text)
    fields = json.loads(text)["fields"]
    assert fields[0]["type"]["symbols"] == ["A"]
    assert fields[1]["type"]["fields"][0]["type"] == "Kind"
    assert fields[2]["type"] == "x.Address"
    assert resolved(main, [address]) == canonical(text)


def test_guid_is_the_md5_of_all_that_counts() -> None:
    def guid(data: bytes) -> str:
        return str(uuid.UUID(bytes=hashlib.md5(data).digest()))

    assert Content('"int"').guid == guid(b'"int"')
    assert Content('"x"', (Reference("A", "a", 258),)).guid == guid(b'"x"' + b"Aa\x00\x00\x01\x02")
    metadata = {"properties": {"b": "2", "a": "1"}, "tags": {"t": ["q", "p"]}, "sensitive": ["s"]}
    assert Content('"x"', (), metadata).guid == guid(b'"x"\x01tpqa1b2s')
    rules = {
        "domainRules": [
            {"name": "n", "kind": "TRANSFORM", "mode": "WRITE", "type": "CEL", "params": {"k": "v"}, "disabled": True}
        ]
    }
    assert Content('"x"', (), None, rules).guid == guid(b'"x"\x01nTRANSFORMWRITECELkv\x01')
    assert len({Content('"x"').guid, Content('"x"', (), {}).guid, Content('"x"', (), {}, {}).guid}) == 3
