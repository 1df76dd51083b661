"""What happens in the demo shop: each function is one kind of transaction and gives its statements.

An empty list means that it cannot happen now (no order to pay for, no product to delete).
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from instep_ops.demo.world import Order, Product, Statement, World, insert

Happening = Callable[[World], list[Statement]]
LIFE: dict[str, Happening] = {}
WEIGHTS: dict[str, float] = {}
_TRIES = 20


def _happens(weight: float) -> Callable[[Happening], Happening]:
    def register(happening: Happening) -> Happening:
        LIFE[happening.__name__] = happening
        WEIGHTS[happening.__name__] = weight
        return happening

    return register


@_happens(26)
def order(world: World) -> list[Statement]:
    """A customer orders one to three products; the stock is reserved."""
    number, customer = world.last["orders"] + 1, world.customer_bag.draw(world.chance)
    placed, total = Order(customer, []), Decimal(0)
    rows: list[Statement] = []
    for product in world.products_of(world.chance.randrange(1, 4)):
        warehouse, quantity = world.chance.randrange(world.warehouses) + 1, world.chance.randrange(1, 4)
        on_hand, reserved = world.stock[product, warehouse]
        if on_hand - reserved < quantity:
            continue
        price = world.products[product].price
        placed.lines.append((product, warehouse, quantity))
        rows.append(insert("order_lines", number, len(placed.lines), product, quantity, price))
        rows.append(world.move(product, warehouse, 0, quantity))
        world.products[product].lines += 1
        total += quantity * price
    if not rows:
        return []
    world.orders[world.number("orders")] = placed
    world.by_status["new"].add(number)
    world.customers[customer] += 1
    return [insert("orders", number, customer, "new", total, world.opening.note(), world.now), *rows]


@_happens(23)
def pay(world: World) -> list[Statement]:
    """A customer pays."""
    if not world.by_status["new"]:
        return []
    return [world.set_status(world.by_status["new"].draw(world.chance), "new", "paid")]


@_happens(21)
def ship(world: World) -> list[Statement]:
    """A paid order leaves the warehouse."""
    if not world.by_status["paid"]:
        return []
    number = world.by_status["paid"].draw(world.chance)
    rows = [world.set_status(number, "paid", "shipped")]
    for product, warehouse, quantity in world.orders[number].lines:
        rows.append(world.move(product, warehouse, -quantity, -quantity))
        rows.append(world.movement(product, warehouse, -quantity, "shipped", number))
    return rows


@_happens(4)
def cancel(world: World) -> list[Statement]:
    """An order is cancelled; its stock is free again."""
    if not world.by_status["new"]:
        return []
    number = world.by_status["new"].draw(world.chance)
    lines = world.orders[number].lines
    return [
        world.set_status(number, "new", "cancelled"),
        *(world.move(product, warehouse, 0, -quantity) for product, warehouse, quantity in lines),
    ]


@_happens(3)
def take_back(world: World) -> list[Statement]:
    """A shipped order comes back."""
    if not world.by_status["shipped"]:
        return []
    number = world.by_status["shipped"].draw(world.chance)
    rows = [world.set_status(number, "shipped", "returned")]
    for product, warehouse, quantity in world.orders[number].lines:
        rows.append(world.move(product, warehouse, quantity, 0))
        rows.append(world.movement(product, warehouse, quantity, "returned", number))
    return rows


@_happens(10)
def receive(world: World) -> list[Statement]:
    """Goods arrive in one warehouse."""
    warehouse = world.chance.randrange(world.warehouses) + 1
    rows: list[Statement] = []
    for product in world.products_of(world.chance.randrange(1, 5)):
        quantity = world.chance.randrange(5, 40)
        rows.append(world.move(product, warehouse, quantity, 0))
        rows.append(world.movement(product, warehouse, quantity, "received"))
    return rows


@_happens(2)
def count(world: World) -> list[Statement]:
    """A warehouse is counted, and less is there than was thought."""
    product, warehouse = world.any_product(), world.chance.randrange(world.warehouses) + 1
    on_hand, reserved = world.stock[product, warehouse]
    if on_hand == reserved:
        return []
    lost = -world.chance.randrange(1, on_hand - reserved + 1)
    counted = Statement(
        "UPDATE stock_levels SET counted_at = %s WHERE product_id = %s AND warehouse_id = %s",
        (world.now, product, warehouse),
    )
    return [world.move(product, warehouse, lost, 0), counted, world.movement(product, warehouse, lost, "counted")]


@_happens(8)
def price(world: World) -> list[Statement]:
    """Prices change, sometimes several in one transaction."""
    rows = []
    for product in world.products_of(world.chance.choices((1, 4), (9, 1))[0]):
        world.products[product].price = world.opening.price()
        rows.append(world.set_product(product, "price", world.products[product].price))
    return rows


@_happens(3)
def rename(world: World) -> list[Statement]:
    """A product gets another name."""
    return [world.set_product(world.any_product(), "name", world.opening.product_name())]


@_happens(0.7)
def rename_supplier(world: World) -> list[Statement]:
    """A supplier gets another name: every card of its products changes."""
    supplier = world.chance.randrange(world.suppliers) + 1
    return [Statement("UPDATE suppliers SET name = %s WHERE id = %s", (world.opening.supplier_name(), supplier))]


@_happens(2)
def change_supplier(world: World) -> list[Statement]:
    """A product is bought elsewhere, now and then nowhere."""
    supplier = world.chance.randrange(world.suppliers) + 1 if world.chance.random() < 0.9 else None
    return [world.set_product(world.any_product(), "supplier_id", supplier)]


@_happens(2)
def describe(world: World) -> list[Statement]:
    """A product's attributes, tags or manual change."""
    column = world.chance.choices(("attributes", "tags", "manual"), (6, 5, 1))[0]
    return [world.set_product(world.any_product(), column, getattr(world.opening, column)())]


@_happens(3)
def edit_customer(world: World) -> list[Statement]:
    """A customer's e-mail address changes or is taken away."""
    customer = world.customer_bag.draw(world.chance)
    return [
        Statement("UPDATE customers SET email = %s WHERE id = %s", (world.opening.email(customer), customer)),
    ]


@_happens(1.5)
def new_customer(world: World) -> list[Statement]:
    """Someone registers."""
    number = world.number("customers")
    world.customers[number] = 0
    world.customer_bag.add(number)
    return [insert("customers", *world.opening.customer(number, world.now))]


@_happens(0.8)
def delete_customer(world: World) -> list[Statement]:
    """A customer without orders asks to be forgotten."""
    drawn = (world.customer_bag.draw(world.chance) for _ in range(_TRIES))
    customer = next((customer for customer in drawn if not world.customers[customer]), None)
    if customer is None or len(world.customers) < 3:
        return []
    del world.customers[customer]
    world.customer_bag.remove(customer)
    return [Statement("DELETE FROM customers WHERE id = %s", (customer,))]


@_happens(1.2)
def new_product(world: World) -> list[Statement]:
    """A product is listed, with its stock levels."""
    number = world.number("products")
    row = world.opening.product(number, world.now, world.suppliers)
    levels = [world.opening.stock_level(number, warehouse + 1) for warehouse in range(world.warehouses)]
    world.products[number] = Product(row[3])
    world.product_bag.add(number)
    world.stock |= {(level[0], level[1]): [level[2], level[3]] for level in levels}
    return [insert("products", *row), *(insert("stock_levels", *level) for level in levels)]


@_happens(1)
def discontinue(world: World) -> list[Statement]:
    """A product is taken from the shop, or comes back."""
    if world.discontinued and world.chance.random() < 0.5:
        product = world.discontinued.draw(world.chance)
        world.discontinued.remove(product)
        world.product_bag.add(product)
        return [world.set_product(product, "discontinued", False)]
    if len(world.product_bag) < 3:
        return []
    product = world.any_product()
    world.product_bag.remove(product)
    world.discontinued.add(product)
    return [world.set_product(product, "discontinued", True)]


@_happens(1.5)
def delete_product(world: World) -> list[Statement]:
    """A product that nobody ordered disappears with its stock levels and movements."""
    drawn = (world.any_product() for _ in range(_TRIES))
    product = next((product for product in drawn if not world.products[product].lines), None)
    if product is None or len(world.product_bag) < 3:
        return []
    known = world.products.pop(product)
    world.product_bag.remove(product)
    for warehouse in range(1, world.warehouses + 1):
        del world.stock[product, warehouse]
    rows = [Statement("DELETE FROM stock_levels WHERE product_id = %s", (product,), world.warehouses)]
    if known.movements:
        rows.insert(0, Statement("DELETE FROM stock_movements WHERE product_id = %s", (product,), len(known.movements)))
    return [*rows, Statement("DELETE FROM products WHERE id = %s", (product,))]


@_happens(0)
def archive(world: World) -> list[Statement]:
    """The oldest order that is done, and the oldest stock movements, go to the archive."""
    rows: list[Statement] = []
    for _ in range(min(3, len(world.done))):
        rows += _forget(world, world.done.popleft())
    while len(world.movements) > 2 * world.most_orders:
        number, product = world.movements.popleft()
        if product in world.products and number in world.products[product].movements:
            world.products[product].movements.remove(number)
            rows.append(Statement("DELETE FROM stock_movements WHERE id = %s", (number,)))
    return rows


def _forget(world: World, number: int) -> list[Statement]:
    gone = world.orders.pop(number)
    world.by_status["shipped" if number in world.by_status["shipped"] else "closed"].remove(number)
    world.customers[gone.customer] -= 1
    for product, _, _ in gone.lines:
        world.products[product].lines -= 1
    return [
        Statement("DELETE FROM order_lines WHERE order_id = %s", (number,), len(gone.lines)),
        Statement("DELETE FROM orders WHERE id = %s", (number,)),
    ]
