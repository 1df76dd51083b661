"""docs/reference/settings.md says what the settings say of themselves."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_is_current() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "settings_page.py"))
    written = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    assert written == tool["page"](), "run: python tools/settings_page.py"
