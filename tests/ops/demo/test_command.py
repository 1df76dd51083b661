"""What the demo refuses before it starts anything."""

from pathlib import Path

import pytest

from instep.errors import ConfigError, EnvironmentFault
from instep_ops.demo.command import DemoOptions, run


def test_a_crm_that_the_demo_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no CRM 'salesforce'"):
        run(DemoOptions(target="salesforce", data=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_report_that_could_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        run(DemoOptions(report=tmp_path / "no" / "report.json", data=tmp_path / "data"))
    assert not (tmp_path / "data").exists()
