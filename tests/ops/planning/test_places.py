"""Source positions found in data topics by the journal of a real capture."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.flows.harness import Shop

from instep.change import Position
from instep.settings import KafkaSettings
from instep.topics import journal_topic
from instep_connectors.kafka import end_offsets, read_topic, start_offsets
from instep_ops.planning import places
from instep_ops.planning.tail import Tail, Wish
from instep_ops.planning.topics import source_of


@pytest.fixture(scope="module")
def shop(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresForTests, kafka: KafkaSettings, registry: str
) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("places"), postgres.database(), postgres.database(), kafka, registry)
    made.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items SELECT i, 0 FROM generate_series(1, 5) i"
    )
    made.flow("items", "id", "SELECT id, n FROM items")
    with made.capturing() as capture, made.working() as worker:
        made.settle(capture, worker)
        for n in range(16):  # one journal entry each
            made.execute(f"INSERT INTO items SELECT {n * 10 + 10} + i, {n} FROM generate_series(1, 3) i")
            made.settle(capture, worker)
    yield made
    made.close()


def test_every_position_is_found(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_STEP", 2)  # so that halving has something to do
    kafka, topic = shop.settings.kafka, f"{shop.name}.public.items"
    tail = Tail(kafka, shop.registry, topic)
    every = sorted(
        (Position.parse(tail.show(record)["position"]), (topic, record.partition), record.offset)
        for record in read_topic(kafka, topic)
    )
    assert len(every) == 53
    found = places.Places(kafka, shop.name)
    tps = [(topic, number) for number in range(3)]
    for position in [every[0][0], *(each[0] for each in every[5::7]), every[-1][0]]:
        at = found.first(position, tps)
        # nothing from the position on stands before, and what stands behind begins with its batch
        assert all(offset >= at[tp] for other, tp, offset in every if other >= position)
        skipped = sum(offset < at[tp] for _, tp, offset in every)
        assert skipped >= sum(other < position for other, _, _ in every) - 3
    beyond = every[-1][0]._replace(lsn=every[-1][0].lsn + 8)
    assert found.first(beyond, tps) == end_offsets(kafka, tps)
    assert found.first(Position(0, 0), tps) == start_offsets(kafka, tps)


def test_tail_reads_from_there(shop: Shop) -> None:
    kafka, topic = shop.settings.kafka, f"{shop.name}.public.items"
    plain, fast = (Tail(kafka, shop.registry, topic, source) for source in ("", shop.name))
    for text in ("1:0/0:0", str(Position.parse(next(iter(plain.read(Wish(count=1))))["position"]))):
        wish = Wish(position=Position.parse(text), count=None)
        wanted, found = (sorted(map(repr, tail.read(wish))) for tail in (plain, fast))
        assert found == wanted != []


def test_whose_rows_a_topic_holds(shop: Shop) -> None:
    assert source_of(shop.settings, f"{shop.name}.public.items") == shop.name
    assert source_of(shop.settings, journal_topic(shop.name)) == ""
    assert source_of(shop.settings, "flow.card") == ""
    with psycopg.connect(shop.dsn) as conn:
        assert conn.execute("SELECT count(*) FROM items").fetchone() == (53,)
