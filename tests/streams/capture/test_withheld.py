"""Changes of stopped tables as records, without any server."""

from __future__ import annotations

import json
from typing import Any, cast

from instep.relation import Column, Relation, Type
from instep_connectors.postgres import pgoutput as p
from instep_schemas.records import decode, unframe
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Batch
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts
from instep_streams.capture.transactions import Transactions
from instep_streams.capture.withheld import StoppedEncoder, raw_row

INT, TEXT = Type(23, "pg_catalog", "int4"), Type(25, "pg_catalog", "text")
TABLE = Relation(7, "public", "t", (Column("id", INT, not_null=True, identity=True), Column("a", TEXT)), ("id",))
OPTIONS = WireOptions("shop", "db")


def batch_of(*rows: tuple[bytes, bytes], largest: int) -> Batch:
    """What capture makes of rows inserted into the stopped table."""
    table = CapturedTable("public.t", "", 1, StoppedEncoder(TABLE, OPTIONS, "refused"), frozenset())
    nothing = cast(Any, None)
    parts = Parts(nothing, nothing, nothing, OPTIONS, DeadLetters("shop", 3, largest), 1, largest)
    machine = Transactions(parts, lambda message, *, keyed=True: table, lambda t, c: t, None)
    machine.feed(p.Begin(8, 0, 1), 8)
    machine.feed(p.RelationMessage(7, "public", "t", "d", ()), 8)
    for row in rows:
        machine.feed(p.Insert(7, row), 8)
    machine.feed(p.Commit(8, 16, 0), 8)
    return machine.take()


def test_a_row_too_large_to_wait_goes_to_the_dead_letters_and_the_next_one_carries_the_relation() -> None:
    batch = batch_of((b"1", b"x" * 3000), (b"2", b"x"), largest=3000)
    dead, held = batch.records
    assert (dead.topic, held.topic) == ("shop.__dead", "shop.__held")
    letter = decode("dead_letter", unframe(dead.value or b"")[1])
    assert (letter["code"], letter["key"]) == ("TOO_LARGE", ["1"]) and "message.max.bytes" in letter["message"]
    assert len(dead.value or b"") < 3000
    assert json.loads(held.value or b"")["relation"]["name"] == "t"
    assert batch.counts == {"public.t": [0, 0, 0, 0, 0, 1]}


def test_text_that_waits_is_not_escaped_and_comes_back_as_it_was() -> None:
    rows = [(b"1", "größe €".encode() * 200), (b"2", b"no \xff text")]
    batch = batch_of(*rows, largest=5000)
    assert [record.topic for record in batch.records] == ["shop.__held"] * 2
    assert [raw_row(json.loads(record.value or b"")["new"]) for record in batch.records] == rows
    assert "größe €".encode() in (batch.records[0].value or b"")
