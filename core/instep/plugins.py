"""Sinks by name: ours and third parties' register alike, by the entry point group `instep.sinks`."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol

from instep.errors import ConfigError
from instep.flowfile import Flow
from instep.protocols import Sink
from instep.settings import TargetSettings

GROUP = "instep.sinks"


class SinkFactory(Protocol):
    """What an entry point of the group names: usually the sink class itself, with `open` as a class method."""

    def open(self, target: TargetSettings, flow: Flow) -> Sink:
        """Make the sink for one flow's object type; connects lazily.

        Raises:
            ConfigError: a setting of the target or the flow's `object` is wrong.
        """
        ...


def sink_factory(type_name: str) -> SinkFactory:
    """Find a registered sink.

    Raises:
        ConfigError: no such sink; names those that are installed.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if type_name not in found:
        raise ConfigError(f"There is no sink of type {type_name!r}.", f"Installed: {', '.join(sorted(found))}.")
    factory: SinkFactory = found[type_name].load()
    return factory
