"""Real parts for every test: each fixture plug-in lives in tests/fixtures and is loaded here."""

import shutil
import signal
import tempfile

import pytest
from hypothesis import settings

pytest_plugins = [
    "tests.fixtures.postgres",
    "tests.fixtures.kafka",
    "tests.fixtures.registry",
    "tests.fixtures.tryton",
]

# How long one example takes says more about the machine's neighbours than about the code.
settings.register_profile("instep", deadline=None)
settings.load_profile("instep")

_OWN = pytest.StashKey[str]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Give each run a folder of its own.

    As root, PostgreSQL runs as another user and must be able to enter it; the folder that pytest shares between runs is
    closed again by every run that starts meanwhile.
    """
    # A shell starts background jobs with SIGINT ignored, and children inherit that: they would not hear Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.option.basetemp is None:
        config.stash[_OWN] = config.option.basetemp = tempfile.mkdtemp(prefix="instep-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that folder."""
    if (own := config.stash.get(_OWN, None)) is not None:
        shutil.rmtree(own, ignore_errors=True)
