"""Tagged columns never reach Kafka in clear, and capture refuses what would let them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.streams.capture.conftest import MakeShop
from tests.streams.capture.harness import Shop

from instep.change import Op
from instep.errors import SourceError
from instep.settings import EncryptionSettings
from instep.topics import data_topic
from instep_connectors.kafka import topics
from instep_schemas.ciphers import hold, new_key

CUSTOMERS = "CREATE TABLE customers (id int PRIMARY KEY, email text NOT NULL, born date, note text)"
PII = {"algorithm": "AES256_SIV", "kek": "a secret", "dek": new_key("a secret", "AES256_SIV")}
TAGS: dict[str, tuple[str, ...]] = {"public.customers.email": ("PII",), "public.customers.born": ("SECRET",)}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    hold({})


def tagged(shop: Shop, tags: dict[str, tuple[str, ...]], **rules: Any) -> None:
    """Give a shop other tags and rules."""
    own = shop.settings.sources[shop.name].model_copy(update={"tags": tags})
    encryption = {tag: EncryptionSettings.model_validate(rule) for tag, rule in rules.items()}
    shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}, "encryption": encryption})


def test_tagged_columns_are_encrypted_and_read_back(make_shop: MakeShop) -> None:
    secret = {"kek": "a secret", "dek": new_key("a secret", "AES256_GCM")}
    shop = make_shop(CUSTOMERS, "ALTER TABLE customers REPLICA IDENTITY FULL")
    tagged(shop, TAGS, PII=PII, SECRET=secret)
    shop.execute("INSERT INTO customers VALUES (1, 'ada@example.org', '1815-12-10', 'in clear')")
    with shop.capturing() as running:
        shop.execute(
            "INSERT INTO customers VALUES (2, 'ada@example.org', NULL, NULL)",
            "UPDATE customers SET email = 'countess@example.org' WHERE id = 1",
        )
        shop.await_captured(running)
        hold({})  # another process
        audit = shop.audit()
        assert audit.ok, audit.problems
    values = [record.value for record in shop.records("public.customers") if record.value is not None]
    assert len(values) == 3
    for value in values:
        assert b"example.org" not in value and b"1815-12-10" not in value
    assert any(b"in clear" in value for value in values)
    rows = {(e.op, (e.after or {})["id"]): e for _, e in shop.changes("public.customers") if e is not None}
    assert (rows[Op.READ, "1"].after or {})["born"] == "1815-12-10"
    updated = rows[Op.UPDATE, "1"]
    assert ((updated.before or {})["email"], (updated.after or {})["email"]) == (
        "ada@example.org",
        "countess@example.org",
    )
    assert rows[Op.CREATE, "2"].after == {"id": "2", "email": "ada@example.org", "born": None, "note": None}


def test_a_tag_without_a_rule_stops_capture_before_the_first_record(make_shop: MakeShop) -> None:
    shop = make_shop(CUSTOMERS)
    tagged(shop, TAGS, PII=PII)
    failure = shop.fails()
    assert isinstance(failure, SourceError) and "there is no rule encryption.SECRET" in str(failure)
    if data_topic(shop.name, "public", "customers") in topics(shop.settings.kafka):
        assert shop.records("public.customers") == []


def test_a_tag_that_went_away_stops_capture(make_shop: MakeShop) -> None:
    tags: dict[str, tuple[str, ...]] = {"public.customers.email": ("PII",)}
    shop = make_shop(CUSTOMERS, "INSERT INTO customers VALUES (1, 'ada@example.org')")
    tagged(shop, tags, PII=PII)
    with shop.capturing():
        pass
    tagged(shop, {})
    shop.execute("INSERT INTO customers VALUES (2, 'bob@example.org')")
    failure = shop.fails()
    assert isinstance(failure, SourceError) and "'email' of public.customers was encrypted until now" in str(failure)
    tagged(shop, tags, PII={"algorithm": "plain"})
    with shop.capturing():
        pass
    hold({"PII": EncryptionSettings.model_validate(PII)})
    assert {(e.after or {})["email"] for _, e in shop.changes("public.customers") if e} == {
        "ada@example.org",
        "bob@example.org",
    }
