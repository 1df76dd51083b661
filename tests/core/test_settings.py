from pathlib import Path

import pytest

from instep.errors import ConfigError
from instep.settings import Secret, load

PROJECT = """
name = "shop"
[sources.shop]
dsn = "env:SHOP_DSN"
[targets.crm]
type = "tryton"
url = "http://127.0.0.1:8000"
key = "env:CRM_KEY"
database = "crm"
"""


def write(folder: Path, text: str) -> Path:
    (folder / "instep.toml").write_text(text)
    return folder


def test_a_project_is_read_with_its_defaults(tmp_path: Path) -> None:
    settings = load(write(tmp_path, PROJECT))
    assert settings.sources["shop"].slot == "instep_shop"
    assert settings.kafka.bootstrap == "embedded"
    assert settings.targets["crm"].options == {"database": "crm"}
    assert settings.flows_dir == tmp_path / "flows"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (PROJECT + "\n[kafka]\nbootstrp = 'x'\n", "kafka.bootstrp"),
        ("name = 'shop'", "sources"),
        ("name = 'Shop'\n[sources.shop]\ndsn='x'", "name"),
        ("[sources.shop]\ndsn='x'\npartitions=0", "sources.shop.partitions"),
        ("name = ", "not valid TOML"),
        ("[sources.'é']\ndsn='x'\n[sources.'ü']\ndsn='x'", "topics begin with it"),
        ("[sources.shop]\ndsn='x'\n[sources.'shop.eu']\ndsn='x'", "count as those of 'shop'"),
    ],
)
def test_a_wrong_project_is_refused_by_name(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load(write(tmp_path, text))


def test_a_missing_project_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="instep init"):
        load(tmp_path)


def test_secrets_are_references_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    monkeypatch.setenv("SHOP_DSN", "postgresql://u:pw@h/d")
    assert Secret("env:SHOP_DSN").reveal() == "postgresql://u:pw@h/d"
    assert Secret(f"file:{tmp_path}/key").reveal() == "s3cret"
    assert "pw" not in repr(Secret("postgresql://u:pw@h/d"))
    monkeypatch.delenv("SHOP_DSN")
    with pytest.raises(ConfigError, match="SHOP_DSN is not set"):
        Secret("env:SHOP_DSN").reveal()
    with pytest.raises(ConfigError, match="cannot be read"):
        Secret(f"file:{tmp_path}/none").reveal()
