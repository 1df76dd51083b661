import socket
import sys
from pathlib import Path

import httpx
import pytest
from tests.fixtures.postgres import PostgresForTests

from instep.errors import EnvironmentFault
from instep.settings import Secret, TargetSettings
from instep_ops.embedded import Tryton


def parties(target: TargetSettings) -> list[str]:
    answer = httpx.get(
        f"{target.url}/rest/model/party.party?f=name", headers={"Authorization": f"bearer {target.key.reveal()}"}
    )
    answer.raise_for_status()
    return [party["name"] for party in answer.json()]


def test_key_opens_the_rest_api_and_the_company_is_there(tryton: TargetSettings) -> None:
    assert "Instep Demo Shop" in parties(tryton)


def test_a_wrong_key_is_refused(tryton: TargetSettings) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        parties(tryton.model_copy(update={"key": Secret("guess")}))


def test_a_second_crm_is_fresh_and_survives_kill_and_restart(
    postgres: PostgresForTests, tryton: TargetSettings, tmp_path: Path
) -> None:
    steps: list[str] = []
    crm = Tryton(tmp_path, postgres, database="second_crm")
    crm.ensure(lambda step, fraction: steps.append(step))
    assert set(steps) == {"Creating the CRM's database"}  # environment and template were there
    crm.start()
    try:
        target = crm.target(TargetSettings(type="tryton", url="embedded", calls_per_second=3))
        assert target.url != tryton.url
        assert target.calls_per_second == 3
        httpx.post(
            f"{target.url}/rest/model/party.party",
            json={"name": "Kept"},
            headers={"Authorization": f"bearer {target.key.reveal()}"},
        ).raise_for_status()
        for end in (crm.stop, crm.kill):
            end()
            assert not crm.alive()
            crm.start()
            assert crm.url == target.url
            assert "Kept" in parties(target)
        assert "Kept" not in parties(tryton)
    finally:
        crm.stop()


def test_port_in_use_is_named(postgres: PostgresForTests, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        crm = Tryton(tmp_path, postgres, other.getsockname()[1])
        crm.ensure()
        with pytest.raises(EnvironmentFault, match=r"Tryton cannot listen on .*: the port is in use"):
            crm.start()


def test_without_a_network_the_first_installation_says_so(
    postgres: PostgresForTests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")  # nothing answers there
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    # as in a process of its own: tests of the build leave setuptools' behind, of which it warns when pip is looked for
    monkeypatch.delitem(sys.modules, "distutils", raising=False)
    crm = Tryton(tmp_path / "crm", postgres, cache=tmp_path / "cache")
    with pytest.raises(EnvironmentFault, match="Tryton could not be installed") as fault:
        crm.ensure()
    assert "internet" in fault.value.remedy
