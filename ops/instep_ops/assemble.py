"""Composition root: a project's settings become the processes, addresses and parts that run it.

`embedded` as an address means that `instep up` runs the part on this machine. It writes the real addresses to
`<data>/run.json` (readable by its owner only); every other command reads them there, so that `instep status` or
`instep verify` work beside a running project.
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from instep.errors import ConfigError, EnvironmentFault
from instep.settings import EMBEDDED, KafkaSettings, Model, Secret, Settings, TargetSettings
from instep_ops.supervisor import Program

RUN_FILE = "run.json"
LOCK_FILE = "lock"


class RunInfo(Model):
    """Where the embedded parts of a running project are; empty texts for parts that are not embedded."""

    kafka: str = Field("", description="bootstrap servers")
    registry: str = Field("", description="address of the registry, `http://HOST:PORT`")
    state: str = Field("", description="connection string of Instep's own database")
    sources: dict[str, str] = Field(default_factory=dict, description="connection string by source")
    targets: dict[str, dict[str, Any]] = Field(default_factory=dict, description="whole target settings by name")

    def write(self, data: Path) -> None:
        """Write it where other commands find it, whole or not at all."""
        from instep_ops.embedded.folder import write_private

        write_private(data / RUN_FILE, self.model_dump_json())


def running(settings: Settings) -> RunInfo | None:
    """Where the parts of a running `instep up` are; None when none runs on this project's data folder."""
    data = settings.data_dir
    if not _is_held(data / LOCK_FILE):
        return None
    try:
        return RunInfo.model_validate_json((data / RUN_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as exc:
        raise EnvironmentFault(
            f"{data / RUN_FILE} cannot be read: {exc}.", "Stop `instep up` and start it again."
        ) from exc


def _is_held(lock: Path) -> bool:
    # The system drops the lock with its holder, so a run that was killed never looks alive.
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def embedded_names(settings: Settings) -> list[str]:
    """The settings whose address is `embedded`, as a person writes them."""
    return list(_embedded(settings))


def _embedded(settings: Settings) -> Iterator[str]:
    if settings.kafka.bootstrap == EMBEDDED:
        yield "kafka.bootstrap"
    if settings.registry.url == EMBEDDED:
        yield "registry.url"
    if settings.state.dsn == EMBEDDED:
        yield "state.dsn"
    yield from (f"sources.{name}.dsn" for name, source in settings.sources.items() if source.dsn == EMBEDDED)
    yield from (f"targets.{name}.url" for name, target in settings.targets.items() if target.url == EMBEDDED)


def resolve(settings: Settings, run: RunInfo | None) -> Settings:
    """Put real addresses in the place of `embedded` and of references (`env:NAME`).

    Raises:
        EnvironmentFault: a part is embedded and does not run.
        ConfigError: a part is embedded and the running `instep up` does not know it.
    """
    names = embedded_names(settings)
    if names and run is None:
        raise EnvironmentFault(
            f'This project is not running, and {", ".join(names)} = "embedded" needs it to.',
            "Start it with `instep up`, or name servers of your own in instep.toml.",
        )
    resolved = _with_references(_with_parts(settings, run) if run is not None else settings)
    left = embedded_names(resolved)
    if left:
        raise ConfigError(
            f"{', '.join(left)} is embedded, but what runs now was started without it.",
            "Stop `instep up` and start it again.",
        )
    return resolved


def _with_references(settings: Settings) -> Settings:
    """Addresses may be references to the environment, as secrets are."""
    targets = {
        name: target.model_copy(update={"url": Secret(target.url).reveal()})
        for name, target in settings.targets.items()
    }
    kafka = settings.kafka.model_copy(update={"bootstrap": Secret(settings.kafka.bootstrap).reveal()})
    registry = settings.registry.model_copy(update={"url": Secret(settings.registry.url).reveal()})
    return settings.model_copy(update={"targets": targets, "kafka": kafka, "registry": registry})


def _with_parts(settings: Settings, run: RunInfo) -> Settings:
    state = settings.state
    if state.dsn == EMBEDDED and run.state:
        state = state.model_copy(update={"dsn": Secret(run.state)})
    return settings.model_copy(
        update={
            "kafka": _kafka(settings, run),
            "registry": settings.registry.model_copy(update=_registry(settings, run)),
            "state": state,
            "sources": _sources(settings, run),
            "targets": _targets(settings, run),
        }
    )


def _kafka(settings: Settings, run: RunInfo) -> KafkaSettings:
    if settings.kafka.bootstrap != EMBEDDED:
        return settings.kafka
    return settings.kafka.model_copy(update={"bootstrap": run.kafka or EMBEDDED})


def _registry(settings: Settings, run: RunInfo) -> dict[str, str]:
    if settings.registry.url != EMBEDDED or not run.registry:
        return {}
    return {"url": run.registry, "listen": run.registry.rpartition("//")[2].rstrip("/")}


def _sources(settings: Settings, run: RunInfo) -> dict[str, Any]:
    return {
        name: source.model_copy(update={"dsn": Secret(run.sources[name])})
        if source.dsn == EMBEDDED and name in run.sources
        else source
        for name, source in settings.sources.items()
    }


def _targets(settings: Settings, run: RunInfo) -> dict[str, TargetSettings]:
    return {
        name: TargetSettings(**run.targets[name]) if target.url == EMBEDDED and name in run.targets else target
        for name, target in settings.targets.items()
    }


def programs(settings: Settings, project: Path) -> list[Program]:
    """The processes of a project, in the order in which they start.

    Args:
        settings: as loaded; addresses may still be `embedded`.
        project: the folder of `instep.toml`, handed to each process.
    """

    def program(name: str, *words: str) -> Program:
        command = (sys.executable, "-m", "instep_ops.cli", *words, "--project", str(project.absolute()))
        return Program(name, command)

    registry = [program("registry", "registry")] if settings.registry.url == EMBEDDED else []
    return [
        *registry,
        *(program(f"capture:{name}", "capture", name) for name, source in settings.sources.items() if source.journal),
        *(
            program(f"worker:{name}{f':{number}' if settings.sources[name].workers > 1 else ''}", "worker", name)
            for name in settings.leaders
            for number in range(settings.sources[name].workers)
        ),
        *(program(f"deliver:{name}", "deliver", name) for name in settings.targets),
        *([program("agents", "agents")] if any((settings.root / "agents").glob("*.py")) else []),
    ]
