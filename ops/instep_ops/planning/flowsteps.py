"""Flows in a plan: how many documents a deployment would change, which columns, and what that costs the target."""

from __future__ import annotations

import json
from collections.abc import Iterator

from instep.flowfile import Flow, load_all
from instep.protocols import Document, Key
from instep.settings import Settings
from instep.topics import flow_topic
from instep_connectors.kafka import partitions, read_topic
from instep_ops.planning.removal import question
from instep_ops.planning.steps import Act, Step
from instep_schemas.administration import RegistryAdmin
from instep_schemas.documents import DocumentCodec
from instep_streams.delivery.records import waiting_of
from instep_streams.flows.preview import Preview


def flow_step(settings: Settings, admin: RegistryAdmin, found: Preview) -> Step | None:
    """The difference that a flow makes; None for one that is deployed as it is.

    Raises:
        RegistryError, KafkaFault: refused.
        ConnectionError, TimeoutError: a part does not answer.
    """
    if found.state == "same":
        return _timing_step(load_all(settings.flows_dir)[found.name], found)
    if found.state == "removed":
        was, wanted = {"version": found.deployed}, {"version": "none"}
        return Step(Act.REMOVE_FLOW, found.name, was, wanted, asks=question(settings, admin, found.name))
    if found.state == "refused":
        return Step(Act.DEPLOY_FLOW, found.name, refused=found.fault)
    flow = load_all(settings.flows_dir)[found.name]
    versions = {"version": found.deployed or None}, {"version": found.version}
    notes = [
        f"documents: {found.added} new, {found.changed} changed, {found.removed} gone",
        *_cost(settings, flow, found),
        *_samples(settings, admin, flow, found),
        "the worker deploys it at its next start",
        *([f"these come at once, later changes {flow.told_timing}"] if flow.timing else []),
    ]
    return Step(Act.DEPLOY_FLOW, found.name, *versions, notes=tuple(notes))


def _timing_step(flow: Flow, found: Preview) -> Step | None:
    """The same SELECT, whose documents are to come at other times."""
    if found.timing in ("", flow.told_timing):
        return None
    was, wanted = {"documents come": found.timing}, {"documents come": flow.told_timing}
    return Step(Act.DEPLOY_FLOW, found.name, was, wanted, notes=("the worker takes it up at its next start",))


def _cost(settings: Settings, flow: Flow, found: Preview) -> Iterator[str]:
    if flow.target is None or not found.documents:
        return
    rate = settings.targets[flow.target].calls_per_second
    took = f", {found.documents / rate:.0f} s at {rate:g} calls a second" if rate else ""
    yield f"{flow.target}: up to {found.documents} writes{took}"


def _samples(settings: Settings, admin: RegistryAdmin, flow: Flow, found: Preview) -> Iterator[str]:
    if not found.samples:
        return
    old = _held(settings, admin, flow, {each.key for each in found.samples if each.known})
    codec = DocumentCodec(found.schema)
    for sample in found.samples:
        key = ", ".join(sample.key)
        before = old.get(sample.key)
        if sample.document is None:
            yield f"- {key}"
        elif before is None or before.fields is None:
            yield f"+ {key}: {sample.document}"
        else:
            now = codec.decode(codec.encode(sample.document))
            names = [name for name in {**before.fields, **now} if before.fields.get(name) != now.get(name)]
            shown = (f"{name}: {_text(before.fields.get(name))} → {_text(now.get(name))}" for name in names)
            yield f"~ {key}: {'; '.join(shown)}"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _held(settings: Settings, admin: RegistryAdmin, flow: Flow, keys: set[Key]) -> dict[Key, Document]:
    """The documents of some keys that stand in the flow's topic now."""
    topic = flow_topic(flow.name)
    if not keys or not partitions(settings.kafka, topic):
        return {}
    found: dict[Key, Document] = {}
    for record in read_topic(settings.kafka, topic):
        document = waiting_of(record, flow.name, admin.schema).document
        if document.key in keys:
            found[document.key] = document
    return found
