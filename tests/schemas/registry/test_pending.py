"""Writes that are decided while others are on their way into the log."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.schemas.registry.ledger import Ledger, Records, row, seen

from instep_schemas.registry.entries import Decision, encode_key, encode_value
from instep_schemas.registry.pending import GROUP, Pending, Queue
from instep_schemas.registry.refusals import Refusal
from instep_schemas.registry.registration import register
from instep_schemas.registry.requests import schema_request
from instep_schemas.registry.store import Store


def registering(subject: str, schema: Any) -> Pending:
    request = schema_request({"schema": json.dumps(schema)})
    loop = asyncio.new_event_loop()
    loop.close()
    return Pending(lambda store: register(store, subject, request), loop.create_future())


def records(group: list[Pending]) -> Records:
    return [(encode_key(entry.key), encode_value(entry.value)) for write in group for entry in write.entries]


def answer(write: Pending) -> Any:
    write.settle()
    return write.answer.result()


def test_writes_of_one_group_see_each_other() -> None:
    queue = Queue()
    writes = [registering(*each) for each in (("a", row("r")), ("a", row("r")), ("b", row("r")), ("b", row("r", "x")))]
    for write in writes:
        queue.add(write)
    group = queue.group(Store(), 0)
    assert len(records(group)) == 3
    assert [(answer(write)["id"], answer(write)["version"]) for write in group] == [(1, 1), (1, 1), (1, 1), (2, 2)]


def test_a_write_is_decided_on_what_is_under_way_and_anew_when_that_failed() -> None:
    queue, store = Queue(), Store()
    queue.add(registering("a", row("r")))
    under_way = queue.group(store, 0)
    refused, found = registering("a", {"type": "string"}), registering("a", row("r"))
    queue.add(refused)
    queue.add(found)
    assert isinstance(refused.outcome, Refusal) and refused.outcome.code == 409
    assert found.outcome is not None and not found.entries
    assert not refused.answer.done() and not found.answer.done()
    queue.forget()
    group = queue.group(store, 3)
    assert group == [refused, found] and queue.expected == 3
    assert [answer(refused)["id"], under_way[0].answer.done()] == [1, False]
    with pytest.raises(Refusal):
        answer(found)


def test_what_comes_again_comes_first() -> None:
    queue = Queue()
    writes = [registering("a", row("r", *"xyz"[:n])) for n in range(4)]
    queue.add(writes[0])
    queue.add(writes[1])
    group = queue.group(Store(), 0)
    queue.add(writes[2])
    for write in group:
        write.alone = True
    queue.forget(group)
    queue.add(writes[3])
    assert [queue.group(Store(), 5) for _ in range(3)] == [[writes[0]], [writes[1]], writes[2:]]
    assert not queue


def test_groups_have_a_limit() -> None:
    queue = Queue()
    for number in range(GROUP + 1):
        queue.add(registering(f"s{number}", row(f"r{number}")))
    assert [len(queue.group(Store(), 0)), len(queue.group(Store(), 0))] == [GROUP, 1]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sets(st.sampled_from("xy")), st.sampled_from(["go", "add", "fail"])),
        max_size=30,
    )
)
def test_any_interleaving_leaves_a_dense_log(steps: list[tuple[str, set[str], str]]) -> None:
    """Groups that fail leave nothing behind; those that do not are one history, decided as if one after another."""
    queue, ledger = Queue(), Ledger()
    answers: list[Any] = []
    for subject, fields, step in (*steps, ("a", set(), "go")):
        queue.add(registering(subject, row("r", *sorted(fields))))
        if step == "add":
            continue
        group = queue.group(ledger.store, len(ledger.records))
        if step == "fail":
            queue.forget(group)
            continue
        for write in group:
            assert isinstance(write.outcome, Decision)
            ledger.carry_out(write.outcome)
            answers.append(answer(write))
        assert queue.ahead is not None and seen(queue.ahead) == seen(ledger.store)
    for subject in ledger.store.subjects():
        versions = ledger.store.versions(subject)
        assert [version.version for version in versions] == list(range(1, len(versions) + 1))
    ids = {version.schema_id: version.content.guid for version in ledger.store.every_version()}
    assert len(set(ids.values())) == len(ids)
    assert all(ids[each["id"]] == each["guid"] for each in answers)


def test_a_copy_goes_its_own_way() -> None:
    ledger = Ledger()
    ledger.register("a", row("r"))
    copy = ledger.store.copy()
    before = seen(copy)
    ledger.register("a", row("r", "x"))
    ledger.register(":.c:b", row("other"))
    assert seen(copy) == before != seen(ledger.store)


def test_one_that_is_too_large_refuses_no_others(registry: str) -> None:
    def post(number: int) -> int:
        schema = {**row(f"group{number}"), "doc": "x" * (2_000_000 if number == 5 else 1)}
        body = {"schema": json.dumps(schema)}
        return httpx.post(f"{registry}/subjects/group{number}/versions", json=body, timeout=60).status_code

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(post, range(10))) == [200] * 5 + [422] + [200] * 4
