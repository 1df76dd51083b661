"""What `instep up` shows of its processes' logs."""

import io
import logging
from pathlib import Path

import pytest

from instep import telemetry
from instep_ops.follow import Follower, warning


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_process_warns_of_is_told(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setenv(telemetry.FORMAT_VARIABLE, form)
    out = io.StringIO()
    telemetry.configure("capture:shop", out)
    logging.getLogger("x").info("all is well")
    logging.getLogger("x").warning("the store is away: %s", "connection refused")
    assert [told for line in out.getvalue().splitlines() if (told := warning(line))] == [
        "the store is away: connection refused"
    ]


def test_only_whole_new_lines_are_told_once(tmp_path: Path) -> None:
    log, later = tmp_path / "a.log", tmp_path / "b.log"
    log.write_text("t WARNING a x of the run before\n")
    told: list[tuple[str, str]] = []
    follower = Follower({"a": log, "b": later}, lambda *event: told.append(event))
    with log.open("a") as file:
        file.write("t INFO a x no matter\nnot a log line\nt WARNING a x first\nt ERROR a x hal")
    follower.look()
    follower.look()
    assert told == [("a", "first")]
    with log.open("a") as file:
        file.write("f a sentence\n")
    later.write_text("t WARNING b x new file\n")
    follower.look()
    assert told[1:] == [("a", "half a sentence"), ("b", "new file")]
    log.write_text("t WARNING a x cut\n")
    follower.look()
    assert told[3:] == [("a", "cut")]
