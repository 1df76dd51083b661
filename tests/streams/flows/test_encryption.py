"""Encrypted columns: ciphertexts in Kafka, real values in the replica, and so in the flows."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.harness import Shop

from instep.settings import EncryptionSettings, KafkaSettings
from instep.topics import data_topic
from instep_connectors.kafka import read_topic
from instep_schemas.ciphers import hold, new_key


def test_flows_see_the_real_values(
    tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> None:
    shop = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    own = shop.settings.sources[shop.name].model_copy(update={"tags": {"public.people.born": ("PII",)}})
    rule = {"algorithm": "AES256_GCM", "kek": "a secret", "dek": new_key("a secret", "AES256_GCM")}
    encryption = {"PII": EncryptionSettings.model_validate(rule)}
    shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}, "encryption": encryption})
    shop.execute(
        "CREATE TABLE people (id int PRIMARY KEY, name text, born date)",
        "INSERT INTO people VALUES (1, 'Ada', '1815-12-10'), (2, 'Alan', NULL)",
    )
    shop.flow("person", "id", "SELECT p.id, p.name, extract(year FROM p.born)::int AS year FROM people p")
    try:
        with shop.capturing() as capture, shop.working() as worker:
            shop.settle(capture, worker)
            shop.execute("UPDATE people SET born = '1912-06-23' WHERE id = 2")
            shop.settle(capture, worker)
            found = {document["name"]: document["year"] for document in shop.folded("person").values()}
    finally:
        hold({})
        shop.close()
    assert found == {"Ada": 1815, "Alan": 1912}
    values = [record.value or b"" for record in read_topic(kafka, data_topic(shop.name, "public", "people"))]
    assert len(values) == 3 and not any(b"1815-12-10" in value or b"1912-06-23" in value for value in values)
