from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import psycopg
import pytest
from tests.fixtures.postgres import PostgresForTests
from tests.streams.delivery.parts import FLOW, document, gone, value

from instep.errors import StateError
from instep.protocols import Document, Rejected
from instep_streams.delivery.decide import GONE, Applied, Entry, Kind, digest_of
from instep_streams.delivery.ledger import Ledger, key_of, key_text

REFUSED = Rejected("http 400", "no name", "name")


@pytest.fixture
def dsn(postgres: PostgresForTests) -> str:
    return postgres.database()


@pytest.fixture
async def ledger(dsn: str) -> AsyncIterator[Ledger]:
    ledger = Ledger(dsn, "crm")
    await ledger.open()
    yield ledger
    await ledger.aclose()


async def known(ledger: Ledger, each: Document) -> Applied:
    async with ledger.claim(FLOW.name, [each]) as applied:
        return applied[each.key]


async def outcomes(ledger: Ledger) -> list[tuple[object, ...]]:
    return await ledger.fetch(
        "SELECT version, outcome, code, attempts FROM instep_delivery.outcomes WHERE target = %(target)s "
        "ORDER BY version",
        {},
    )


def test_keys_survive_their_text() -> None:
    for key in (("a",), ("a", "b"), ('"', ""), ("Füll\n",)):
        assert key_of(key_text(key)) == key


async def test_opening_twice_at_once_creates_one_schema(dsn: str) -> None:
    ledgers = [Ledger(dsn, f"t{n}") for n in range(4)]
    await asyncio.gather(*(ledger.open() for ledger in ledgers))
    for ledger in ledgers:
        assert await outcomes(ledger) == []
        await ledger.aclose()


async def test_what_was_written_is_known(ledger: Ledger) -> None:
    five, six = value("a", 5).document, value("a", 6).document
    assert await known(ledger, five) == Applied()
    await ledger.record([Entry(five, Kind.WRITTEN, 1, target_id="17")])
    assert await known(ledger, five) == Applied(5, digest_of(five), "17", settled=True)
    assert await known(ledger, six) == Applied(5, digest_of(five), "17", settled=False)


async def test_a_version_keeps_its_first_outcome(ledger: Ledger) -> None:
    five = value("a", 5).document
    await ledger.record([Entry(five, Kind.WRITTEN, 1)])
    await ledger.record([Entry(five, Kind.SUPERSEDED)])
    await ledger.record([Entry(five, Kind.REJECTED, 1, REFUSED)])
    assert await outcomes(ledger) == [(5, "written", None, 1)]


async def test_a_rejected_version_may_still_be_written(ledger: Ledger) -> None:
    five = value("a", 5).document
    await ledger.record([Entry(five, Kind.REJECTED, 2, REFUSED)])
    assert await outcomes(ledger) == [(5, "rejected", "http 400", 2)]
    await ledger.record([Entry(five, Kind.WRITTEN, 1, target_id="17")])
    assert await outcomes(ledger) == [(5, "written", None, 3)]
    assert (await known(ledger, five)).version == 5


async def test_after_a_rejection_the_digest_is_worth_nothing(ledger: Ledger) -> None:
    five, six = value("a", 5).document, value("a", 6).document
    await ledger.record([Entry(five, Kind.WRITTEN, 1, target_id="17")])
    await ledger.record([Entry(six, Kind.REJECTED, 1, REFUSED)])
    assert await known(ledger, value("a", 7).document) == Applied(5, "", "17")


async def test_an_older_version_never_takes_the_place_of_a_newer(ledger: Ledger) -> None:
    five, six = value("a", 5).document, value("a", 6).document
    await ledger.record([Entry(six, Kind.WRITTEN, 1, target_id="17")])
    await ledger.record([Entry(five, Kind.WRITTEN, 1, target_id="18")])
    assert (await known(ledger, five)).version == 6
    assert (await known(ledger, five)).digest == digest_of(six)


async def test_a_tombstone_is_remembered_and_a_filtered_one_moves_on_only(ledger: Ledger) -> None:
    five = value("a", 5).document
    await ledger.record([Entry(five, Kind.WRITTEN, 1, target_id="17")])
    await ledger.record([Entry(gone("a", 6).document, Kind.FILTERED)])
    assert await known(ledger, value("a", 7).document) == Applied(6, digest_of(five), "17")
    await ledger.record([Entry(gone("a", 8).document, Kind.WRITTEN, 1)])
    assert await known(ledger, value("a", 9).document) == Applied(8, GONE, "17")


async def test_flows_and_targets_do_not_see_each_other(ledger: Ledger, dsn: str) -> None:
    five = value("a", 5).document
    await ledger.record([Entry(five, Kind.WRITTEN, 1)])
    assert await known(ledger, replace(five, key=("b",))) == Applied()
    async with ledger.claim("other", [five]) as applied:
        assert applied[five.key] == Applied()
    other = Ledger(dsn, "other")
    assert await known(other, five) == Applied()
    await other.aclose()


async def test_two_processes_never_hold_one_key_at_once(ledger: Ledger, dsn: str) -> None:
    other = Ledger(dsn, "crm")
    order: list[str] = []
    entered = asyncio.Event()

    async def first() -> None:
        async with ledger.claim(FLOW.name, [document("a", 1), document("b", 1)]):
            entered.set()
            await asyncio.sleep(0.1)
            order.append("first done")

    async def second() -> None:
        await entered.wait()
        async with other.claim(FLOW.name, [document("c", 1), document("b", 1)]):
            order.append("second holds")

    await asyncio.gather(first(), second())
    await other.aclose()
    assert order == ["first done", "second holds"]


async def test_other_keys_are_not_held(ledger: Ledger, dsn: str) -> None:
    other = Ledger(dsn, "crm")
    async with ledger.claim(FLOW.name, [document("a", 1)]):
        async with asyncio.timeout(60), other.claim(FLOW.name, [document("b", 1)]):
            pass
    await other.aclose()


async def test_the_budget_is_shared_by_processes(ledger: Ledger, dsn: str) -> None:
    other = Ledger(dsn, "crm")
    assert await ledger.spend(6, 0.001, 10, 0) == 0
    assert await other.spend(6, 0.001, 10, 0) > 100
    assert await other.spend(3, 0.001, 10, 0) == 0
    await other.aclose()


async def test_a_lost_connection_passes_and_is_made_again(ledger: Ledger, dsn: str) -> None:
    five = value("a", 5).document
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'instep deliver crm' AND datname = current_database()"
        )
    with pytest.raises(ConnectionError):
        await ledger.record([Entry(five, Kind.WRITTEN, 1)])
    await ledger.record([Entry(five, Kind.WRITTEN, 1)])
    assert (await known(ledger, five)).version == 5


async def test_a_database_that_is_not_there_passes_and_one_that_refuses_does_not(dsn: str) -> None:
    with pytest.raises(ConnectionError):
        await Ledger("host=127.0.0.1 port=1 dbname=x user=x", "crm").open()
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE ledger_nobody LOGIN PASSWORD 'x'")
    ledger = Ledger(psycopg.conninfo.make_conninfo(dsn, user="ledger_nobody", password="x"), "crm")
    with pytest.raises(StateError, match="permission denied"):
        await ledger.open()
    await ledger.aclose()
