"""The embedded parts of one project: started in order, watched, stopped in reverse order."""

from __future__ import annotations

import asyncio
import logging

from instep.errors import ConfigError, InstepError
from instep.settings import EMBEDDED, Settings
from instep_ops.assemble import RunInfo
from instep_ops.embedded import Kafka, Part, Postgres, Progress, Tryton, state_server
from instep_ops.embedded.folder import make_folder
from instep_ops.embedded.ports import LOOPBACK, settle
from instep_ops.guard import Guard
from instep_ops.supervisor import BackOff, OnEvent

log = logging.getLogger(__name__)

STATE_DATABASE = "instep"
_WATCH_S = 0.5


class Parts:
    """What a project runs on this machine itself. All calls but `keep_alive` block.

    Args:
        settings: as loaded.
        stores: whether a source's store may be embedded too; only the demo brings a store of its own.

    Raises:
        ConfigError: something is `embedded` that cannot be.
    """

    def __init__(self, settings: Settings, *, stores: bool = False) -> None:
        self._settings = settings
        self._data = settings.data_dir
        self._guard: Guard | None = None
        self._stores = [name for name, source in settings.sources.items() if source.dsn == EMBEDDED]
        own_crms = [name for name, target in settings.targets.items() if target.url == EMBEDDED]
        _check(settings, [] if stores else self._stores, own_crms)
        self.store = Postgres(self._data / "store", "store") if self._stores else None
        self.kafka = Kafka(self._data / "kafka") if settings.kafka.bootstrap == EMBEDDED else None
        wanted = settings.state.dsn == EMBEDDED or own_crms
        self.state = state_server(self._data / "state") if wanted else None
        self.crms = {name: Tryton(self._data / f"crm-{name}", self._server(), database=name) for name in own_crms}

    def _server(self) -> Postgres:
        assert self.state is not None
        return self.state

    @property
    def all(self) -> list[Part]:
        """In the order in which they start: a CRM needs the state server, which holds its database."""
        return [part for part in (self.store, self.state, self.kafka, *self.crms.values()) if part is not None]

    def start(self, progress: Progress) -> RunInfo:
        """Download and set up what is missing, start everything, and give the real addresses.

        Raises:
            EnvironmentFault: this machine lacks something.
        """
        if self.all and self._guard is None:
            make_folder(self._data)
            self._guard = Guard(self._data)
        for part in self.all:
            part.ensure(progress)
            progress(f"Starting {part.name}", 0.0)
            part.start()
            progress(f"Starting {part.name}", 1.0)
        own_state = self._settings.state.dsn == EMBEDDED
        return RunInfo(
            kafka=self.kafka.bootstrap if self.kafka else "",
            registry=self._registry(),
            state=self._server().create_database(STATE_DATABASE) if own_state else "",
            sources={name: self.store.create_database(name) for name in self._stores} if self.store else {},
            targets={name: crm.target(self._settings.targets[name]).model_dump() for name, crm in self.crms.items()},
        )

    def _registry(self) -> str:
        if self._settings.registry.url != EMBEDDED:
            return ""
        host, _, port = self._settings.registry.listen.rpartition(":")
        memory = self._data / "registry" / "ports"
        memory.parent.mkdir(parents=True, exist_ok=True)
        ports = settle({"registry": int(port or 0)}, memory, "The schema registry")
        return f"http://{host or LOOPBACK}:{ports['registry']}"

    def stop(self) -> None:
        """Stop everything, the last started first."""
        for part in reversed(self.all):
            part.stop()
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    async def keep_alive(self, stop: asyncio.Event, on_event: OnEvent) -> None:
        """Start a part again when its server ended by itself; until `stop`."""
        back_off, crashes = BackOff(first=0.2), dict.fromkeys((part.name for part in self.all), 0)
        while not stop.is_set():
            for part in self.all:
                if stop.is_set() or part.alive():
                    continue
                crashes[part.name] += 1
                on_event(part.name, "ended unexpectedly; starts again")
                try:
                    await asyncio.to_thread(part.start)
                except InstepError as exc:
                    on_event(part.name, str(exc))
                    await _pause(stop, back_off.delay(crashes[part.name]))
            await _pause(stop, _WATCH_S)


def _check(settings: Settings, stores: list[str], crms: list[str]) -> None:
    for name in stores:
        raise ConfigError(f"sources.{name}.dsn is {EMBEDDED!r}, which is for the demo only.", "Name your own database.")
    for name in crms:
        if settings.targets[name].type != "tryton":
            raise ConfigError(
                f"targets.{name}.url is {EMBEDDED!r}, which only Tryton can be.", "Name the CRM's address."
            )


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return
