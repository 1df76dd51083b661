"""The worker on a real store, Kafka, registry and state database."""

from __future__ import annotations

from tests.streams.flows.harness import Shop


def test_documents_follow_the_store(shop: Shop) -> None:
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        assert len(shop.folded("card")) == 50
        assert shop.folded("card") == shop.expected("card")
        shop.execute(
            "UPDATE suppliers SET name = 'new' WHERE id = 2",
            "UPDATE stock_levels SET on_hand = 99 WHERE product_id = 7",
            "DELETE FROM products WHERE id = 9",
            "UPDATE products SET id = 900, sku = 'moved' WHERE id = 10",
            "INSERT INTO products (id, sku) VALUES (100, 'bare')",
            "UPDATE orders SET state = 'done' WHERE id < 20",
        )
        shop.settle(capture, worker)
        for flow in ("card", "supplied"):
            assert shop.folded(flow) == shop.expected(flow)
        card = shop.folded("card")
        assert ("sku9",) not in card and card["moved",]["supplier"] == "supplier 1"
