"""Fixture `shop`: a store with the tables of a small shop and two flows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.harness import Shop

from instep.settings import KafkaSettings

SCHEMA = """
CREATE TYPE status AS ENUM ('open', 'done');
CREATE DOMAIN price AS numeric(12,2) CHECK (VALUE >= 0);
CREATE TABLE suppliers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE products (id int PRIMARY KEY, sku text NOT NULL UNIQUE, name text, price price, supplier_id int,
    tags text[], attrs jsonb, created_at timestamptz DEFAULT now());
CREATE TABLE stock_levels (product_id int, site text, on_hand int, PRIMARY KEY (product_id, site));
CREATE TABLE orders (id int PRIMARY KEY, product_id int, qty int, state status);
INSERT INTO suppliers SELECT i, 'supplier ' || i FROM generate_series(1, 5) i;
INSERT INTO products SELECT i, 'sku' || i, 'product ' || i, i * 1.10, i % 5 + 1, ARRAY['a', 'b"c'], '{"x": 1.50}'
    FROM generate_series(1, 50) i;
INSERT INTO stock_levels SELECT i, s, i FROM generate_series(1, 50) i, unnest(ARRAY['north', 'south']) s;
INSERT INTO orders SELECT i, i % 50 + 1, 1, 'open' FROM generate_series(1, 100) i;
"""
CARD = """SELECT p.sku, p.name, p.price, s.name AS supplier, p.tags, p.attrs, p.created_at,
    coalesce(sum(l.on_hand), 0) AS available,
    (SELECT count(*) FROM orders o WHERE o.product_id = p.id AND o.state = 'open') AS open_orders
FROM products p LEFT JOIN suppliers s ON s.id = p.supplier_id LEFT JOIN stock_levels l ON l.product_id = p.id
GROUP BY p.id, s.name"""
SUPPLIED = """SELECT s.id, s.name, count(p.id) AS products, sum(p.price) AS worth
FROM suppliers s LEFT JOIN products p ON p.supplier_id = s.id GROUP BY s.id"""


@pytest.fixture
def shop(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Shop]:
    made = Shop(tmp_path, postgres.database(), postgres.database(), kafka, registry)
    made.execute(SCHEMA)
    made.flow("card", "sku", CARD)
    made.flow("supplied", "id", SUPPLIED)
    yield made
    made.close()
