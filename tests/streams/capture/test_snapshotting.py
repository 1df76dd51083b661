"""The first copy of the captured tables."""

from __future__ import annotations

import pytest
from tests.streams.capture.conftest import MakeShop

from instep_streams.capture import snapshotting


def test_a_table_without_a_key_is_copied_by_several_connections(
    make_shop: MakeShop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshotting, "_PART_ROWS", 500)
    shop = make_shop(
        "CREATE TABLE log (a int, b text)",
        "ALTER TABLE log REPLICA IDENTITY FULL",
        "INSERT INTO log SELECT i % 9, repeat('x', i % 300) FROM generate_series(1, 3000) i",
        "ANALYZE log",
        snapshot_threads=3,
    )
    with shop.capturing() as running:
        shop.await_captured(running)
        audit = shop.audit()
    assert audit.ok, audit.problems
    assert audit.rows == 3000
    assert len(list(shop.changes("public.log"))) == 3000
