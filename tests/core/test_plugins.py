import pytest

from instep.errors import ConfigError
from instep.plugins import sink_factory


def test_an_unknown_sink_names_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="tryton"):
        sink_factory("nosuch")
