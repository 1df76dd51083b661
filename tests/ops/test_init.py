import re
from pathlib import Path

import pytest

from instep.errors import ConfigError, EnvironmentFault
from instep.flowfile import load_all
from instep.settings import load
from instep_ops.init import create, project_name


def test_the_new_project_is_valid(tmp_path: Path) -> None:
    made = create(tmp_path / "My Shop")
    assert sorted(path.name for path in made) == [".gitignore", "README.md", "example.sql", "instep.toml"]
    settings = load(tmp_path / "My Shop")
    assert settings.name == "my-shop"
    assert list(settings.sources) == ["shop"]
    assert load_all(settings.flows_dir)["example"].key == ("id",)
    assert "@NAME@" not in "".join(path.read_text() for path in made)


def test_the_commented_settings_are_valid_too(tmp_path: Path) -> None:
    (toml, *_) = create(tmp_path / "shop")
    lines = toml.read_text().splitlines()
    # a commented setting or table, not a commented sentence
    setting = re.compile(r'# (\[|"?[\w.]+"? = )')
    wanted = [line[2:] if setting.match(line) else line for line in lines]
    toml.write_text("\n".join(wanted))
    settings = load(toml)
    assert settings.targets["crm"].type == "tryton"
    assert settings.kafka.replication == 3
    assert settings.kafka.options["security.protocol"] == "SASL_SSL"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "instep.toml").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        create(tmp_path)
    assert (tmp_path / "instep.toml").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["instep.toml"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        create(tmp_path / "file" / "project")


@pytest.mark.parametrize(
    ("folder", "name"), [("shop", "shop"), ("My Shop!", "my-shop"), ("2026", "instep-2026"), ("__", "instep")]
)
def test_project_names(folder: str, name: str) -> None:
    assert project_name(Path("/x") / folder) == name
