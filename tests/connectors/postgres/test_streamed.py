"""The assembler alone, on frames made here; on a real store: test_streamed_store.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from struct import pack

import pytest
from tests.connectors.postgres.test_pgoutput import encode

from instep_connectors.postgres import pgoutput as p
from instep_connectors.postgres.streamed import Streamed

A, B = 7, 8
"""Tables."""


def relation(oid: int, *names: str, schema: str = "public") -> p.RelationMessage:
    columns = tuple(p.RelationColumn(name, 23, -1, 0) for name in names)
    return p.RelationMessage(oid, schema, f"t{oid}", "d", columns)


def insert(value: int, oid: int = A) -> p.Insert:
    return p.Insert(oid, (str(value).encode(),))


class Wire:
    """Feeds messages as a connection does, and keeps what comes out, decoded."""

    def __init__(self) -> None:
        self.streamed = Streamed()
        self.out: list[p.Message] = []
        self.lsns: list[int] = []
        self._lsn = 100

    def send(self, *messages: p.Message, xid: int | None = None) -> None:
        for message in messages:
            self._lsn += 1
            frame = encode(message, b"" if xid is None else pack(">I", xid))
            if frame[:1] in self.streamed.passing:
                self._give([(self._lsn, frame)])
                continue
            self.streamed.take(frame, self._lsn)
            if self.streamed.whole is not None:
                self._give(self.streamed.whole)
                self.streamed.whole = None

    def part(self, xid: int, *messages: p.Message | tuple[int, p.Message], first: bool = False) -> None:
        """A part; a message of a subtransaction has its id in front."""
        self.send(p.StreamStart(xid, first))
        for each in messages:
            sub, message = (xid, each) if isinstance(each, p.Message) else each
            self.send(message, xid=sub)
        self.send(p.StreamStop())

    def commit(self, xid: int) -> None:
        self.send(p.StreamCommit(xid, 1000 + xid, 2000 + xid, 3000 + xid))

    def small(self, *messages: p.Message) -> None:
        self.send(p.Begin(1, 2, 3), *messages, p.Commit(1, 2, 3))

    def _give(self, frames: Iterable[tuple[int, bytes]]) -> None:
        for lsn, frame in frames:
            self.lsns.append(lsn)
            self.out.append(p.decode(frame))


def whole(xid: int, *messages: p.Message) -> list[p.Message]:
    return [p.Begin(1000 + xid, 3000 + xid, xid), *messages, p.Commit(1000 + xid, 2000 + xid, 3000 + xid)]


@pytest.fixture
def wire() -> Iterator[Wire]:
    made = Wire()
    yield made
    made.streamed.close()


def test_interleaved_parts_come_out_whole_in_the_order_of_the_commits(wire: Wire) -> None:
    wire.part(1, relation(A, "a"), insert(10), first=True)
    wire.part(2, relation(B, "b"), insert(20, B), first=True)
    wire.small(relation(A, "a"), insert(30))
    wire.part(1, insert(11))
    assert wire.out == [p.Begin(1, 2, 3), relation(A, "a"), insert(30), p.Commit(1, 2, 3)]
    wire.out.clear()
    wire.commit(2)
    wire.commit(1)
    assert wire.out == [*whole(2, relation(B, "b"), insert(20, B)), *whole(1, relation(A, "a"), insert(10), insert(11))]


def test_every_frame_keeps_its_position_and_begin_has_that_of_the_first_part(wire: Wire) -> None:
    wire.part(1, insert(10), insert(11), first=True)  # from 101 to 104
    wire.part(1, insert(12))  # from 105 to 107
    wire.commit(1)  # at 108
    assert wire.lsns == [101, 102, 103, 106, 108]


def test_what_a_savepoint_rolled_back_is_gone_and_what_it_released_is_not(wire: Wire) -> None:
    wire.part(1, relation(A, "a"), insert(1), (4, insert(2)), (5, insert(3)), (6, insert(4)), first=True)
    wire.send(p.StreamAbort(1, 5))
    wire.part(1, (6, insert(5)), relation(A, "a"), insert(6))
    wire.commit(1)
    assert wire.out == whole(
        1, relation(A, "a"), insert(1), insert(2), insert(4), insert(5), relation(A, "a"), insert(6)
    )


def test_a_description_goes_with_the_savepoint_it_was_sent_in(wire: Wire) -> None:
    """Columns added in a savepoint that is rolled back; the store describes the table again behind it."""
    wire.part(1, relation(A, "a"), insert(1), (4, relation(A, "a", "b")), (4, insert(2)), first=True)
    wire.send(p.StreamAbort(1, 4))
    wire.part(1, (9, relation(A, "a")), (9, insert(3)))
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a"), insert(1), relation(A, "a"), insert(3))


def test_a_rolled_back_transaction_leaves_nothing_and_its_id_may_come_again(wire: Wire) -> None:
    wire.part(1, relation(A, "a"), insert(1), first=True)
    wire.send(p.StreamAbort(1, 4), p.StreamAbort(1, 1), p.StreamAbort(77, 77))
    wire.part(1, relation(A, "a"), insert(2), first=True)
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a"), insert(2))


def test_a_transaction_of_which_nothing_is_left_is_not_told(wire: Wire) -> None:
    """As protocol 1 does, since PostgreSQL 15."""
    wire.part(1, (4, insert(1)), first=True)
    wire.part(2, first=True)
    wire.send(p.StreamAbort(1, 4))
    wire.commit(1)
    wire.commit(2)
    assert wire.out == []


def test_messages_truncates_types_and_the_origin_come_along(wire: Wire) -> None:
    """The origin stands in the first part, behind its STREAM START; a message outside of a transaction passes."""
    inside = p.LogicalMessage(True, 5, "app", b"in")
    outside = p.LogicalMessage(False, 6, "app", b"out")
    kind, truncate = p.TypeMessage(99, "public", "mood"), p.Truncate((A, B), True, False)
    update, delete = p.Update(A, (b"1",), False, (b"2",)), p.Delete(A, (b"2",), False)
    wire.part(1, p.Origin(0, "elsewhere"), kind, relation(A, "a"), update, first=True)
    wire.send(outside)
    wire.part(1, delete, truncate, inside)
    wire.commit(1)
    middle: list[p.Message] = [p.Origin(0, "elsewhere"), kind, relation(A, "a"), update, delete, truncate, inside]
    assert wire.out == [outside, *whole(1, *middle)]


def test_a_later_description_outside_is_in_force_again_behind_the_transaction(wire: Wire) -> None:
    """The columns of a publication may change while a transaction runs: the store counts the later one as told."""
    wire.part(1, relation(A, "a", "b"), insert(1), first=True)
    wire.small(relation(A, "a"), insert(2))
    wire.out.clear()
    wire.commit(1)
    wire.small(insert(3))
    assert wire.out[:5] == whole(1, relation(A, "a", "b"), insert(1), relation(A, "a"))


def test_an_earlier_description_outside_is_not_in_force_again(wire: Wire) -> None:
    wire.small(relation(A, "a"), insert(1))
    wire.part(1, relation(A, "a", "b"), insert(2), first=True)
    wire.small(relation(A, "a"), insert(3))
    wire.part(1, relation(A, "c"), insert(4))
    wire.out.clear()
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a", "b"), insert(2), relation(A, "c"), insert(4))


def test_a_description_of_a_rolled_back_savepoint_is_never_the_latest(wire: Wire) -> None:
    wire.part(1, relation(A, "a", "b"), insert(1), first=True)
    wire.small(relation(A, "a"), insert(2))
    wire.part(1, (4, relation(A, "c")), (4, insert(3)))
    wire.send(p.StreamAbort(1, 4))
    wire.out.clear()
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a", "b"), insert(1), relation(A, "a"))


def test_a_table_whose_schema_was_renamed_meanwhile_has_its_new_name(wire: Wire) -> None:
    wire.part(1, relation(A, "a"), insert(1), first=True)
    wire.small(relation(A, "a", schema="renamed"), insert(2))
    wire.out.clear()
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a", schema="renamed"), insert(1))


def test_of_two_running_transactions_the_description_sent_last_is_in_force(wire: Wire) -> None:
    wire.part(1, relation(A, "a", "b"), insert(1), first=True)
    wire.part(2, relation(A, "a"), insert(2), first=True)
    wire.commit(2)
    wire.out.clear()
    wire.commit(1)
    assert wire.out == whole(1, relation(A, "a", "b"), insert(1), relation(A, "a"))


@pytest.mark.parametrize(
    "messages",
    [
        [p.StreamCommit(1, 2, 3, 4)],
        [p.StreamStart(1, False)],
        [p.StreamStop()],
        [p.StreamStart(1, True), p.StreamStop(), p.StreamStart(1, True)],
        [p.StreamStart(1, True), p.Begin(1, 2, 3)],
        [p.StreamStart(1, True), p.StreamStart(2, True)],
        [p.StreamStart(1, True), p.StreamCommit(1, 2, 3, 4)],
    ],
)
def test_what_does_not_fit_together_is_an_error_and_never_a_smaller_transaction(
    wire: Wire, messages: list[p.Message]
) -> None:
    wire.send(*messages[:-1])
    with pytest.raises(p.DecodeError):
        wire.send(messages[-1])


def test_on_another_connection_nothing_is_left_of_the_parts(wire: Wire) -> None:
    wire.part(1, insert(1), first=True)
    spools = [running.spool for running in wire.streamed._running.values()]
    wire.send(p.StreamStart(2, True))
    wire.streamed.close()
    assert all(spool._file.closed for spool in spools)
    wire.part(1, insert(2), first=True)
    wire.commit(1)
    assert wire.out == whole(1, insert(2))
