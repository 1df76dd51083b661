"""The product card by hand on stock Faust tables: `-m benchmarks.flows.stock BOOTSTRAP REGISTRY SOURCE FOLDER`.

One worker, so that no stream has to be partitioned anew for its joins. Records are decoded by Instep's code; all else
is Faust's and aiokafka's as they come.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import faust

from benchmarks.flows.workload import TABLES
from instep.settings import RegistrySettings
from instep_schemas.client import RegistryClient
from instep_schemas.decode import compile_change_decoder, compile_key_texts

TOPIC = "stock.card"
READY = "stock Faust is ready"
PARTITIONS = 4
_APP = "stock-card"
_INDEXES = ("products_of", "levels_of", "lines_of")
CHANGELOGS = [f"{_APP}-stock_{name}-changelog" for name in (*TABLES, *_INDEXES)]
"""Made before the first start: records that come before Faust has seen its own new topics end its agents."""

_Row = dict[str, str]


class Cards:
    """The tables, and how a card is made of them. What a row leads to is kept beside it: Faust's tables have no index.

    Args:
        app: Faust's.
    """

    def __init__(self, app: Any) -> None:
        def table(name: str) -> Any:
            return app.Table(f"stock_{name}", partitions=PARTITIONS)

        self._rows = {name: table(name) for name in TABLES}
        self._products_of, self._levels_of, self._lines_of = map(table, _INDEXES)
        self._out = app.topic(TOPIC, partitions=PARTITIONS, key_serializer="raw", value_serializer="raw")
        self._links = {
            "products": ("supplier_id", self._products_of), "stock_levels": ("product_id", self._levels_of),
            "order_lines": ("product_id", self._lines_of),
        }  # fmt: skip

    async def change(self, name: str, key: str, row: _Row | None) -> None:
        """Take one change and send the cards that it concerns."""
        before = self._rows[name].get(key)
        if row is None:
            self._rows[name].pop(key, None)
        else:
            self._rows[name][key] = row
        for each in sorted(self._link(name, key, before, row)):
            await self._out.send(key=each.encode(), value=self._card(each))

    def _link(self, name: str, key: str, before: _Row | None, row: _Row | None) -> set[str]:
        """Note what the row leads to now; gives the products concerned."""
        if name == "suppliers":
            return set(self._products_of.get(key) or ())
        if name == "orders":
            return set()  # orders do not change in this workload
        column, index = self._links[name]
        found = set()
        for image, there in ((before, False), (row, True)):
            if image is not None:
                held = set(index.get(image[column]) or ())
                held = held | {key} if there else held - {key}
                index[image[column]] = sorted(held)
                found.add(image[column])
        return {key} if name == "products" else found

    def _card(self, key: str) -> bytes | None:
        product = self._rows["products"].get(key)
        if product is None or product["active"] != "t":
            return None
        supplier = self._rows["suppliers"].get(product["supplier_id"]) or {"name": None}
        levels = [self._rows["stock_levels"][each] for each in self._levels_of.get(key) or ()]
        lines = [self._rows["order_lines"][each] for each in self._lines_of.get(key) or ()]
        orders = [self._rows["orders"].get(each["order_id"]) for each in lines]
        placed = [each["placed_at"] for each in orders if each is not None and each["status"] == "open"]
        available = sum(int(each["on_hand"]) - int(each["reserved"]) for each in levels)
        low = sum(int(each["on_hand"]) < int(each["reorder_point"]) for each in levels)
        card = [
            product["sku"], product["name"], product["price"], supplier["name"], str(available), str(low),
            max(placed, default=None),
        ]  # fmt: skip
        return json.dumps(card).encode()


def made(bootstrap: str, registry: str, source: str, folder: str) -> Any:
    """The app."""
    app = faust.App(
        _APP, broker=f"kafka://{bootstrap}", store="memory://", datadir=folder, web_enabled=False,
        topic_partitions=PARTITIONS, consumer_auto_offset_reset="earliest",
    )  # fmt: skip
    cards, client, decoders = Cards(app), RegistryClient.of(RegistrySettings(url=registry)), dict[bytes, Any]()

    def decoder(data: bytes, compiled: Any) -> Any:
        if data[:5] not in decoders:
            decoders[data[:5]] = compiled(client.schema(int.from_bytes(data[1:5], "big")))
        return decoders[data[:5]]

    def follow(name: str) -> None:
        topic = app.topic(f"{source}.public.{name}", key_serializer="raw", value_serializer="raw", value_type=bytes)

        async def work(stream: Any) -> None:
            async for event in stream.events():
                if event.value is not None:
                    (key,) = decoder(event.key, compile_key_texts)(event.key)
                    _, row = decoder(event.value, compile_change_decoder)(event.value)
                    await cards.change(name, key, row)

        app.agent(topic, name=name)(work)

    for name in TABLES:
        follow(name)

    @app.task
    async def told() -> None:
        print(READY, flush=True)

    return app


if __name__ == "__main__":
    faust_app = made(*sys.argv[1:5])
    sys.argv = ["stock", "worker", "--loglevel=warn", "--without-web"]
    faust_app.main()
