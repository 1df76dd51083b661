"""A broker of its own for tests that kill it or need an impatient one, and unique topic names."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from instep_ops.embedded import Kafka


@pytest.fixture(scope="session")
def rough_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """May be killed and restarted; compacts at once."""
    server = Kafka(tmp_path_factory.mktemp("rough"), settings={"log.cleaner.backoff.ms": "200"})
    server.ensure()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def unique() -> Callable[[str], str]:
    """A name nobody else uses."""
    tag = uuid.uuid4().hex[:8]
    return lambda name: f"{name}-{tag}"
