"""The sinks of a target's flows, and the flows that a target gets."""

from __future__ import annotations

import json

from instep.errors import ConfigError, RegistryError
from instep.flowfile import Flow, load_all
from instep.plugins import sink_factory
from instep.protocols import Sink
from instep.settings import RegistrySettings, Settings
from instep.topics import flow_topic, value_subject
from instep_schemas.client import RegistryClient
from instep_schemas.wire import EXACT


def registry_client(registry: RegistrySettings) -> RegistryClient:
    """A client of the project's registry."""
    return RegistryClient.of(registry)


def target_flows(settings: Settings, target: str) -> dict[str, Flow]:
    """The flows that are delivered to a target, by name.

    Raises:
        ConfigError: there is no such target.
        FlowError: a flow file is wrong.
    """
    if target not in settings.targets:
        known = ", ".join(sorted(settings.targets)) or "none"
        raise ConfigError(f"There is no target {target!r} in instep.toml.", f"Known: {known}.")
    return {name: flow for name, flow in load_all(settings.flows_dir).items() if flow.target == target}


def delivered_columns(flow: Flow, registry: RegistryClient) -> tuple[str, ...] | None:
    """The columns that a target gets: those the flow's header names, else all of its documents.

    None: the flow has emitted nothing yet, so nobody knows its columns.

    Raises:
        RegistryError: the registry refuses.
        ConnectionError, TimeoutError: it does not answer.
    """
    if flow.delivered is not None:
        return flow.delivered
    found = registry.latest(value_subject(flow_topic(flow.name)))
    if found is None:
        return None
    schema = json.loads(found[2])
    record = schema if isinstance(schema, dict) else next(each for each in schema if isinstance(each, dict))
    return tuple(field.get("pg.name", field["name"]) for field in record["fields"] if EXACT not in field)


def open_sink(settings: Settings, flow: Flow, registry: RegistryClient | None = None, *, late: bool = False) -> Sink:
    """The sink of a flow's target.

    Args:
        settings: the project's.
        flow: one that has a target.
        registry: to look up the flow's columns, so that the sink can read before anything was written.
        late: do not look up anything: the sink learns the columns of a flow that lists none from its documents.

    Raises:
        ConfigError: the flow has no target, or the sink refuses its settings or the flow's delete rule.
        RegistryError: the flow has emitted nothing yet, or the registry refuses.
        ConnectionError, TimeoutError: the registry does not answer.
    """
    if flow.target is None:
        raise ConfigError(f"Flow {flow.name} has no target.", "Name one in its header.")
    if flow.target not in settings.targets:
        raise ConfigError(f"Flow {flow.name} names the target {flow.target!r}.", "Add it to instep.toml.")
    target = settings.targets[flow.target]
    if not late and flow.delivered is None:
        flow = flow.model_copy(update={"fields": _columns(settings, flow, registry)})
    sink = sink_factory(target.type).open(target, flow)
    if flow.delete not in sink.capabilities.deletes:
        able = ", ".join(sorted(sink.capabilities.deletes))
        raise ConfigError(f"Flow {flow.name} asks for delete = {flow.delete.value!r}.", f"This sink knows: {able}.")
    return sink


def _columns(settings: Settings, flow: Flow, registry: RegistryClient | None) -> tuple[str, ...]:
    own = registry or registry_client(settings.registry)
    try:
        found = delivered_columns(flow, own)
    finally:
        if registry is None:
            own.close()
    if found is None:
        raise RegistryError(f"Flow {flow.name} has emitted nothing yet.", "Start its worker first.")
    return found
