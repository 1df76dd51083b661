"""A flow over two sources: killed at random, no half of a transaction of either, each version once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.harness import kill
from tests.streams.flows.joined import BOTH, DEBT, STOCK, Joined
from tests.streams.flows.test_engine import ITEMS, drain, entry, flow, row
from tests.streams.flows.test_process import _every
from tests.streams.flows.test_worker import await_captured

from instep.change import JOINED_HEADER, Op, Position
from instep.errors import ConfigError, StateError
from instep.settings import KafkaSettings, parse
from instep.topics import journal_topic
from instep_connectors.kafka import TopicSpec, ensure_topics
from instep_streams.capture.kafka import last_entry
from instep_streams.flows.catalog import Column, Table, called
from instep_streams.flows.engine import Engine
from instep_streams.flows.outbox import read_marker
from instep_streams.flows.rows import RowChange
from instep_streams.flows.session import open_state
from instep_streams.flows.worker import Worker


@pytest.fixture
def joined(tmp_path: Path, postgres: PostgresForTests, kafka: KafkaSettings, registry: str) -> Iterator[Joined]:
    made = Joined(tmp_path, postgres.database(), postgres.database(), postgres.database(), kafka, registry)
    yield made
    made.close()


def right(joined: Joined) -> None:
    """The documents are the join, and nothing that was ever shown is a half, came twice or went back."""
    assert joined.folded("both") == joined.joined_by_hand()
    for _, document in _every(joined, "both"):
        assert document["north"] + document["south"] == STOCK, "half of a transaction of the shop"
        assert document["owed"] + document["paid"] == DEBT, "half of a transaction of the CRM"
    seen: dict[bytes, tuple[int, Position, Position]] = {}
    for record in joined.records("both"):
        headers = dict(record.headers)
        batch = int.from_bytes(headers["instep.batch"], "big")
        own = Position.unpack(headers["instep.position"])
        other = Position.unpack(headers[f"{JOINED_HEADER}{joined.crm}"])
        before = seen.setdefault(record.key or b"", (0, own, other))
        assert batch > before[0] and own >= before[1] and other >= before[2]
        seen[record.key or b""] = batch, own, other


def _killed(joined: Joined, failpoint: str) -> None:
    process = joined.process(failpoint)
    try:
        until(lambda: process.poll() is not None, 90, f"the worker dies, {failpoint}")
    finally:
        kill(process)


@pytest.mark.slow
def test_joined_later_killed_shared_and_changed(joined: Joined) -> None:
    """One start of both captures for all of it: to start them takes longer than what is tested."""
    _alone(joined)
    with joined.capturing_both() as captures:
        with joined.moving():
            for point in ("applied", "committed"):
                _killed(joined, f"worker.{point}=kill@8")
            joined.share_among(2)
            _killed(joined, "worker.produced=kill@8")
        with joined.working() as worker:
            joined.settle_both(worker, *captures)
            right(joined)
            assert joined.folded("named") == joined.expected("named")
            told = joined.status()["shards"]
            assert [0 < each["flows"][joined.named("both")]["documents"] < 12 for each in told] == [True] * 2
            count = len(joined.records("both"))
            joined.in_crm("UPDATE products SET name = name || '!' WHERE id = 3", "DELETE FROM products WHERE id = 4")
            joined.execute("INSERT INTO products VALUES (99, 'alone')", "DELETE FROM stock_levels WHERE product_id = 5")
            joined.settle_both(worker, *captures)
            assert len(joined.records("both")) == count + 3  # changed, changed, ended; 99 has no stock
            assert joined.folded("both") == joined.joined_by_hand()
            joined.in_crm("TRUNCATE ledger", "ALTER TABLE products ADD COLUMN since date DEFAULT '2026-01-01'")
            joined.flow("more", "id", "SELECT c.id, c.since, p.name FROM crm.products c JOIN products p ON p.id = c.id")
            joined.in_crm("UPDATE products SET since = '2026-02-02' WHERE id = 1")
            joined.settle_both(worker, *captures)
            assert joined.folded("both") == joined.joined_by_hand()
        _otherwise(joined)
        joined.share_among(1)
        with joined.working() as worker:  # deploys the new flow, from what the replica holds
            joined.settle_both(worker, *captures)
            found = joined.folded("more")
            assert str(found[("1",)]["since"]) == "2026-02-02" and str(found[("2",)]["since"]) == "2026-01-01"
            assert joined.folded("both") == joined.joined_by_hand()


def _alone(joined: Joined) -> None:
    """A flow of the shop, before the CRM is joined, and a change of it while the CRM's first rows are awaited."""
    kafka, both, name = joined.settings.kafka, joined.settings, joined.name
    joined.forget("both")
    joined.flow("named", "id", "SELECT id, name FROM products")
    joined.settings = both.model_copy(update={"sources": {name: both.sources[name]}})
    with joined.capturing() as capture:
        with joined.working() as worker:
            joined.settle(capture, worker)
        joined.settings = both
        ensure_topics(kafka, [TopicSpec(journal_topic(joined.crm), 1)])  # its capture makes it before there are rows
        joined.execute("UPDATE products SET name = name || '!' WHERE id = 2")
        await_captured(joined)
        captured = last_entry(kafka, name)
        assert captured is not None
        first = Worker(joined.settings, name)
        try:
            assert list(first.start(read_marker(kafka, name))) == []
            until(
                lambda: not list(first.poll(0.1)) and first.entry >= captured.batch, 60, "the shop's change is applied"
            )
        finally:
            first.close()
        assert joined.status()["flows"][joined.named("named")]["whole"], "nobody noted the key that became dirty"
    joined.flow("both", "id", BOTH)


def _otherwise(joined: Joined) -> None:
    """Rows stand under the names that they were filled with."""
    settings = joined.settings
    own = settings.sources[joined.crm].model_copy(update={"as_schema": "customers"})
    joined.settings = settings.model_copy(update={"sources": settings.sources | {joined.crm: own}})
    failure = joined.fails()
    assert isinstance(failure, StateError) and f"sources.{joined.crm}.joined_to and as_schema" in str(failure)
    joined.settings = settings


def test_names_of_two_stores_are_kept_apart(postgres: PostgresForTests) -> None:
    kind = Column("kind", "public.kind", labels=("owed", "paid"))
    table = Table("sales", "orders", (Column("id", "integer", True), kind), ("id",))
    assert called(table, "crm").columns[1].sql_type == '"crm".kind' and called(table, "crm").id == "sales.orders"
    assert called(replace(table, schema="public"), "crm").id == "crm.orders" and called(table, "") == table
    made = Engine(open_state(postgres.database()), "shop", joined={"crm": "public"})
    try:
        assert made.ensure_tables([table]) == {"sales.orders"}
        with pytest.raises(StateError, match=r"Sources shop and crm both have a table sales\.orders"):
            made.ensure_tables([called(table, "crm")], "crm")
    finally:
        made.close()


def test_no_document_while_a_source_is_within_a_transaction(postgres: PostgresForTests) -> None:
    notes = Table("crm", "notes", (Column("id", "integer", True), Column("body", "text")), ("id",))

    def note(body: str) -> RowChange:
        return RowChange("crm.notes", Op.UPDATE, ("1",), {"id": "1", "body": body})

    made = Engine(open_state(postgres.database()), "shop", joined={"crm": "crm"})
    try:
        made.ensure_tables([ITEMS])
        made.ensure_tables([notes], "crm")
        made.process([(entry(1), [row(1)])])
        assert not made.progress.begun
        made.process([(entry(1), [note("first")])], source="crm")
        assert made.progress.begun
        made.deploy({"f": flow("SELECT i.id, i.name, n.body FROM items i LEFT JOIN crm.notes n ON n.id = i.id")})
        assert drain(made) == [("1",)]
        assert not made.process([(entry(2, more=True), [note("half")])], source="crm").documents
        assert not made.process([(entry(2), [row(1, Op.UPDATE, name="x")])]).documents and not made.waiting
        assert made.progress.settled == made.progress.of("crm").settled == 1
        found = [*made.process([(entry(3), [note("whole")])], source="crm").documents, *made.slice().documents]
        assert [each.document for each in found] == ['{"id":1,"name":"x","body":"whole"}'] and not made.waiting
        assert made.progress.settled == 2 and made.progress.of("crm").settled == 3
        with pytest.raises(StateError, match="journal of crm goes on with entry 5; the replica needs 4"):
            made.process([(entry(5), [])], source="crm")
    finally:
        made.close()


def test_what_cannot_be_joined(tmp_path: Path) -> None:
    shop = {"dsn": "env:SHOP"}
    for sources, fault in (
        ({"shop": shop, "crm": shop | {"joined_to": "shp"}}, "crm: joined_to: there is no other source 'shp'"),
        ({"shop": shop | {"journal": False}, "crm": shop | {"joined_to": "shop"}}, "crm: joined_to: sources whose"),
        ({"shop": shop, "crm": shop | {"joined_to": "shop", "workers": 2}}, "crm: workers: the workers are those of"),
        ({"shop": shop, "crm": shop | {"as_schema": "crm"}}, "crm: as_schema is for a source that is joined"),
        ({"shop": shop, "crm": shop | {"joined_to": "shop", "as_schema": "instep"}}, "crm: as_schema: the schema"),
        ({"a": shop, "b": shop | {"joined_to": "a"}, "c": shop | {"joined_to": "b"}}, "c: joined_to: b is joined to a"),
    ):
        with pytest.raises(ConfigError, match=fault):
            parse({"sources": sources}, tmp_path)
    assert parse({"sources": {"shop": shop, "crm": shop | {"joined_to": "shop"}}}, tmp_path).joined("shop") == {
        "crm": "crm"
    }
