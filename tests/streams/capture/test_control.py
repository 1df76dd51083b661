"""How far copies are, as the journal tells, and commands as they are written and read. Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, cast

import pytest
from psycopg.errors import QueryCanceled

from instep.change import Position
from instep.journal import JournalEntry
from instep_streams.capture.chunking import AFTER_FAULT_S, ChunkReader, Later
from instep_streams.capture.commands import command, encoded, signal
from instep_streams.capture.control import progress, progressing
from instep_streams.capture.copies import Copies, Copy, Standstill
from instep_streams.capture.session import Start, choose_start

COPIES = Copies(
    [Copy("public.a", rows=40, total=100, first=True), Copy("public.b", condition="x = 1"), Copy("public.c", rows=2)]
)


def entry(state: str, *, more: bool = False) -> JournalEntry:
    at = Position(1, 8, 0)
    return JournalEntry("s", 1, 1, "1", 1, at, at, 0, 0, {}, {}, more=more, snapshot_state=state)


def test_copies_are_told_as_they_stand() -> None:
    found = progress(json.dumps({**json.loads(COPIES.state), "done": {"public.z": 9}}))
    assert [(each.table, each.state, each.rows, each.total) for each in found] == [
        ("public.z", "done", 9, 9), ("public.a", "reading", 40, 100),
        ("public.b", "waiting", 0, None), ("public.c", "reading", 2, None),
    ]  # fmt: skip
    paused = Copies(COPIES.todo, paused=True)
    assert {each.state for each in progress(paused.state)} == {"paused"}
    assert Copies.parse(paused.state) == paused and Copies.parse("") == Copies() and Copies().state == ""


def test_rate_and_time_left_come_from_the_last_minute() -> None:
    before = Copies([Copy("public.a", rows=10, total=100)])
    rated = {
        each["table"]: each for each in progressing([(0.0, before.state), (50.0, before.state), (110.0, COPIES.state)])
    }
    assert (rated["public.a"]["rate"], rated["public.a"]["left_s"]) == (0, 120.0)
    assert rated["public.b"]["rate"] is None and rated["public.c"]["left_s"] is None
    assert progressing([]) == progressing([(1.0, COPIES.state), (2.0, "")]) == []


def test_nothing_is_shown_before_a_first_snapshot_is_whole() -> None:
    assert entry("").whole and entry(COPIES.state).whole
    assert not entry("", more=True).whole
    assert not entry(Copies(COPIES.todo, initial=True).state).whole


def test_a_command_says_what_was_asked() -> None:
    asked = command(encoded("run", ("shop.a*", "plain"), "n > 1", "me"))
    assert asked.names("shop.apples") and asked.names("public.plain") and not asked.names("shop.pears")
    assert asked.condition("shop.a") == "n > 1" and asked.request == "me"
    assert command(encoded("stop", (), "", "")).tables == ()
    for wrong in (None, b"", b"[]", b'{"kind": "drop"}'):
        with pytest.raises(ValueError, match="not a command"):
            command(wrong)


def test_a_signal_that_is_not_understood_is_ignored(caplog: pytest.LogCaptureFixture) -> None:
    only = '[{"data-collection": "public.a", "filter": "x"}]'
    text = '{"data-collections": ["public\\\\.a"], "additional-conditions": ' + only + "}"
    asked = signal("1", "execute-snapshot", text)
    assert asked is not None and asked.names("public.a") and asked.condition("public.a") == "x"
    assert signal("2", "log", '{"message": "hello"}') is None and signal("3", "other", "") is None
    for wrong in ("{", "[]", '{"type": "sideways"}', '{"data-collections": ["("]}'):
        assert signal("4", "execute-snapshot", wrong) is None
    assert caplog.text.count("is not understood") == 4


def test_a_blocking_snapshot_is_asked_for_and_outlives_a_kill_in_the_journal() -> None:
    text = '{"data-collections": ["public.a"], "type": "BLOCKING", "additional-conditions": '
    text += '[{"data-collection": "public.a", "filter": "SELECT * FROM public.a"}]}'
    asked = signal("1", "execute-snapshot", text)
    assert asked is not None and asked.blocking and asked.conditions == {"public.a": "SELECT * FROM public.a"}
    standstill = Standstill(asked.tables, asked.conditions, (4096, 3), 4000, 815, None)
    copies = Copies(standstill=standstill)
    assert Copies.parse(copies.state) == copies and Copies.parse("").standstill is None
    copies.standstill = None
    assert copies.state == ""


@pytest.mark.parametrize(("orders", "start"), [(["id"], Start.FINISH), ([], Start.AGAIN)])
def test_a_killed_snapshot_is_finished_beside_the_stream_only_where_parts_can_be_read(
    orders: list[str], start: Start
) -> None:
    todo = [Copy("public.a", order=["id"], first=True), Copy("public.b", order=orders, first=True)]
    last = replace(entry(Copies(todo, initial=True).state, more=True), snapshot=True)
    assert choose_start("s", True, last) is start


@pytest.mark.parametrize("order", [[], ["id"]])
def test_a_chunk_that_takes_too_long_gets_smaller_and_where_it_cannot_it_is_told_once(
    order: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    nothing = cast(Any, None)
    reader = ChunkReader(nothing, list, nothing, chunk_rows=8, exhaust=False, primary_first=False)
    copy, waits = Copy("public.t", order=order, first=True), []
    for _ in range(6):
        with pytest.raises(Later) as later:
            reader._failed(copy, QueryCanceled())
        waits.append(later.value.seconds == AFTER_FAULT_S)
    assert waits == [bool(not order or number > 2) for number in range(6)]
    assert caplog.text.count("public.t cannot be copied yet") == 1
