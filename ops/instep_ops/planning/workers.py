"""How many workers share a source's keys, in a plan: a move from one number to another, and what each would emit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import psycopg

from instep.flowfile import Flow
from instep.settings import Settings
from instep_ops.planning.steps import Act, Step
from instep_streams.flows.layout import Layout, Share, behind, database, exists, known, shares
from instep_streams.flows.preview import Preview, preview
from instep_streams.flows.status import status
from instep_streams.flows.worker import failure


def share_steps(settings: Settings) -> Iterator[Step]:
    """The sources whose keys are to be divided anew, or still are.

    Raises:
        StateError: the state database refuses.
        ConnectionError: it does not answer.
    """
    for source in settings.leaders:
        own = settings.sources[source]
        try:
            layout = known(settings, source)
            if layout.workers != own.workers:
                yield Step(
                    Act.SHARE, source, {"workers": str(layout.workers)}, {"workers": str(own.workers)},
                    notes=(*_databases(settings, source), "done by the workers when they start with the new number",
                           "nothing is emitted but what has changed; each key waits until its worker has caught up"),
                )  # fmt: skip
            else:
                yield from _under_way(settings, source, layout)
        except psycopg.Error as exc:
            raise failure(exc) from exc


def _databases(settings: Settings, source: str) -> Iterator[str]:
    for share in shares(settings, source):
        if not exists(settings, source, share):
            yield f"worker {share.number}: a database of its own is made and filled from the topics"


def _under_way(settings: Settings, source: str, layout: Layout) -> Iterator[Step]:
    late = [share for share in shares(settings, source) if behind(settings, source, share, layout)]
    if not late:
        return
    told = status(settings, source)
    entries = [each["batch"] for each in told.get("shards", [told])]
    notes = [f"worker {share.number} is at journal entry {entries[share.number]}" for share in late]
    workers = {"workers": str(layout.workers)}
    yield Step(Act.SHARE, source, workers, workers, notes=(*notes, "it goes on wherever it was when the workers run"))


def previews_of(settings: Settings, source: str, flows: Mapping[str, Flow], samples: int) -> list[Preview]:
    """What deploying flows would emit, over all workers that share the source; raises as `preview`."""
    workers = known_workers(settings, source)
    found: dict[str, Preview] = {}
    for share in (Share(number, workers) for number in range(workers)):
        if not exists(settings, source, share):
            continue
        for each in preview(
            database(settings, source, share), source, flows, samples, share, settings.joined(source)
        ):  # fmt: skip
            found[each.name] = _added(found[each.name], each, samples) if each.name in found else each
    return [found[name] for name in sorted(found)]


def known_workers(settings: Settings, source: str) -> int:
    """How many workers share the source now; raises as `share_steps`."""
    try:
        return known(settings, source).workers
    except psycopg.Error as exc:
        raise failure(exc) from exc


def _added(one: Preview, other: Preview, samples: int) -> Preview:
    worse = other if other.state == "refused" else one
    return replace(
        worse, added=one.added + other.added, changed=one.changed + other.changed, removed=one.removed + other.removed,
        samples=(*one.samples, *other.samples)[: 3 * samples],
    )  # fmt: skip
