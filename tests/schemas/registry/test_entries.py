"""The `_schemas` topic byte for byte: what Confluent writes is read, what we write it can read."""

from __future__ import annotations

import json

import pytest
from tests.schemas.registry.ledger import Ledger, Records, load

from instep_schemas.registry.avro_text import Content, Reference
from instep_schemas.registry.entries import (
    EntryFault,
    Key,
    Keytype,
    decode_key,
    decode_value,
    encode_key,
    encode_value,
    is_canonical,
    schema_entry,
)

GOLDEN_KEYS = {
    b'{"keytype":"SCHEMA","subject":"orders-value","version":1,"magic":1}': Key(Keytype.SCHEMA, "orders-value", 1),
    b'{"keytype":"CONFIG","subject":null,"magic":0}': Key(Keytype.CONFIG),
    b'{"keytype":"CONFIG","subject":"orders-value","magic":0}': Key(Keytype.CONFIG, "orders-value"),
    b'{"keytype":"MODE","subject":null,"magic":0}': Key(Keytype.MODE),
    b'{"keytype":"MODE","subject":":.c:","magic":0}': Key(Keytype.MODE, ":.c:"),
    b'{"keytype":"DELETE_SUBJECT","subject":"orders-value","magic":0}': Key(Keytype.DELETE_SUBJECT, "orders-value"),
    b'{"keytype":"CLEAR_SUBJECT","subject":"orders-value","magic":0}': Key(Keytype.CLEAR_SUBJECT, "orders-value"),
    b'{"keytype":"NOOP","magic":0}': Key(Keytype.NOOP),
    b'{"keytype":"CONTEXT","tenant":"default","context":".c","magic":0}': Key(Keytype.CONTEXT, context=".c"),
}
# as another registry leaves a topic: its attribute order in values, its extra fields, a deletion, an import
CONFLUENT: Records = [
    (b'{"keytype":"NOOP","magic":0}', None),
    (b'{"keytype":"CONFIG","subject":null,"magic":0}', b'{"compatibilityLevel":"FULL_TRANSITIVE"}'),
    (
        b'{"keytype":"SCHEMA","subject":"a","version":1,"magic":1}',
        b'{"subject":"a","version":1,"id":1,"md5":"zG4a","schema":"\\"string\\"","deleted":false}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"a","version":2,"magic":1}',
        b'{"subject":"a","version":2,"id":7,"schema":"{\\"type\\":\\"record\\",\\"name\\":\\"R\\",\\"fields\\":[]}",'
        b'"schemaType":"AVRO","references":[],"metadata":{"properties":{"k":"v"}},"deleted":true}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"json","version":1,"magic":1}',
        b'{"subject":"json","version":1,"id":9,"schema":"{}","schemaType":"JSON","deleted":false}',
    ),
    (
        b'{"keytype":"SCHEMA","subject":"gone","version":1,"magic":1}',
        b'{"subject":"gone","version":1,"id":2,"schema":"\\"int\\"","deleted":false}',
    ),
    (b'{"keytype":"DELETE_SUBJECT","subject":"gone","magic":0}', b'{"subject":"gone","version":1}'),
    (b'{"keytype":"MODE","subject":"a","magic":0}', b'{"subject":"a","mode":"READONLY"}'),
]


@pytest.mark.parametrize(("data", "key"), GOLDEN_KEYS.items(), ids=lambda value: str(value)[:60])
def test_keys(data: bytes, key: Key) -> None:
    assert decode_key(data) == key
    assert encode_key(key) == data
    assert is_canonical(data)


@pytest.mark.parametrize(
    "data",
    [
        b'{"magic":1,"keytype":"SCHEMA","subject":"a","version":1}',
        b'{"keytype": "SCHEMA", "subject": "a", "version": 1, "magic": 1}',
    ],
)
def test_other_spellings_are_read_and_told_apart(data: bytes) -> None:
    assert decode_key(data) == Key(Keytype.SCHEMA, "a", 1)
    assert not is_canonical(data)


@pytest.mark.parametrize(
    "data", [None, b"", b"x", b"[]", b"{}", b'{"keytype":"NEW","magic":0}', b'{"keytype":"SCHEMA","subject":"a"}']
)
def test_what_is_no_key(data: bytes | None) -> None:
    with pytest.raises(EntryFault):
        decode_key(data)


def test_values() -> None:
    content = Content('"ä"', (Reference("A", "a", 1),), {"properties": {"k": "v"}})
    entry = schema_entry("s", 2, 5, content)
    assert (
        encode_value(entry.value)
        == (
            '{"subject":"s","version":2,"id":5,"references":[{"name":"A","subject":"a","version":1}],'
            '"metadata":{"properties":{"k":"v"}},"schema":"\\"ä\\"","deleted":false}'
        ).encode()
    )
    assert decode_value(None) is None
    for bad in (b"x", b"5", b"[]"):
        with pytest.raises(EntryFault):
            decode_value(bad)


def test_a_topic_written_by_another_registry() -> None:
    ledger = Ledger()
    for key, value in CONFLUENT:
        try:
            ledger.store.apply(decode_key(key), decode_value(value))
        except EntryFault as fault:
            assert "JSON schema" in str(fault)
    store = ledger.store
    assert store.subjects() == ["a"]
    assert store.subjects(deleted=True) == ["a", "gone"]
    assert [(v.version, v.deleted) for v in store.versions("a", deleted=True)] == [(1, False), (2, True)]
    assert store.effective_config("a")["compatibilityLevel"] == "FULL_TRANSITIVE"
    assert store.effective_mode("a") == "READONLY"
    assert ledger.register("b", json.dumps("long")) == 10  # above the id of the schema that is of no use here
    assert ledger.register("gone", json.dumps("int")) == 2


@pytest.mark.parametrize(
    "value", [b'{"subject":"a"}', b'{"id":"x","schema":"1"}', b'{"id":1}', b'{"id":1,"schema":"x","references":[1]}']
)
def test_damaged_values_change_nothing(value: bytes) -> None:
    with pytest.raises(EntryFault):
        load([(encode_key(Key(Keytype.SCHEMA, "a", 1)), value)])
