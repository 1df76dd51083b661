import re
from pathlib import Path

import pytest

from instep.errors import EnvironmentFault
from instep_ops.embedded import silent
from instep_ops.embedded.maven import Jar, check, ensure_jars, read_lock

LOCK = """{"jars": [{"coordinates": "org.example:thing:1.2", "size": 4,
  "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}]}"""
JAR = read_lock(LOCK)[0]


def cached(home: Path, content: bytes) -> Path:
    file = home / "org" / "example" / "thing" / "1.2" / "thing-1.2.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_a_cached_file_with_the_locked_digest_needs_no_network(tmp_path: Path) -> None:
    file = cached(tmp_path, b"test")
    assert ensure_jars([JAR], "thing", silent, tmp_path) == [file]


def test_a_damaged_file_is_refused_and_named(tmp_path: Path) -> None:
    file = cached(tmp_path, b"evil")
    with pytest.raises(EnvironmentFault, match=re.escape(str(file))) as fault:
        ensure_jars([JAR], "thing", silent, tmp_path)
    assert "Delete the file" in fault.value.remedy


def test_a_missing_download_says_that_the_first_start_needs_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # nothing answers there
    with pytest.raises(EnvironmentFault, match=r"org\.example:thing:1\.2 could not be downloaded") as fault:
        ensure_jars([JAR], "thing", silent, tmp_path)
    assert "first start" in fault.value.remedy
    assert not list(tmp_path.rglob("*.jar"))


def test_the_committed_lock_names_kafka_once_each(tmp_path: Path) -> None:
    from importlib.resources import files

    jars = read_lock(files("instep_ops.embedded").joinpath("kafka.lock.json").read_text())
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars)
    assert ("kafka_2.13", "4.3.1") in {(jar.artifact, jar.version) for jar in jars}
    wrong = Jar("a", "b", "1", "0" * 64, 1)
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(EnvironmentFault):
        check(tmp_path / "x", wrong)
