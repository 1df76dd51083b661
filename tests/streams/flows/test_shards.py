"""Several workers share a source: killed at random, moved from one number to another, read by a committed reader."""

from __future__ import annotations

import os
import random
import subprocess
from collections import Counter
from contextlib import closing

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fixtures.postgres import PostgresForTests
from tests.fixtures.registry import until
from tests.streams.flows.harness import Shop, kill
from tests.streams.flows.test_process import _every, moving_money

from instep.errors import FlowError, StateError
from instep_streams.flows import layout, progress
from instep_streams.flows.catalog import quote
from instep_streams.flows.layout import Share
from instep_streams.flows.versions import set_up

BOTH = """SELECT p.id, n.on_hand AS north, s.on_hand AS south FROM products p
JOIN stock_levels n ON n.product_id = p.id AND n.site = 'north'
JOIN stock_levels s ON s.product_id = p.id AND s.site = 'south'"""
FLOWS = ("card", "supplied", "both")


KILLS = int(os.environ.get("KILLS", "1"))


def versions(shop: Shop) -> Counter[bytes | None]:
    """How many versions of each key are published."""
    return Counter(record.key for record in shop.records("both"))


def share_among(shop: Shop, workers: int) -> None:
    own = shop.settings.sources[shop.name].model_copy(update={"workers": workers})
    shop.settings = shop.settings.model_copy(update={"sources": {shop.name: own}})


def right(shop: Shop) -> None:
    for flow in FLOWS:
        assert shop.folded(flow) == shop.expected(flow)
        seen: dict[bytes, tuple[int, bytes]] = {}
        for record in shop.records(flow):
            headers = dict(record.headers)
            batch, position = int.from_bytes(headers["instep.batch"], "big"), headers["instep.position"]
            before = seen.get(record.key or b"", (0, b""))
            assert batch > before[0], "a document came twice, or an older one after a newer"
            assert position >= before[1], "a document of a state before the one that was shown"
            seen[record.key or b""] = batch, position


@pytest.mark.slow
def test_three_workers_killed_at_random_then_one(shop: Shop) -> None:
    shop.flow("both", "id", BOTH)
    with shop.capturing() as capture:
        with shop.working() as worker:
            shop.settle(capture, worker)
        before = len(shop.records("both"))
        share_among(shop, 3)
        chance = random.Random(7)
        with moving_money(shop, 0):
            processes = [shop.process() for _ in range(3)]
            try:
                until(lambda: len(shop.records("both")) > before + 30, 90, "the three begin")
                for _ in range(KILLS):
                    kill(processes.pop(chance.randrange(len(processes))))
                    _goes_on(shop)  # nobody comes in its place: the others take its keys over
                    processes.append(shop.process("worker.produced=kill@20"))
            finally:
                _end(processes)
        with shop.working() as one:  # all three shares in one process
            shop.settle(capture, one)
            right(shop)
            told = shop.status()
            assert [0 < each["flows"][shop.named("both")]["documents"] < 50 for each in told["shards"]] == [True] * 3
            assert told["flows"][shop.named("both")]["documents"] == 50
        _never_half(shop)
        share_among(shop, 1)
        count = len(shop.records("card"))
        with shop.working() as one:
            shop.settle(capture, one)
            assert len(shop.records("card")) == count, "a move emits nothing"
            shop.execute("UPDATE suppliers SET name = name || '!'", "DELETE FROM products WHERE id % 10 = 3")
            shop.settle(capture, one)
            right(shop)


def _never_half(shop: Shop) -> None:
    for key, document in _every(shop, "both"):
        assert document["north"] + document["south"] == 2 * int(key[0]), "half of a source transaction"


def _goes_on(shop: Shop) -> None:
    held = versions(shop)
    until(lambda: all(versions(shop)[key] > held[key] for key in held), 90, "every key goes on")


def _end(processes: list[subprocess.Popen[str]]) -> None:
    for each in processes:
        each.terminate()  # in order: who is killed is missed only after the group's timeout
    for each in processes:
        try:
            each.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            kill(each)


@pytest.mark.slow
def test_a_worker_that_was_not_stopped_publishes_no_more_and_ends(shop: Shop) -> None:
    shop.flow("both", "id", BOTH)
    with shop.capturing() as capture, moving_money(shop, 0):
        alone = shop.process()
        try:
            until(lambda: len(shop.records("both")) > 60, 60, "the one worker works")
            share_among(shop, 2)
            with shop.working() as two:
                until(lambda: alone.poll() is not None, 60, "the one worker has ended")
                _, told = alone.communicate()
                assert "among 2 workers now; this one was started for 1" in told
                seen = len(shop.records("both"))
                until(lambda: len(shop.records("both")) > seen + 60, 60, "the two go on")
                two.check()
        finally:
            _end([alone])
    with shop.capturing() as capture, shop.working() as two:
        shop.settle(capture, two)
        right(shop)


def test_a_process_of_an_earlier_division_stops(shop: Shop) -> None:
    first = layout.take(shop.settings, shop.name)
    assert first == layout.Layout()
    share_among(shop, 3)
    second = layout.take(shop.settings, shop.name)
    assert second == layout.Layout(second.generation, 3, (1,)) == layout.take(shop.settings, shop.name)
    with pytest.raises(StateError, match="among 3 workers now; this one was started for 1"):
        layout.require(shop.settings, shop.name, first)
    layout.require(shop.settings, shop.name, second)
    assert layout.behind(shop.settings, shop.name, Share(2, 3), second)
    share_among(shop, 2)
    assert layout.take(shop.settings, shop.name) == layout.Layout(second.generation + 1, 2, (1, 3))


def test_a_shard_s_database_from_before_the_state_database_was_dropped_is_behind(shop: Shop) -> None:
    share_among(shop, 3)
    before, share = layout.take(shop.settings, shop.name), Share(1, 3)
    with closing(psycopg.connect(layout.ensure_database(shop.settings, shop.name, share), autocommit=True)) as conn:
        with conn.transaction():
            set_up(conn)
        progress.begin(conn, shop.name)
        progress.adopted(conn, shop.name, before.generation)
    assert not layout.behind(shop.settings, shop.name, share, before)
    with psycopg.connect(shop.state) as conn:
        conn.execute("DROP SCHEMA instep CASCADE")
    share_among(shop, 2)
    after = layout.take(shop.settings, shop.name)
    assert after == layout.Layout(after.generation, 2, (1,))
    assert layout.behind(shop.settings, shop.name, Share(1, 2), after)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1, max_size=3))
def test_each_key_has_one_owner(anchor: list[str]) -> None:
    assert Counter(Share(number, 5).has(anchor) for number in range(5)) == {True: 1, False: 4}


def test_the_server_divides_as_the_worker_does(postgres: PostgresForTests) -> None:
    with closing(psycopg.connect(postgres.database(), autocommit=True)) as conn:
        anchors = [["1", "a"], ["-5", "Ångström"], ["007", ""], ["x'y", "%s \\"], ["日本", "\U0001f600"]]
        for share in (Share(number, 3) for number in range(3)):
            where = share.condition([f"k.{quote('a')}", "k.b"]).replace("%", "%%")
            for anchor in anchors:
                row = conn.execute(f"SELECT true{where} FROM (SELECT %s::text AS a, %s::text AS b) k".encode(), anchor)
                assert row.fetchone() == (share.has(anchor),)


def test_keys_whose_equal_values_have_several_texts_are_refused() -> None:
    Share().require("card", ["numeric(12,2)"])
    Share(0, 2).require("card", ["bigint", "character varying(20)", "public.status", "timestamp(3) without time zone"])
    with pytest.raises(FlowError, match=r"a key of type numeric\(12,2\) cannot be shared among 2 workers"):
        Share(0, 2).require("card", ["numeric(12,2)"])
