"""Data records that say their schemas by GUIDs in headers: what others and we read of them."""

from __future__ import annotations

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from tests.streams.capture.conftest import MakeShop

from instep.topics import data_topic
from instep_ops.planning.tail import Tail, Wish
from instep_schemas.client import RegistryClient
from instep_schemas.schemaids import KEY_HEADER, VALUE_HEADER
from instep_streams.flows.inbox import Inbox

ONE, TWO = "number 1", "number 2"  # Confluent's deserializer wants more than five bytes


def test_headers_tell_the_schemas(make_shop: MakeShop) -> None:
    shop = make_shop("CREATE TABLE items (id text PRIMARY KEY, name text)", schema_ids="header")
    shop.execute("INSERT INTO items VALUES ('number 1', 'snapshot')")
    with shop.capturing() as running:
        shop.execute("INSERT INTO items VALUES ('number 2', 'stream')", "DELETE FROM items WHERE id = 'number 1'")
        shop.await_captured(running)
    records = shop.records("public.items")
    assert len(records) == 4
    url, topic = shop.settings.registry.url, data_topic(shop.name, "public", "items")
    with SchemaRegistryClient({"url": url}) as client:
        deserialize = AvroDeserializer(client)
        for record in records:
            told = dict(record.headers)
            assert (told[KEY_HEADER][0], len(told[KEY_HEADER])) == (1, 17)
            if record.value is None:
                assert VALUE_HEADER not in told
                continue
            context = SerializationContext(topic, MessageField.VALUE, list(record.headers))
            read = deserialize(record.value, context)
            assert isinstance(read, dict) and read["source"]["table"] == "items"
            context = SerializationContext(topic, MessageField.KEY, list(record.headers))
            assert deserialize(record.key, context) in ({"id": ONE}, {"id": TWO})
    names = {
        (envelope.op.value, (envelope.after or {}).get("name"))
        for _, envelope in shop.changes("public.items")
        if envelope
    }
    assert names == {("r", "snapshot"), ("c", "stream"), ("d", None)}
    with RegistryClient(url) as registry:
        inbox = Inbox(shop.settings.kafka, registry, shop.name)
        try:
            changes = [change for entry in shop.journal() for change in inbox.read(entry).changes]
        finally:
            inbox.close()
        assert [(change.op.value, change.key) for change in changes] == [("r", (ONE,)), ("c", (TWO,)), ("d", (ONE,))]
        shown = list(Tail(shop.settings.kafka, registry, topic).read(Wish()))
        assert {each["key"]["id"] for each in shown} == {ONE, TWO}
