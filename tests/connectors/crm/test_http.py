from __future__ import annotations

from datetime import UTC, datetime

import httpx
import pytest
from aiohttp import web
from tests.connectors.crm.contract import Contract, contract

from instep.errors import TargetError
from instep.protocols import Rejected, Retry, Throttled, Unknown
from instep_connectors.crm.http import Answer, CrmHttp, retry_after, words


async def call(state: Contract, fault: str, *, writes: bool = True) -> object:
    state.schedule.append(fault)
    http = CrmHttp("The CRM", state.url, {"Authorization": "bearer secret"}, timeout=0.2)
    try:
        method = http.write if writes else http.read
        return await method("POST", "write", {"records": {"a": {"v": 1}}})
    finally:
        await http.aclose()


@pytest.mark.parametrize(
    ("fault", "write", "read"),
    [
        ("none", Answer, Answer),
        ("http 500", Unknown, Retry),
        ("http 500 after commit", Unknown, Retry),
        ("http 503", Retry, Retry),
        ("http 429", Throttled, Throttled),
        ("lost before", Unknown, Retry),
        ("lost after", Unknown, Retry),
        ("cut off", Unknown, Retry),
        ("slow", Unknown, Retry),
    ],
)
async def test_each_fault_says_what_is_known(fault: str, write: type, read: type) -> None:
    async with contract() as state:
        assert isinstance(await call(state, fault), write)
        assert isinstance(await call(state, fault, writes=False), read)


async def test_a_refusal_carries_the_targets_words() -> None:
    async with contract() as state:
        state.refused.add("a")
        assert await call(state, "none") == Rejected("http 400", "1 bad")


async def test_a_page_of_html_is_read_for_people() -> None:
    async with contract() as state:
        assert await call(state, "http 500") == Unknown("http 500: No & no")


async def test_nothing_was_sent_when_nobody_listens() -> None:
    async with contract() as state:
        url = state.url
    http = CrmHttp("The CRM", url, {})
    answer = await http.write("PUT", "x", {})
    await http.aclose()
    assert isinstance(answer, Retry)


async def test_a_refused_key_is_for_a_person_and_stays_secret() -> None:
    async with contract() as state:
        state.locked_out = True
        with pytest.raises(TargetError) as caught:
            await call(state, "none")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text="<h1>Sign in</h1>", content_type="text/html"),
        web.Response(status=302, headers={"Location": "/login"}),
    ],
)
async def test_what_is_no_api_is_for_a_person(answer: web.Response) -> None:
    async def give(request: web.Request) -> web.Response:
        return answer

    app = web.Application()
    app.router.add_get("/", give)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    http = CrmHttp("The CRM", f"http://127.0.0.1:{runner.addresses[0][1]}", {})
    with pytest.raises(TargetError, match="url"):
        await http.read("GET", "")
    await http.aclose()
    await runner.cleanup()


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    assert retry_after("2.5", now) == 2.5
    assert retry_after("Tue, 24 Nov 2026 08:00:30 GMT", now) == 30
    assert retry_after("Tue, 24 Nov 2026 07:00:30 GMT", now) == 0
    assert retry_after("soon", now) is None
    assert retry_after(None, now) is None


def test_words_are_short_and_found_in_every_shape() -> None:
    assert words(httpx.Response(400, json=[{"errorCode": "X", "message": "bad\n name"}])) == "bad name"
    assert words(httpx.Response(400, json={"error": "no"})) == "no"
    assert words(httpx.Response(400, json={"other": 1})) == '{"other": 1}'
    assert words(httpx.Response(404, text="<title>t</title><p>not</p><p>here</p>")) == "not here"
    assert words(httpx.Response(404)) == "Not Found"
    assert len(words(httpx.Response(400, text="x" * 9999))) == 500
