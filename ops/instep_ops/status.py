"""`instep status`: where each stage stands. A stage that does not answer is shown with its reason."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from instep.errors import InstepError
from instep.settings import Settings
from instep_ops.verification.report import Table

Section = dict[str, Any]


@dataclass(slots=True)
class Status:
    """What every stage says of itself.

    Attributes:
        processes: process id by name, of those under `instep up` on this machine.
        sources: per source `{"capture": …, "worker": …}`.
        targets: per target what its delivery says.
        exit_code: 0, or that of the first stage that did not answer.
    """

    processes: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, Section]] = field(default_factory=dict)
    targets: dict[str, Section] = field(default_factory=dict)
    exit_code: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "ok": self.exit_code == 0,
            "processes": self.processes,
            "sources": self.sources,
            "targets": self.targets,
        }

    def tables(self) -> list[Table]:
        """What a person sees."""
        stages = [
            (f"{stage}:{source}", name, value)
            for source, each in self.sources.items()
            for stage, section in each.items()
            for name, value in _flat(section)
        ]
        targets = [
            (f"deliver:{target}", name, value) for target, each in self.targets.items() for name, value in _flat(each)
        ]
        return [
            ("Processes", ("process", "id"), list(self.processes.items())),
            ("Stages", ("stage", "what", "value"), stages + targets),
        ]


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in section.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


async def read(settings: Settings) -> Status:
    """Ask every stage, all at once.

    Args:
        settings: resolved.
    """
    from instep_streams.flows.status import status as worker

    from instep_streams.capture.status import status as capture
    from instep_streams.delivery.status import status as delivery

    result = Status(processes=_processes(settings))

    async def ask(work: Callable[[Settings, str], Any], name: str) -> Section:
        section, code = await _ask(work, settings, name)
        result.exit_code = result.exit_code or code
        return section

    captures, workers, deliveries = await asyncio.gather(
        asyncio.gather(*(ask(capture, name) for name in settings.sources)),
        asyncio.gather(*(ask(worker, name) for name in settings.sources)),
        asyncio.gather(*(ask(delivery, name) for name in settings.targets)),
    )
    for name, own_capture, own_worker in zip(settings.sources, captures, workers, strict=True):
        result.sources[name] = {"capture": own_capture, "worker": own_worker}
    result.targets = dict(zip(settings.targets, deliveries, strict=True))
    return result


async def _ask(work: Callable[[Settings, str], Any], settings: Settings, name: str) -> tuple[Section, int]:
    try:
        found = await asyncio.to_thread(work, settings, name)
        return dict(await found if inspect.isawaitable(found) else found), 0
    except InstepError as exc:
        return {"error": str(exc)}, exc.exit_code
    except (ConnectionError, TimeoutError) as exc:
        return {"error": str(exc)}, 1


def _processes(settings: Settings) -> dict[str, int]:
    """Processes under `instep up`, from its notes; none when it does not run."""
    from instep_ops.assemble import running

    if running(settings) is None:
        return {}
    return {file.stem: int(file.read_text() or 0) for file in sorted((settings.data_dir / "run").glob("*.pid"))}
