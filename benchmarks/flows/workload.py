"""A shop in memory, and its changes: the same for the engine, the whole path and PostgreSQL alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

from instep_streams.flows.catalog import Column, Table

Row = dict[str, str]


class Change(NamedTuple):
    """One change: `row` is the new row, or for a delete the key."""

    table: str
    op: Literal["c", "u", "d"]
    row: Row


def _table(table: str, **columns: str) -> Table:
    made = tuple(Column(each, sql_type, each == "id") for each, sql_type in columns.items())
    return Table("public", table, made, ("id",))


TABLES = {
    table.name: table
    for table in (
        _table("suppliers", id="bigint", name="text"),
        _table("products", id="bigint", sku="text", name="text", price="numeric(12,2)", supplier_id="bigint",
               active="boolean"),
        _table("stock_levels", id="bigint", product_id="bigint", on_hand="integer", reserved="integer",
               reorder_point="integer"),
        _table("orders", id="bigint", status="text", placed_at="timestamp with time zone"),
        _table("order_lines", id="bigint", order_id="bigint", product_id="bigint", qty="integer"),
    )
}  # fmt: skip
CARD = """SELECT p.id AS product_id, p.sku, p.name, p.price, s.name AS supplier,
    coalesce(sum(l.on_hand - l.reserved), 0) AS available,
    count(*) FILTER (WHERE l.on_hand < l.reorder_point) AS low_sites, max(o.placed_at) AS last_order
FROM products p
LEFT JOIN suppliers s ON s.id = p.supplier_id
LEFT JOIN stock_levels l ON l.product_id = p.id
LEFT JOIN (SELECT ol.product_id, max(o.placed_at) AS placed_at FROM order_lines ol JOIN orders o ON o.id = ol.order_id
    WHERE o.status = 'open' GROUP BY ol.product_id) o ON o.product_id = p.id
WHERE p.active GROUP BY p.id, s.name"""
OTHERS = (
    "SELECT id AS product_id, name, price FROM products WHERE active",
    "SELECT p.id AS product_id, p.sku, s.name AS supplier FROM products p JOIN suppliers s ON s.id = p.supplier_id",
    "SELECT product_id, sum(on_hand) AS on_hand, count(*) AS sites FROM stock_levels GROUP BY product_id",
    "SELECT l.product_id, min(l.on_hand) AS least FROM stock_levels l JOIN products p ON p.id = l.product_id"
    " GROUP BY l.product_id",
    "SELECT product_id, sum(qty) AS ordered FROM order_lines GROUP BY product_id",
    "SELECT p.id AS product_id, p.name FROM products p WHERE EXISTS"
    " (SELECT 1 FROM stock_levels l WHERE l.product_id = p.id AND l.on_hand < l.reorder_point)",
    "SELECT p.id AS product_id, p.price, (SELECT count(*) FROM order_lines ol WHERE ol.product_id = p.id) AS lines"
    " FROM products p",
    "SELECT DISTINCT ON (l.product_id) l.product_id, l.id AS site, l.on_hand FROM stock_levels l"
    " ORDER BY l.product_id, l.on_hand DESC, l.id",
    "SELECT s.id AS product_id, s.name FROM suppliers s",
)


class World:
    """The shop's rows; `changes` draws from them and keeps them up to date.

    Rows are made when they are asked for, and only changed ones are held: a million products have 18.5 million rows.

    Args:
        products: how many; the other tables in proportion (10 lines, 5 stock levels, 2.5 orders per product).
    """

    def __init__(self, products: int) -> None:
        self._rnd = random.Random(7)
        self.products, self.suppliers = products, max(10, products // 100)
        self._orders, self._next_line = products * 5 // 2, products * 10 + 1
        self._counts = {
            "suppliers": self.suppliers, "products": products, "stock_levels": 5 * products, "orders": self._orders,
            "order_lines": 10 * products,
        }  # fmt: skip
        self._changed: dict[str, dict[int, Row | None]] = {name: {} for name in self._counts}

    def rows(self) -> Iterator[tuple[str, Iterator[Row]]]:
        """Every table's rows as they are now."""
        for name, count in self._counts.items():
            numbers = itertools.chain(range(1, count + 1), (each for each in self._changed[name] if each > count))
            yield name, (row for number in numbers if (row := self._row(name, number)) is not None)

    def _row(self, table: str, number: int) -> Row | None:
        changed = self._changed[table]
        if number in changed:
            return changed[number]
        return self._first(table, number) if 1 <= number <= self._counts[table] else None

    def _first(self, table: str, i: int) -> Row:
        """A row as it is at the beginning."""
        if table == "suppliers":
            return {"id": str(i), "name": f"Supplier {i}"}
        if table == "products":
            return {"id": str(i), "sku": f"SKU-{i}", "name": f"Product {i}", "price": f"{i % 500}.{i % 100:02}",
                    "supplier_id": str(i % self.suppliers + 1), "active": "f" if i % 20 == 0 else "t"}  # fmt: skip
        if table == "stock_levels":
            return {"id": str(i), "product_id": str((i - 1) // 5 + 1), "on_hand": str(_scattered(i, 100)),
                    "reserved": str(_scattered(i + 1, 5)), "reorder_point": "20"}  # fmt: skip
        if table == "orders":
            return {"id": str(i), "status": "done" if i % 4 else "open",
                    "placed_at": f"2026-{i % 12 + 1:02}-{i % 28 + 1:02} {i % 24:02}:00:00+00"}  # fmt: skip
        return {"id": str(i), "order_id": str((i - 1) // 4 + 1), "product_id": str(_scattered(i, self.products) + 1),
                "qty": str(_scattered(i + 1, 8) + 1)}  # fmt: skip

    def changes(self, count: int, *, rename: bool = True) -> list[Change]:
        """70 % stock, 15 % order lines, 10 % prices, 4 % moves to another supplier or product, 1 % supplier renames."""
        return [self._one(self._rnd.random() if rename else self._rnd.random() * 0.99) for _ in range(count)]

    def _one(self, chance: float) -> Change:
        product = self._rnd.randrange(1, self.products + 1)
        if chance < 0.70:
            return self._set("stock_levels", (product - 1) * 5 + self._rnd.randrange(1, 6), "on_hand", self._below(100))
        if chance < 0.75:
            return self._new_line(product)
        line = self._rnd.randrange(1, self._next_line)
        if chance < 0.80 and self._row("order_lines", line) is not None:
            self._changed["order_lines"][line] = None
            return Change("order_lines", "d", {"id": str(line)})
        if chance < 0.85:
            return self._line(line, "qty", self._below(9), product)
        if chance < 0.95:
            return self._set("products", product, "price", f"{self._below(500)}.{self._rnd.randrange(100):02}")
        if chance < 0.97:
            return self._set("products", product, "supplier_id", str(self._rnd.randrange(1, self.suppliers + 1)))
        if chance < 0.99:
            return self._line(line, "product_id", str(product), product)
        return self.rename(self._rnd.randrange(1, self.suppliers + 1))

    def rename(self, supplier: int) -> Change:
        """A supplier's name changes."""
        return self._set("suppliers", supplier, "name", f"S{supplier} {self._rnd.random()}")

    def gather(self, supplier: int, count: int) -> list[Change]:
        """So many products move to one supplier."""
        return [self._set("products", i, "supplier_id", str(supplier)) for i in range(1, count + 1)]

    def prices(self, products: range, count: int) -> list[Change]:
        """A new price for so many of these products, one change each."""
        chosen = self._rnd.sample(products, min(count, len(products)))
        return [self._set("products", i, "price", f"{600 + i % 300}.{i % 100:02}") for i in chosen]

    def _below(self, limit: int) -> str:
        return str(self._rnd.randrange(limit))

    def _set(self, table: str, number: int, column: str, value: str) -> Change:
        before = self._row(table, number)
        assert before is not None
        row = self._changed[table][number] = before | {column: value}
        return Change(table, "u", row)

    def _line(self, number: int, column: str, value: str, product: int) -> Change:
        if self._row("order_lines", number) is None:
            return self._new_line(product)
        return self._set("order_lines", number, column, value)

    def _new_line(self, product: int) -> Change:
        number, self._next_line = self._next_line, self._next_line + 1
        row = {"id": str(number), "order_id": str(self._rnd.randrange(1, self._orders + 1)),
               "product_id": str(product), "qty": "1"}  # fmt: skip
        self._changed["order_lines"][number] = row
        return Change("order_lines", "c", row)


def _scattered(number: int, below: int) -> int:
    """The same for the same number, and spread over all."""
    return (number * 2_654_435_761 >> 8) % below
