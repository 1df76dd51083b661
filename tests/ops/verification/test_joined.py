"""A flow over two stores: proven while both change, and asked of both by `flow check` and `flow run`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.joined import PRODUCTS, Joined

from instep.change import Position
from instep.errors import ConfigError
from instep.settings import KafkaSettings
from instep_ops.assemble import programs
from instep_ops.explaining import explain
from instep_ops.flows import check_all, evaluate
from instep_ops.status import read
from instep_ops.stores import opened
from instep_ops.verify import Report, verify
from instep_streams.replay.run import plan

_ORDER = """SELECT datcollate, datctype, pg_encoding_to_char(encoding) FROM pg_database
WHERE datname = current_database()"""


@pytest.fixture
def joined(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Joined]:
    made = Joined(tmp_path, postgres.database(), postgres.database(), postgres.database(), kafka, registry)
    yield made
    made.close()


def _prove(joined: Joined) -> Report:
    return asyncio.run(verify(joined.settings, target=False))


def _keys(report: Report) -> set[tuple[str, ...]]:
    return {each.key for each in report.differences}


@pytest.mark.slow
def test_proven_while_both_change_and_a_wrong_document_is_found(joined: Joined) -> None:
    with joined.capturing_both() as captures, joined.working() as worker:
        with joined.moving():
            report = _prove(joined)
            assert report.differences == []
        joined.settle_both(worker, *captures)
        report = _prove(joined)
        assert report.ok and [each.rows for each in report.proofs] == [PRODUCTS]
        assert report.counts.keys() >= {joined.name, joined.crm}
        assert f"{joined.crm} " in report.proofs[0].position
        shown = asyncio.run(read(joined.settings))
        assert shown.exit_code == 0 and shown.sources[joined.crm]["worker"]["flows"].keys() == {joined.named("both")}
        lags = {each.stage: each.behind for each in shown.lags()}
        assert {lags[f"worker:{name}"] for name in (joined.name, joined.crm)} <= {0, 1}  # a heartbeat may have come
        with psycopg.connect(joined.state, autocommit=True) as conn:  # behind the worker's back
            conn.execute("UPDATE crm.products SET name = 'damaged' WHERE id = 3")
        joined.execute("UPDATE products SET name = name || '!' WHERE id = 3")
        joined.settle_both(worker, *captures)
        assert _keys(_prove(joined)) == {("3",)}
        joined.in_crm("UPDATE products SET name = 'mended' WHERE id = 3")
        joined.settle_both(worker, *captures)
        assert _prove(joined).ok


def test_asked_of_both_stores(joined: Joined) -> None:
    name = joined.named("both")
    joined.flow("wrong", "id", "SELECT p.id, c.nmae FROM products p JOIN crm.products c ON c.id = p.id")
    found = {each.name: each for each in check_all(joined.settings, None)}
    assert sorted(found[name].tables) == ["crm.ledger", "crm.products", "public.products", "public.stock_levels"]
    assert found[name].ok and not found[joined.named("wrong")].ok
    assert {(str(each["id"]),): each for each in evaluate(joined.settings, name, 99)}.keys() == {
        (str(number),) for number in range(1, PRODUCTS + 1)
    }
    assert [each["called"] for each in evaluate(joined.settings, name, 1)] == ["in the CRM 1"]
    explained = explain(joined.settings, name)
    assert explained.planned_on == "empty tables" and "crm.ledger" in explained.text()
    with opened(joined.settings, joined.name) as stores, psycopg.connect(joined.state) as state:
        orders = [conn.execute(_ORDER).fetchone() for conn in (stores.conn, state)]
        assert orders[0] == orders[1]
    with psycopg.connect(joined.state) as conn:
        left = conn.execute("SELECT count(*) FROM pg_database WHERE datname LIKE 'instep_scratch%'")
        assert left.fetchone() == (0,)


def test_one_worker_for_both_and_no_replay(joined: Joined, tmp_path: Path) -> None:
    workers = [each.name for each in programs(joined.settings, tmp_path) if each.name.startswith("worker")]
    assert workers == [f"worker:{joined.name}"]
    text = '/* instep\nkey = "id"  target = "till"\n*/\nSELECT id, name FROM products'
    (joined.folder / "flows" / "sent.sql").write_text(text)
    with pytest.raises(ConfigError, match="may read several sources"):
        asyncio.run(plan(joined.settings, "sent", position=Position(1, 1)))
