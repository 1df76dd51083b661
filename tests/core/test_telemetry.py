import io
import json
import logging
import urllib.request
from collections.abc import Iterator

import pytest

from instep import telemetry
from instep.errors import ConfigError, EnvironmentFault


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_a_record_is_one_line_even_with_a_traceback() -> None:
    out = io.StringIO()
    telemetry.configure("capture:shop", out)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("x").exception("it broke")
    (line,) = out.getvalue().splitlines()
    assert " ERROR capture:shop x it broke\\nTraceback" in line
    assert line[10] == "T" and line[23] == "Z"


def test_json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTEP_LOG", "json")
    out = io.StringIO()
    telemetry.configure("worker:shop", out)
    logging.getLogger("x").warning("größer %d", 3)
    record = json.loads(out.getvalue())
    assert record["message"] == "größer 3"
    assert (record["level"], record["process"], record["logger"]) == ("WARNING", "worker:shop", "x")


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://instep:s3cret@db:5432/shop",
        "host=db password=s3cret dbname=shop",
        "PASSWORD = 's3cret' host=db",
        "sasl.password=s3cret",
        '"secret": "s3cret"',
    ],
)
def test_passwords_never_reach_a_line(text: str) -> None:
    out = io.StringIO()
    telemetry.configure("x", out)
    logging.getLogger("x").error("cannot connect: %s", text)
    assert "s3cret" not in out.getvalue()
    assert "***" in out.getvalue()


def test_redacting_keeps_what_is_no_secret() -> None:
    text = "http://127.0.0.1:8081/subjects and key a:b@c"
    assert telemetry.redact(text) == text


@pytest.mark.parametrize("variable", ["INSTEP_LOG", "INSTEP_LOG_LEVEL"])
def test_a_wrong_form_or_level_is_told(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "loud")
    with pytest.raises(ConfigError, match=variable):
        telemetry.configure("x")


def test_metrics_are_served() -> None:
    telemetry.OUTCOMES.labels("crm", "written").inc(3)
    port = telemetry.serve_metrics("127.0.0.1:0")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    assert 'instep_outcomes_total{kind="written",target="crm"} 3.0' in text
    with pytest.raises(EnvironmentFault, match="in use"):
        telemetry.serve_metrics(f"127.0.0.1:{port}")


@pytest.mark.parametrize("address", ["9100", "host:", "host:x"])
def test_a_wrong_metrics_address_is_told(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        telemetry.serve_metrics(address)
