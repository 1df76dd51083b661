"""What the demo shop's plan remembers of the tables it has filled, and the steps it is made of."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from instep_ops.demo.opening import COLUMNS, Opening

_FIRST_DAY = datetime(2026, 1, 5, 8, 0, tzinfo=UTC)
_STEP_TIME = timedelta(seconds=7)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement and how many rows it changes."""

    sql: str
    parameters: tuple[Any, ...]
    changes: int = 1


def insert(table: str, *values: Any) -> Statement:
    """A row into a table."""
    names = COLUMNS[table]
    return Statement(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})", values)


class Bag:
    """Numbers to draw from by chance, in constant time; only the draws decide their order."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._numbers = list(numbers)
        self._places = {number: place for place, number in enumerate(self._numbers)}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, number: int) -> None:
        """Put one in."""
        self._places[number] = len(self._numbers)
        self._numbers.append(number)

    def remove(self, number: int) -> None:
        """Take one out."""
        place, last = self._places.pop(number), self._numbers.pop()
        if last != number:
            self._numbers[place] = last
            self._places[last] = place

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def draw(self, chance: random.Random) -> int:
        """Look at one."""
        return self._numbers[chance.randrange(len(self._numbers))]


@dataclass(slots=True)
class Product:
    """What matters of a product: its price, the order lines and stock movements that name it."""

    price: Decimal
    lines: int = 0
    movements: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Order:
    """What matters of an order; lines are (product, warehouse, quantity)."""

    customer: int
    lines: list[tuple[int, int, int]]


class World:
    """The shop as the plan knows it.

    Args:
        seed: decides everything.
        scale: size of the first day.
    """

    def __init__(self, seed: int, scale: float) -> None:
        self.chance = random.Random(seed)
        self.opening = Opening(self.chance, scale, _FIRST_DAY)
        self.first_day = self.opening.tables()
        self.step = 0
        self.suppliers = len(self.first_day["suppliers"])
        self.warehouses = len(self.first_day["warehouses"])
        self.last = {"products": 0, "customers": 0, "orders": 0, "stock_movements": 0}
        self._remember_things()
        self._remember_orders()

    def _remember_things(self) -> None:
        day = self.first_day
        self.products = {row[0]: Product(row[3]) for row in day["products"]}
        self.product_bag, self.discontinued = Bag(self.products), Bag()
        self.stock = {(row[0], row[1]): [row[2], row[3]] for row in day["stock_levels"]}
        self.customers = {row[0]: 0 for row in day["customers"]}  # orders of each
        self.customer_bag = Bag(self.customers)
        self.movements: deque[tuple[int, int]] = deque()  # (id, product), the oldest first
        self.last |= {"products": len(self.products), "customers": len(self.customers)}

    def _remember_orders(self) -> None:
        day = self.first_day
        self.orders = {row[0]: Order(row[1], []) for row in day["orders"]}
        for order, _, product, quantity, _ in day["order_lines"]:
            self.orders[order].lines.append((product, 1, quantity))
            self.products[product].lines += 1
        self.by_status = {"new": Bag(), "paid": Bag(), "shipped": Bag(), "closed": Bag()}
        for row in day["orders"]:
            self.customers[row[1]] += 1
            self.by_status[row[2] if row[2] in self.by_status else "closed"].add(row[0])
        self.done = deque(row[0] for row in day["orders"] if row[2] not in ("new", "paid"))  # the oldest first
        self.last["orders"] = len(self.orders)
        self.most_orders = 2 * len(self.orders) + 50
        """More than this and the oldest go to the archive, so that a long run does not fill the disk."""

    @property
    def now(self) -> datetime:
        """The shop's own time: it depends on the step only, so that a replay gives the same rows."""
        return _FIRST_DAY + self.step * _STEP_TIME

    def number(self, table: str) -> int:
        """The next key of a table."""
        self.last[table] += 1
        return self.last[table]

    def any_product(self) -> int:
        """A product that is sold."""
        return self.product_bag.draw(self.chance)

    def products_of(self, count: int) -> list[int]:
        """Up to that many different products that are sold."""
        return sorted({self.any_product() for _ in range(count)})

    def move(self, product: int, warehouse: int, on_hand: int, reserved: int) -> Statement:
        """Change a stock level."""
        level = self.stock[product, warehouse]
        level[0] += on_hand
        level[1] += reserved
        return Statement(
            "UPDATE stock_levels SET on_hand = on_hand + %s, reserved = reserved + %s"
            " WHERE product_id = %s AND warehouse_id = %s",
            (on_hand, reserved, product, warehouse),
        )

    def movement(self, product: int, warehouse: int, quantity: int, reason: str, order: int | None = None) -> Statement:
        """Note why stock came or went."""
        number = self.number("stock_movements")
        self.movements.append((number, product))
        self.products[product].movements.add(number)
        return insert("stock_movements", number, product, warehouse, quantity, reason, order, self.now)

    def set_status(self, order: int, before: str, after: str) -> Statement:
        """Change an order's status."""
        self.by_status[before].remove(order)
        if after in ("shipped", "cancelled"):
            self.done.append(order)
        self.by_status[after if after in self.by_status else "closed"].add(order)
        return Statement("UPDATE orders SET status = %s::order_status WHERE id = %s", (after, order))

    def set_product(self, product: int, column: str, value: Any) -> Statement:
        """Change one column of a product."""
        return Statement(
            f"UPDATE products SET {column} = %s, updated_at = %s WHERE id = %s", (value, self.now, product)
        )
