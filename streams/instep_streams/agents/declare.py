"""What a project's agents say of themselves, and how their files are read. No I/O but the files."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from instep.errors import ConfigError
from instep.protocols import Document

FOLDER: Final = "agents"
"""Of a project."""


class Send(NamedTuple):
    """One record to send.

    Attributes:
        topic: one of the agent's `to`.
        key: its key, as UTF-8.
        value: sent as JSON; None: a tombstone.
    """

    topic: str
    key: str
    value: Mapping[str, Any] | None


Work = Callable[[Sequence[Document]], Awaitable[Sequence[Send] | None]]


@dataclass(frozen=True, slots=True)
class Agent:
    """One declared agent.

    Attributes:
        name: the function's: its consumer group and dead letters bear it.
        flows: whose documents it reads.
        work: the function.
        to: the topics it may send to; they are made when missing.
        batch: most documents of a call.
        attempts: failures of a batch before its documents are tried one by one, and those that still fail put away.
    """

    name: str
    flows: tuple[str, ...]
    work: Work
    to: tuple[str, ...]
    batch: int
    attempts: int


_declared: list[Agent] = []


def agent(*flows: str, to: Sequence[str] = (), batch: int = 500, attempts: int = 5) -> Callable[[Work], Work]:
    """Make an async function of documents an agent.

    It gets consecutive documents of one partition, so those of one key come in order and one call at a time. What it
    returns is acknowledged by Kafka before the documents count as done; after a crash they come again, so it must
    bear to see a document twice. It must not block the event loop.

    Args:
        flows: whose documents it reads.
        to: topics it may send to.
        batch: most documents of a call.
        attempts: see `Agent`.

    Raises:
        ConfigError: no flow is named.
    """
    if not flows or not all(isinstance(each, str) for each in flows):
        raise ConfigError("An agent names no flow.", 'Write @agent("FLOW").')

    def declare(work: Work) -> Work:
        _declared.append(Agent(work.__name__, flows, work, tuple(to), batch, attempts))
        return work

    return declare


def load_agents(root: Path) -> dict[str, Agent]:
    """Read `agents/*.py` of a project; by name.

    Raises:
        ConfigError: a file cannot be loaded, or a name is there twice.
    """
    found: dict[str, Agent] = {}
    for file in sorted((root / FOLDER).glob("*.py")):
        _declared.clear()
        name = f"instep_agents_{file.stem}"
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as exc:
            words = (str(exc).splitlines() or [""])[0]
            raise ConfigError(f"{FOLDER}/{file.name} cannot be loaded: {type(exc).__name__}: {words}.") from exc
        for each in _declared:
            if each.name in found:
                raise ConfigError(f"Two agents are called {each.name}.", "Give one of the functions another name.")
            found[each.name] = each
    return found
