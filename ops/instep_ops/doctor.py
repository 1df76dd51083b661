"""`instep doctor`: everything a project needs, each with its cause and remedy, in the order in which it is needed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instep.errors import EnvironmentFault, InstepError, KafkaFault, RegistryError, SourceError, StateError
from instep.flowfile import load_all
from instep.settings import EMBEDDED, Settings, load
from instep_ops.assemble import embedded_names, resolve, running

if TYPE_CHECKING:
    from instep_ops.flows import FlowCheck


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        ok: whether it is right; a skipped check is right.
        cause: what is wrong, or why it was skipped.
        remedy: what to do.
        exit_code: 0, or the code of the fault.
        skipped: it could not be looked at (yet).
    """

    name: str
    ok: bool
    cause: str = ""
    remedy: str = ""
    exit_code: int = 0
    skipped: bool = False

    def line(self) -> str:
        """As a person reads it: one line."""
        mark = "-" if self.skipped else ("ok" if self.ok else "FAILED")
        return " ".join(f"{mark:<6} {self.name}: {self.cause} {self.remedy}".split("\n")).rstrip(": ").rstrip()

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {name: getattr(self, name) for name in ("name", "ok", "skipped", "cause", "remedy")}


def fine(name: str) -> Check:
    """Nothing is wrong."""
    return Check(name, True)


def skipped(name: str, why: str) -> Check:
    """It could not be looked at."""
    return Check(name, True, why, skipped=True)


def failed(name: str, exc: Exception, kind: type[InstepError] = InstepError) -> Check:
    """Something is wrong; `kind` gives the exit code of a passing fault."""
    if isinstance(exc, InstepError):
        return Check(name, False, exc.cause, exc.remedy, exc.exit_code)
    return Check(name, False, " ".join(str(exc).split()), "Start it, or correct its address.", kind.exit_code)


def attempt(name: str, kind: type[InstepError], work: Callable[[], object]) -> Check:
    """Do it and say how it went."""
    try:
        work()
    except (InstepError, ConnectionError, TimeoutError) as exc:
        return failed(name, exc, kind)
    return fine(name)


async def examine(project: Path) -> list[Check]:
    """Check a project. Changes nothing but a probe file in the data folder."""
    try:
        settings = load(project)
        flows = load_all(settings.flows_dir)
    except InstepError as exc:
        return [failed("project", exc)]
    checks = [fine("project"), _flow_files(settings, len(flows)), _transcoder()]
    checks += await asyncio.to_thread(lambda: list(_machine(settings)))
    embedded_state = settings.state.dsn == EMBEDDED
    try:
        settings = resolve(settings, running(settings))
    except EnvironmentFault:
        left = set(embedded_names(settings))
        checks += await asyncio.to_thread(lambda: list(_store_side(settings)))
        return [*checks, *(skipped(name, "embedded, and `instep up` does not run") for name in sorted(left))]
    except InstepError as exc:
        return [*checks, failed("addresses", exc)]
    from instep_ops.examinations import advised_memory, kafka, registry, state, targets

    checks += await asyncio.to_thread(lambda: list(_store_side(settings)))
    checks += await asyncio.gather(
        asyncio.to_thread(attempt, "kafka", KafkaFault, lambda: kafka(settings)),
        asyncio.to_thread(attempt, "registry", RegistryError, lambda: registry(settings)),
        asyncio.to_thread(attempt, "state", StateError, lambda: state(settings)),
    )
    if not embedded_state and checks[-1].ok:
        advised = await asyncio.to_thread(advised_memory, settings.state.dsn.reveal())
        checks[-1] = advised or checks[-1]
    return [*checks, *[check async for check in targets(settings)]]


def _flow_files(settings: Settings, count: int) -> Check:
    if count:
        return fine("flow files")
    return Check(
        "flow files", False, f"There are no flows in {settings.flows_dir}.",
        "Write one: a SELECT in a file `NAME.sql`.", 2,
    )  # fmt: skip


def _transcoder() -> Check:
    from instep_schemas.built import told

    return Check("transcoder", True, told())


def _machine(settings: Settings) -> Iterator[Check]:
    """What the embedded parts need of this machine."""
    if not embedded_names(settings):
        return
    yield attempt("data folder", EnvironmentFault, lambda: _writable(settings.data_dir))
    if settings.kafka.bootstrap == EMBEDDED:
        from instep_ops.embedded.kafka import java

        yield attempt("java", EnvironmentFault, java)
    if settings.state.dsn == EMBEDDED:
        from instep_ops.embedded.postgres import binary

        yield attempt("postgresql", EnvironmentFault, lambda: binary("postgres"))


def _writable(folder: Path) -> None:
    """A folder that does not exist yet must be possible, and is not made."""
    from instep_ops.embedded.folder import make_folder

    if folder.exists():
        make_folder(folder)
        return
    above = next(each for each in folder.absolute().parents if each.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise EnvironmentFault(
            f"The folder {folder} cannot be made in {above}.", "Give yourself the right, or name another folder (data)."
        )


def _store_side(settings: Settings) -> Iterator[Check]:
    """The stores, and the flows that read them."""
    checks = list(_stores(settings))
    yield from checks
    if any(source.dsn == EMBEDDED for source in settings.sources.values()):
        return
    if all(check.ok for check in checks):
        yield from _flows(settings)
    else:
        yield skipped("flows", "they need the store")


def _stores(settings: Settings) -> Iterator[Check]:
    """Each source, as its capture would see it."""
    from instep_streams.capture.status import preflight

    for name, source in settings.sources.items():
        if source.dsn == EMBEDDED or not source.journal:
            continue
        try:
            checks = preflight(settings, name)
        except InstepError as exc:
            yield failed(f"source {name}", exc)
            continue
        for check in checks:
            code = 0 if check.ok else SourceError.exit_code
            yield Check(f"source {name}: {check.name}", check.ok, check.cause, check.remedy, code)


def _flows(settings: Settings) -> Iterator[Check]:
    """Each flow, compiled against the store."""
    from instep_ops.flows import check_all

    try:
        checks = check_all(settings, None)
    except (InstepError, ConnectionError) as exc:
        yield failed("flows", exc, SourceError)
        return
    for each in checks:
        yield (
            _captured(each)
            if each.uncaptured
            else Check(f"flow {each.name}", each.ok, each.cause, each.remedy, each.exit_code)
        )


def _captured(flow: FlowCheck) -> Check:
    """A flow that compiles, but would miss changes."""
    missing = ", ".join(flow.uncaptured)
    return Check(
        f"flow {flow.name}", False, f"It reads {missing}, which the publication does not hold: changes do not arrive.",
        f"ALTER PUBLICATION … ADD TABLE {missing}; then `instep verify` says whether rows from before are missing.",
        SourceError.exit_code,
    )  # fmt: skip
