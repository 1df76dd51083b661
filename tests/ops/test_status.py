import json
from pathlib import Path
from typing import Any

import pytest

from instep.errors import StateError
from instep.settings import Settings, parse
from instep_ops import status
from instep_ops.status import Status

NOW = 1_000.0


def made(journal: int | None = 9, emitted: int | None = 9, **target: Any) -> Status:
    capture = {"lag_bytes": 10, "lag_seconds": 0.0, "journal": None if journal is None else {"batch": journal}}
    worker = {"emitted_journal_batch": emitted, "committed_us": 990_000_000}
    return Status({}, {"shop": {"capture": capture, "worker": worker}}, {"crm": target}, now=NOW)


def lags(of: Status) -> dict[str, tuple[Any, Any]]:
    return {lag.stage: (lag.behind, lag.seconds) for lag in of.lags()}


def test_nothing_behind() -> None:
    assert lags(made(waiting=0, oldest_waiting_us=None)) == {
        "capture:shop": (10, 0.0), "worker:shop": (0, 0.0), "deliver:crm": (0, 0.0),
    }  # fmt: skip


def test_what_waits_has_an_age() -> None:
    found = lags(made(journal=12, waiting=4, oldest_waiting_us=997_500_000))
    assert found["worker:shop"] == (3, 10.0)
    assert found["deliver:crm"] == (4, 2.5)


def test_what_is_not_known_is_said_so() -> None:
    found = made(journal=None, emitted=None)
    assert lags(found)["worker:shop"] == (None, None)
    (rows,) = [rows for title, _, rows in found.tables() if title == "Lag"]
    assert ("deliver:crm", "?", "?") in rows
    json.dumps(found.to_dict())


SETTINGS = parse(
    {"sources": {"shop": {"dsn": "x"}}, "targets": {"crm": {"type": "x"}}, "data": "none"}, Path("nowhere")
)


async def test_a_stage_that_does_not_answer_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def capture(settings: Settings, name: str) -> dict[str, Any]:
        raise ConnectionError("The store cannot be reached.")

    def worker(settings: Settings, name: str) -> dict[str, Any]:
        raise StateError("The state database refuses.", "Mend it.")

    async def delivery(settings: Settings, name: str) -> dict[str, Any]:
        return {"outcomes": {"written": 3}, "waiting": 0}

    monkeypatch.setattr("instep_streams.capture.status.status", capture)
    monkeypatch.setattr("instep_streams.flows.status.status", worker)
    monkeypatch.setattr("instep_streams.delivery.status.status", delivery)
    found = await status.read(SETTINGS)
    assert found.exit_code in (1, 7)
    assert found.sources["shop"]["capture"] == {"error": "The store cannot be reached."}
    assert found.sources["shop"]["worker"] == {"error": "The state database refuses. Mend it."}
    assert found.targets["crm"]["outcomes"] == {"written": 3}
    assert found.to_dict()["ok"] is False
