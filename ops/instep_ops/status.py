"""`instep status`: where each stage stands. A stage that does not answer is shown with its reason."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from instep.errors import InstepError
from instep.settings import Settings
from instep_ops.verification.report import Table

Section = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one stage is behind.

    Attributes:
        stage: `capture:shop`, as its process is called.
        behind: how much waits; None: not known.
        unit: of what.
        seconds: age of the oldest commit that waits, or of the last one that does not, when that is all that is known.
    """

    stage: str
    behind: int | None
    unit: str
    seconds: float | None

    def row(self) -> tuple[str, str, str]:
        """As a person reads it."""
        behind = "?" if self.behind is None else f"{self.behind} {self.unit}"
        return self.stage, behind, "?" if self.seconds is None else f"{self.seconds:.1f}"


@dataclass(slots=True)
class Status:
    """What every stage says of itself.

    Attributes:
        processes: process id by name, of those under `instep up` on this machine.
        sources: per source `{"capture": …, "worker": …}`.
        targets: per target what its delivery says.
        exit_code: 0, or that of the first stage that did not answer.
        now: when it was read, seconds since the Unix epoch.
    """

    processes: dict[str, int] = field(default_factory=dict)
    sources: dict[str, dict[str, Section]] = field(default_factory=dict)
    targets: dict[str, Section] = field(default_factory=dict)
    exit_code: int = 0
    now: float = field(default_factory=time.time)

    def lags(self) -> list[Lag]:
        """How far each stage is behind the one before it."""
        found = []
        for name, source in self.sources.items():
            capture, worker = source["capture"], source["worker"]
            found.append(Lag(f"capture:{name}", capture.get("lag_bytes"), "bytes", capture.get("lag_seconds")))
            journal = (capture.get("journal") or {}).get("batch")
            done = worker.get("emitted_journal_batch")
            behind = None if journal is None or done is None else max(0, journal - done)
            found.append(Lag(f"worker:{name}", behind, "batches", self._age(behind, worker.get("committed_us"))))
        for name, target in self.targets.items():
            behind = target.get("waiting")
            found.append(
                Lag(f"deliver:{name}", behind, "documents", self._age(behind, target.get("oldest_waiting_us")))
            )
        return found

    def _age(self, behind: int | None, committed_us: int | None) -> float | None:
        """Seconds since a commit, while something is behind; None: not known."""
        if behind == 0:
            return 0.0
        return round(max(0.0, self.now - committed_us / 1e6), 3) if behind and committed_us else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "ok": self.exit_code == 0,
            "processes": self.processes,
            "lag": {lag.stage: {"behind": lag.behind, "unit": lag.unit, "seconds": lag.seconds} for lag in self.lags()},
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
            ("Lag", ("stage", "behind", "seconds"), [lag.row() for lag in self.lags()]),
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
    from instep_streams.capture.status import status as capture
    from instep_streams.delivery.status import status as delivery
    from instep_streams.flows.status import status as worker

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
