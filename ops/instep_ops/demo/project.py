"""The demo's project: an ordinary one, in the demo's data folder, so that every command works beside it."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from instep.settings import Settings, load

SOURCE = "shop"
TARGET = "crm"

_PROJECT = """\
# Written by `instep demo` at each start. For a project of your own: instep init DIR
name = "demo"
data = "."

[sources.shop]
dsn = "embedded"
tables = ["public.*"]
"""
_TARGET = """
[targets.crm]
type = "tryton"
url = "embedded"
"""


def write_project(folder: Path, target: str) -> Settings:
    """Write `instep.toml` and the flows into the demo's folder and load them.

    Args:
        folder: the demo's data folder.
        target: `tryton`, or `none`: the documents go to their topics only.
    """
    (folder / "instep.toml").write_text(_PROJECT + (_TARGET if target != "none" else ""), encoding="utf-8")
    (folder / "flows").mkdir(exist_ok=True)
    for file in files("instep_ops.demo").joinpath("flows").iterdir():
        text = file.read_text(encoding="utf-8")
        if target == "none":
            text = text.replace(f'target = "{TARGET}"', "")
        (folder / "flows" / file.name).write_text(text, encoding="utf-8")
    return load(folder)
