"""The shop's tables on its first day, as a seed decides them."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

from instep_ops.demo import words

Rows = list[tuple[Any, ...]]
_T = TypeVar("_T")

COLUMNS = {
    "suppliers": ("id", "name", "country", "email", "rating", "created_at"),
    "warehouses": ("id", "code", "name", "city"),
    "products": (
        "id", "sku", "name", "price", "supplier_id", "attributes", "tags", "manual", "discontinued", "updated_at",
    ),
    "stock_levels": ("product_id", "warehouse_id", "on_hand", "reserved", "reorder_point", "counted_at"),
    "customers": ("id", "code", "name", "email", "phone", "address", "created_at"),
    "orders": ("id", "customer_id", "status", "total", "note", "ordered_at"),
    "order_lines": ("order_id", "line", "product_id", "quantity", "unit_price"),
    "stock_movements": ("id", "product_id", "warehouse_id", "quantity", "reason", "order_id", "moved_at"),
}  # fmt: skip
"""Columns by table, in an order of tables that satisfies the foreign keys."""


class Opening:
    """Draws rows; the shop's later life draws new suppliers' products and customers from the same rules.

    Args:
        chance: every draw comes from it.
        scale: 1: 200 products, 150 customers, 300 orders.
        day: the shop's first moment.
    """

    def __init__(self, chance: random.Random, scale: float, day: datetime) -> None:
        self._chance = chance
        self._scale = scale
        self._day = day

    def tables(self) -> dict[str, Rows]:
        """Every table's rows, in the order of `COLUMNS`."""
        suppliers = [self._supplier(number) for number in range(1, self._count(20) + 1)]
        warehouses: Rows = [(number, *words.WAREHOUSES[number - 1]) for number in range(1, len(words.WAREHOUSES) + 1)]
        products = [self.product(number, self._day, len(suppliers)) for number in range(1, self._count(200) + 1)]
        customers = [self.customer(number, self._day) for number in range(1, self._count(150) + 1)]
        lines: Rows = []
        orders = [self._order(number, len(customers), products, lines) for number in range(1, self._count(300) + 1)]
        return {
            "suppliers": suppliers,
            "warehouses": warehouses,
            "products": products,
            "stock_levels": self._stock(products, len(warehouses), orders, lines),
            "customers": customers,
            "orders": orders,
            "order_lines": lines,
            "stock_movements": [],
        }

    def _count(self, at_scale_one: int) -> int:
        return max(2, round(at_scale_one * self._scale))

    def supplier_name(self) -> str:
        """A supplier's name."""
        return f"{self._pick(words.FIRMS)} {self._pick(words.TRADES)}"

    def _supplier(self, number: int) -> tuple[Any, ...]:
        rating = Decimal(self._chance.randrange(100, 501)) / 100
        return (
            number, self.supplier_name(), self._pick(words.COUNTRIES), self._maybe(f"sales{number}@example.com", 0.9),
            self._maybe(rating, 0.8), self._day - timedelta(days=self._chance.randrange(100, 2000)),
        )  # fmt: skip

    def product_name(self) -> str:
        """A product's name."""
        return f"{self._pick(words.ADJECTIVES)} {self._pick(words.THINGS)}"

    def price(self) -> Decimal:
        """A price in cents, most of them small."""
        return Decimal(495 + self._chance.randrange(180) ** 2 // 2) / 100

    def attributes(self) -> str:
        """A JSON object: colour, sizes, sometimes a null or something nested."""
        found: dict[str, Any] = {"colour": self._pick(words.ADJECTIVES), "weight_g": self._chance.randrange(9_000)}
        if self._chance.random() < 0.3:
            found["box"] = {"cm": [self._chance.randrange(5, 80) for _ in range(3)], "note": None}
        return json.dumps(found, ensure_ascii=False)

    def tags(self) -> list[str]:
        """Zero to three tags."""
        return sorted({self._pick(words.TAGS) for _ in range(self._chance.randrange(4))})

    def manual(self) -> str:
        """A text long enough to be stored out of line."""
        return "\n".join(f"{self.product_name()}, as sold in {self._pick(words.CITIES)}." for _ in range(90))

    def product(self, number: int, now: datetime, suppliers: int) -> tuple[Any, ...]:
        """A product's row."""
        supplier = self._maybe(self._chance.randrange(suppliers) + 1, 0.97)
        return (
            number, f"SKU-{number:05d}", self.product_name(), self.price(), supplier, self.attributes(), self.tags(),
            self._maybe(self.manual(), 0.1), False, now,
        )  # fmt: skip

    def customer(self, number: int, now: datetime) -> tuple[Any, ...]:
        """A customer's row."""
        name = f"{self._pick(words.GIVEN)} {self._pick(words.FAMILY)}"
        street = f"{self._pick(words.ADJECTIVES)} Street {number % 90 + 1}"
        address = json.dumps({"city": self._pick(words.CITIES), "street": street}, ensure_ascii=False)
        return (
            number, f"C-{number:05d}", name, self.email(number),
            self._maybe(f"+49 30 {self._chance.randrange(10**6, 10**7)}", 0.5),
            self._maybe(address, 0.9), now,
        )  # fmt: skip

    def email(self, number: int) -> str | None:
        """A customer's e-mail address, or none."""
        return self._maybe(f"customer{number}.{self._chance.randrange(100)}@example.com", 0.85)

    def note(self) -> str | None:
        """What a customer writes on an order, mostly nothing."""
        return self._maybe(self._pick(words.NOTES), 0.15)

    def _order(self, number: int, customers: int, products: Rows, lines: Rows) -> tuple[Any, ...]:
        total = Decimal(0)
        for line in range(1, self._chance.randrange(1, 4) + 1):
            product = products[self._chance.randrange(len(products))]
            quantity = self._chance.randrange(1, 4)
            lines.append((number, line, product[0], quantity, product[3]))
            total += quantity * product[3]
        status = self._chance.choices(("new", "paid", "shipped", "cancelled", "returned"), (2, 2, 12, 1, 1))[0]
        when = self._day - timedelta(minutes=self._chance.randrange(200_000))
        return (number, self._chance.randrange(customers) + 1, status, total, self.note(), when)

    def _stock(self, products: Rows, warehouses: int, orders: Rows, lines: Rows) -> Rows:
        """Stock of every product in every warehouse; what open orders hold is reserved in the first one."""
        is_open = {order[0] for order in orders if order[2] in ("new", "paid")}
        held: dict[int, int] = {}
        for order, _, product, quantity, _ in lines:
            if order in is_open:
                held[product] = held.get(product, 0) + quantity
        return [
            self.stock_level(product[0], warehouse, held.get(product[0], 0) if warehouse == 1 else 0)
            for product in products
            for warehouse in range(1, warehouses + 1)
        ]

    def stock_level(self, product: int, warehouse: int, reserved: int = 0) -> tuple[Any, ...]:
        """A stock level's row."""
        on_hand = reserved + self._chance.randrange(60)
        counted = self._maybe(self._day - timedelta(days=self._chance.randrange(90)), 0.7)
        return (product, warehouse, on_hand, reserved, 5 * self._chance.randrange(1, 5), counted)

    def _pick(self, choices: tuple[str, ...]) -> str:
        return choices[self._chance.randrange(len(choices))]

    def _maybe(self, value: _T, probability: float) -> _T | None:
        return value if self._chance.random() < probability else None
