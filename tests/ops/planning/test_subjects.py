"""`instep schema …` on a real registry, as a person and as a script see it."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.fixtures.registry import running_registry

from instep.settings import KafkaSettings
from instep_ops.cli.app import run

_numbers = count()


def record(**fields: Any) -> str:
    shown = [{"name": name, **field} for name, field in fields.items()]
    return json.dumps({"type": "record", "name": "R", "namespace": "t", "fields": shown})


ID = {"type": "long"}
NAME = {"type": ["null", "string"], "default": None, "confluent:tags": ["PII"]}
V1, V2 = record(id=ID, name=NAME), record(id=ID, title={"type": ["null", "string"], "default": None})


def project_of(folder: Path, url: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "instep.toml").write_text(
        '[sources.shop]\ndsn = "x"\n[kafka]\nbootstrap = "127.0.0.1:1"\n[state]\ndsn = "x"\n'
        f'[registry]\nurl = "{url}"\n'
    )
    return folder


@pytest.fixture
def project(tmp_path: Path, registry: str) -> Path:
    return project_of(tmp_path / "project", registry)


@pytest.fixture
def subject() -> str:
    return f"subjects-{next(_numbers)}-value"


class Shell:
    """Runs `instep schema …` in a project."""

    def __init__(self, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._project, self._capsys = project, capsys

    def text(self, *words: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert run(["schema", *words, "--project", str(self._project)]) == code
        shown = self._capsys.readouterr()
        return shown.err if code > 1 else shown.out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.text(*words, "--json", code=code))


@pytest.fixture
def schema(project: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(project, capsys)


def file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "schema.avsc"
    path.write_text(text)
    return str(path)


def test_register_list_and_show(schema: Shell, subject: str, tmp_path: Path) -> None:
    first = schema.json("register", subject, file(tmp_path, V1))
    assert first["version"] == 1
    assert schema.json("register", subject, file(tmp_path, V1)) == first
    (listed,) = schema.json("ls", subject)
    assert (listed["subject"], listed["versions"], listed["id"], listed["level"]) == (
        subject, [1], first["id"], "BACKWARD",
    )  # fmt: skip
    shown = schema.json("show", subject)
    assert shown["guid"] == first["guid"]
    assert [(c["name"], c["null"], c["tags"]) for c in shown["columns"]] == [("id", False, []), ("name", True, ["PII"])]
    assert json.loads(schema.text("show", subject, "--raw"))["name"] == "R"
    text = schema.text("show", subject)
    assert first["guid"] in text and "PII" in text
    assert schema.text("ls", "no-such-prefix") == ""


def test_check_and_diff_name_the_danger(schema: Shell, subject: str, tmp_path: Path) -> None:
    schema.text("register", subject, file(tmp_path, V1))
    found = schema.json("check", subject, file(tmp_path, V2), code=1)
    assert found["refused"] == []
    change, lost = found["changes"]
    assert (lost["kind"], lost["old"], lost["danger"]) == ("tag lost", "PII", True)
    assert (change["kind"], change["old"], change["new"], change["danger"]) == ("renamed?", "name", "title", True)
    assert "DANGER name: renamed? (name → title)" in schema.text("check", subject, file(tmp_path, V2), code=1)
    assert schema.json("ls", subject)[0]["versions"] == [1], "check registers nothing"
    schema.text("register", subject, file(tmp_path, V2))
    assert schema.json("diff", subject)["changes"] == [change, lost]
    assert schema.json("diff", subject, "--from", "2", "--to", "1")["changes"][0]["old"] == "title"


def test_what_the_level_refuses_names_the_column(schema: Shell, subject: str, tmp_path: Path) -> None:
    schema.text("register", subject, file(tmp_path, V1))
    refused = schema.json("check", subject, file(tmp_path, record(id={"type": "string"}, name=NAME)), code=1)
    assert refused["refused"][0].startswith("R.id: long → string")
    assert "R.id" in schema.text("register", subject, file(tmp_path, record(id={"type": "string"})), code=6)


def test_deleting_for_good_needs_a_word(schema: Shell, subject: str, tmp_path: Path) -> None:
    schema.text("register", subject, file(tmp_path, V1))
    schema.text("register", subject, file(tmp_path, V2))
    assert schema.json("delete", subject, "--version", "1")["deleted"] == [1]
    assert schema.json("show", subject, "--version", "1")["deleted"] is True
    assert "--yes" in schema.text("delete", subject, "--permanent", code=2)
    assert schema.json("delete", subject, "--permanent", "--yes")["deleted"] == [1, 2]
    assert "40401" in schema.text("show", subject, code=6)


def test_export_and_import_keep_ids(
    schema: Shell, subject: str, tmp_path: Path, kafka: KafkaSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    schema.text("register", subject, file(tmp_path, V1))
    schema.text("register", subject, file(tmp_path, V2))
    exported = tmp_path / "schemas.json"
    assert "2 schemas of 1 subjects" in schema.text("export", str(exported), "--prefix", subject)
    assert schema.text("export", "--prefix", subject) == exported.read_text()
    with running_registry(kafka, "_schemas_cli_import") as url:
        other = Shell(project_of(tmp_path / "other", url), capsys)
        assert len(other.json("import", str(exported))["imported"]) == 2
        assert other.text("import", str(exported)) == "0 schemas imported.\n"
        assert other.json("show", subject) == schema.json("show", subject)
    exported.write_text(exported.read_text().replace("title", "header"))
    assert "does not fit its GUID" in schema.text("import", str(exported), code=6)


@pytest.mark.parametrize(
    ("text", "told"), [("{", "no Avro schema"), ('{"type":"nope"}', "no Avro schema"), (None, "cannot be read")]
)
def test_a_file_that_is_no_schema(text: str | None, told: str, schema: Shell, subject: str, tmp_path: Path) -> None:
    path = file(tmp_path, text) if text is not None else str(tmp_path / "none")
    assert told in schema.text("check", subject, path, code=2)


def test_a_single_version_has_no_difference(schema: Shell, subject: str, tmp_path: Path) -> None:
    schema.text("register", subject, file(tmp_path, V1))
    assert "no version before it" in schema.text("diff", subject, code=2)
