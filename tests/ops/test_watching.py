"""`instep flow watch` beside a real worker: what changed, and because of which change of which row."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.streams.flows.conftest import shop  # noqa: F401  # a fixture
from tests.streams.flows.harness import Shop

from instep.change import Op
from instep_ops.watching import Seen, differences, watch


@contextmanager
def watching(shop: Shop, flow: str) -> Iterator[queue.Queue[Seen | BaseException]]:  # noqa: F811  # a parameter
    seen: queue.Queue[Seen | BaseException] = queue.Queue()
    ready = threading.Event()

    def follow() -> None:
        try:
            for each in watch(shop.settings, shop.named(flow), ready.set):
                seen.put(each)
        except BaseException as exc:
            seen.put(exc)
            ready.set()

    threading.Thread(target=follow, daemon=True).start()
    assert ready.wait(60)
    yield seen


def next_of(seen: queue.Queue[Seen | BaseException]) -> Seen:
    found = seen.get(timeout=60)
    if isinstance(found, BaseException):
        raise found
    return found


def test_each_document_is_told_with_its_cause(shop: Shop) -> None:  # noqa: F811  # the fixture above
    with shop.capturing() as capture, shop.working() as worker:
        shop.settle(capture, worker)
        with watching(shop, "card") as seen:
            shop.execute("UPDATE stock_levels SET on_hand = 99 WHERE product_id = 7 AND site = 'north'")
            found = next_of(seen)
            assert (found.document.key, found.what, found.fields) == (("sku7",), "changed", (("available", 14, 106),))
            (cause,) = found.causes
            assert (cause.table, cause.op, cause.key) == ("public.stock_levels", Op.UPDATE, ("7", "north"))
            assert "on_hand" in cause.columns and cause.position == found.document.position
            assert any("available: 14 → 106" in line for line in found.lines())
            assert found.to_dict()["causes"][0]["op"] == "update"

            shop.execute("UPDATE suppliers SET name = 'new' WHERE id = 3")
            for _ in range(10):
                renamed = next_of(seen)
                assert renamed.fields == (("supplier", "supplier 3", "new"),)
                assert [(each.table, each.key) for each in renamed.causes] == [("public.suppliers", ("3",))]

            shop.execute("INSERT INTO products (id, sku) VALUES (100, 'bare')")
            added = next_of(seen)
            assert (added.document.key, added.what) == (("bare",), "new")
            assert [each.op for each in added.causes] == [Op.CREATE]

            shop.execute("DELETE FROM products WHERE id = 100")
            gone = next_of(seen)
            assert (gone.document.key, gone.what, gone.fields) == (("bare",), "gone", ())
    assert seen.empty()


def test_what_differs() -> None:
    assert differences(None, {"a": None}) == ("new", (("a", None, None),))
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": None}) == ("changed", (("b", 2, None),))
    assert differences({"a": 1}, {"a": 1}) == ("same", ())
    assert differences({"a": 1}, None) == ("gone", ()) and differences(None, None) == ("same", ())
