"""Batches and resuming, without any server: wherever capture is cut, what follows continues exactly."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from instep.change import ABSENT, POSITION_HEADER, Position
from instep.journal import JournalEntry
from instep.relation import Column, Relation, ReplicaIdentity, Type
from instep_connectors.postgres import pgoutput as p
from instep_schemas.encode import compile_encoder
from instep_schemas.records import decode, unframe
from instep_schemas.wire import WireOptions
from instep_streams.capture.batch import Batch, Origin, captured_lsn, dropped_prefix
from instep_streams.capture.deadletters import DeadLetters
from instep_streams.capture.kafka import writers
from instep_streams.capture.tables import CapturedTable
from instep_streams.capture.task import Parts
from instep_streams.capture.transactions import Transactions

INT = Type(23, "pg_catalog", "int4")
TABLE = Relation(7, "public", "t", (Column("id", INT, not_null=True, identity=True), Column("a", INT)), ("id",))
OPTIONS = WireOptions("shop", "db")
LARGEST = 1 << 20
ORIGIN = Origin("shop", 1, "42", 1)


def captured_table() -> CapturedTable:
    return CapturedTable("public.t", "shop.public.t", 2, compile_encoder(TABLE, OPTIONS, 1, 2), frozenset({1, 2}))


def transactions(last: JournalEntry | None) -> Transactions:
    parts = Parts(
        cast(Any, None), cast(Any, None), cast(Any, None), OPTIONS, DeadLetters("shop", 3, LARGEST), 1, LARGEST
    )

    def describe(message: p.RelationMessage, /, *, keyed: bool = True) -> CapturedTable | None:
        return captured_table() if message.name == "t" else None

    return Transactions(parts, describe, lambda table, column: table, last)


@dataclass(frozen=True)
class Tx:
    """A transaction as the server sends it, each time anew."""

    lsn: int
    changes: tuple[str, ...]

    def messages(self) -> list[p.Message]:
        columns = (p.RelationColumn("id", 23, -1, 1), p.RelationColumn("a", 23, -1, 0))
        out: list[p.Message] = [
            p.Begin(self.lsn, self.lsn * 10, 5),
            p.RelationMessage(7, "public", "t", "d", columns),
            p.RelationMessage(8, "public", "unwanted", "d", columns),
        ]
        for number, kind in enumerate(self.changes):
            key = str(number).encode()
            message: dict[str, p.Message] = {
                "c": p.Insert(7, (key, b"1")),
                "u": p.Update(7, None, False, (key, b"2")),
                "k": p.Update(7, (key, None), False, (b"9" + key, b"2")),
                "d": p.Delete(7, (key, None), False),
                "t": p.Truncate((7, 8), False, False),
                "o": p.Insert(8, (key, b"1")),
                "m": p.LogicalMessage(True, self.lsn, "instep", b""),
                "x": p.LogicalMessage(True, self.lsn, "somebody", b""),
            }
            out.append(message[kind])
        return [*out, p.Commit(self.lsn, self.lsn + 8, self.lsn * 10)]


def entry(number: int, batch: Batch) -> JournalEntry:
    ends = {(record.topic, max(record.partition, 0)): 1 for record in batch.records}
    return ORIGIN.entry(number, batch, dict.fromkeys(ends, 0), ends)


def run(history: list[Tx], last: JournalEntry | None, limit: int, stop_after: int) -> list[tuple[Batch, JournalEntry]]:
    """Stream the history as the server would after `last`, cut batches at `limit`, stop after so many batches."""
    machine = transactions(last)
    start = captured_lsn(last) if last else 0
    out: list[tuple[Batch, JournalEntry]] = []
    number = last.batch if last else 0

    def take() -> None:
        nonlocal number
        if machine.batch.last is None or len(out) >= stop_after:
            return
        batch = machine.take()
        number += 1
        out.append((batch, entry(number, batch)))

    for tx in history:
        if tx.lsn < start:  # what the server leaves out
            continue
        for message in tx.messages():
            machine.feed(message, tx.lsn)
            if machine.open and machine.batch.changes >= limit:
                take()
        if machine.due or machine.batch.changes >= limit:
            take()
    take()
    return out


KINDS = st.lists(st.sampled_from("cukdtomx"), min_size=0, max_size=8).map(tuple)
HISTORY = st.lists(KINDS, min_size=1, max_size=6).map(
    lambda all_changes: [Tx(8 * (n + 1), changes) for n, changes in enumerate(all_changes)]
)


def written(batches: list[tuple[Batch, JournalEntry]]) -> list[tuple[Position, bytes | None, bool]]:
    return [
        (Position.unpack(dict(record.headers)[POSITION_HEADER]), record.key, record.value is None)
        for batch, _ in batches
        for record in batch.records
    ]


@given(HISTORY, st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), max_size=6))
def test_any_sequence_of_cuts_writes_what_one_run_writes(history: list[Tx], lives: list[tuple[int, int]]) -> None:
    whole = written(run(history, None, 1000, 1000))
    pieces: list[tuple[Batch, JournalEntry]] = []
    for limit, stop_after in [*lives, (3, 1000)]:
        last = pieces[-1][1] if pieces else None
        pieces += run(history, last, limit, stop_after)
    assert written(pieces) == whole
    entries = [each for _, each in pieces]
    assert [each.batch for each in entries] == list(range(1, len(entries) + 1))
    assert entries == sorted(entries, key=lambda each: each.last)
    if entries:
        assert not entries[-1].more
    for batch, each in pieces:
        data = [record for record in batch.records if record.value is not None]
        truncates = sum(record.partition == 0 for record in data)
        keyed = sum(record.partition < 0 for record in data)
        assert each.changes == keyed + truncates


@given(HISTORY, st.integers(1, 5))
def test_more_is_said_exactly_where_a_transaction_goes_on(history: list[Tx], limit: int) -> None:
    entries = [each for _, each in run(history, None, limit, 1000)]
    for each, following in pairwise(entries):
        if each.more:
            assert following.first.lsn == each.last.lsn or not following.changes
        else:
            assert following.first.lsn > each.last.lsn


def test_a_message_of_ours_asks_for_an_entry_without_changes() -> None:
    ((batch, each),) = run([Tx(8, ("m",))], None, 10, 10)
    assert not batch.records and each.first == each.last == Position(1, 8, 0) and not each.more


def test_somebody_elses_message_does_not() -> None:
    assert run([Tx(8, ("x",))], None, 10, 10) == []


def test_the_slot_may_stand_behind_a_whole_transaction_but_not_inside_a_split_one() -> None:
    (_, whole), *_ = run([Tx(8, ("c", "c"))], None, 10, 10)
    assert captured_lsn(whole) == 9
    assert [dropped_prefix(whole)(lsn) for lsn in (7, 8, 16)] == [-1, -1, 0]
    (_, part), *_ = run([Tx(8, ("c", "c", "c"))], None, 2, 1)
    assert part.more and captured_lsn(part) == 8
    assert [dropped_prefix(part)(lsn) for lsn in (7, 8, 16)] == [-1, 2, 0]


def test_replica_identity_full_completes_an_unchanged_value() -> None:
    relation = Relation(
        7, "public", "t", (Column("id", INT, not_null=True, identity=True), Column("a", INT, identity=True)), ("id",),
        ReplicaIdentity.FULL,
    )  # fmt: skip
    table = CapturedTable("public.t", "shop.public.t", 1, compile_encoder(relation, OPTIONS, 1, 2), frozenset())
    parts = Parts(
        cast(Any, None), cast(Any, None), cast(Any, None), OPTIONS, DeadLetters("shop", 3, LARGEST), 1, LARGEST
    )
    machine = Transactions(parts, lambda message, *, keyed=True: table, lambda t, c: t, None)
    for message in (
        p.Begin(8, 0, 1),
        p.RelationMessage(7, "public", "t", "f", ()),
        p.Update(7, (b"1", b"5"), True, (b"1", ABSENT)),
        p.Insert(7, (b"1", b"5")),
    ):
        machine.feed(message, 8)
    first, second = machine.batch.records
    assert first.value is not None and second.value is not None
    # the after image is written right behind the before image, and equal to the insert's
    assert second.value[5 + 1 : 5 + 5] in first.value


def test_a_record_too_large_for_kafka_waits_in_the_dead_letters_and_its_neighbours_go_on() -> None:
    text = Type(25, "pg_catalog", "text")
    relation = Relation(7, "public", "t", (Column("id", INT, not_null=True, identity=True), Column("a", text)), ("id",))
    table = CapturedTable("public.t", "shop.public.t", 1, compile_encoder(relation, OPTIONS, 1, 2), frozenset({1, 2}))
    parts = Parts(cast(Any, None), cast(Any, None), cast(Any, None), OPTIONS, DeadLetters("shop", 3, 500), 1, 500)
    machine = Transactions(parts, lambda message, *, keyed=True: table, lambda t, c: t, None)
    for message in (
        p.Begin(8, 0, 1),
        p.RelationMessage(7, "public", "t", "d", ()),
        p.Insert(7, (b"1", b"x" * 1000)),
        p.Insert(7, (b"2", b"x")),
        p.Commit(8, 16, 0),
    ):
        machine.feed(message, 8)
    batch = machine.take()
    assert [record.topic for record in batch.records] == ["shop.__dead", "shop.public.t"]
    letter = decode("dead_letter", unframe(batch.records[0].value or b"")[1])
    assert (letter["code"], letter["key"], letter["document"]) == ("TOO_LARGE", ["1"], None)
    assert batch.counts == {"public.t": [0, 1, 0, 0, 0, 1]}


def test_no_two_sources_share_a_transactional_id() -> None:
    names = ("shop", "shop-2", "2-shop", "shop-2-2")
    assert len({each for name in names for each in writers(name)}) == 2 * len(names)
