"""Tryton on this machine: a real CRM for the demo and the tests.

Tryton is GPL-3. It lives in a virtual environment of its own and runs as a process of its own; Instep talks to it over
HTTP only. Creating its database takes most of a minute, so that is done once: the finished database is kept as a dump
in the user's cache, and every later one is restored from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import psycopg
from platformdirs import user_cache_path
from psycopg import sql

from instep.errors import EnvironmentFault
from instep.settings import Secret, TargetSettings
from instep_ops.embedded.folder import make_folder, secret_file, write_private
from instep_ops.embedded.part import Progress, silent
from instep_ops.embedded.ports import LOOPBACK, settle
from instep_ops.embedded.postgres import Postgres, binary
from instep_ops.embedded.server import ServerPart, telling_line

LOCK = "tryton.lock.txt"
_BOOTSTRAP = "tryton_bootstrap.py"
_MODULES = ("party", "product", "sale", "stock")
_ROLE = "tryton"
_ADMIN_LINES = 790
"""About how many lines `trytond-admin -vv` writes while it creates the database; only the progress bar needs it."""


class Tryton(ServerPart):
    """One Tryton server with its database on a PostgreSQL that must run before `ensure` and `start`.

    Args:
        folder: its configuration, log, files and port note.
        postgres: the server that holds its database.
        port: 0: a free one, kept over restarts.
        database: name of its database.
        cache: folder of the environment and the template; default: in the user's cache directory.
    """

    name = "Tryton"

    def __init__(
        self, folder: Path, postgres: Postgres, port: int = 0, *, database: str = "crm", cache: Path | None = None
    ) -> None:
        super().__init__("Tryton", folder, port)
        self._postgres = postgres
        self._database = database
        self._cache = (cache or user_cache_path("instep")) / f"tryton-{_recipe_digest()}"

    @property
    def url(self) -> str:
        """Base address with the database's name. Only after `start`."""
        return f"http://{LOOPBACK}:{self._port}/{self._database}"

    def target(self, settings: TargetSettings | None = None) -> TargetSettings:
        """Fill address and key into a target's settings (default: a new target). Only after `start`."""
        key = (self._cache / "key").read_text(encoding="ascii")
        real = {"url": self.url, "key": Secret(key)}
        return settings.model_copy(update=real) if settings else TargetSettings(type="tryton", **real)

    def ensure(self, progress: Progress = silent) -> None:
        """Create the environment, the template and the database, each only when it is missing."""
        make_folder(self._folder)
        make_folder(self._cache)
        self._cache.chmod(0o700)
        with _alone(self._cache):
            if not (self._cache / "installed").exists():
                self._install(progress)
            self._role()
            if not self._dump.exists():
                self._make_template(progress)
            if not self._exists(self._database):
                self._restore(progress)

    @property
    def _dump(self) -> Path:
        return self._cache / "template.dump"

    def _program(self, name: str) -> str:
        return str(self._cache / "venv" / "bin" / name)

    def _install(self, progress: Progress) -> None:
        home = self._cache / "venv"
        shutil.rmtree(home, ignore_errors=True)
        step = "Installing Tryton in its own environment"
        progress(step, 0.0)
        pip = _environment(home)
        lock = str(files("instep_ops.embedded").joinpath(LOCK))
        packages = sum("==" in line for line in Path(lock).read_text(encoding="ascii").splitlines())
        _run(
            [*pip, "install", "--no-input", "--disable-pip-version-check",
             "--require-hashes", "--only-binary", ":all:", "-r", lock],
            "Tryton could not be installed", "Connect this machine to the internet for the first start.",
            lambda lines: progress(step, min(0.99, 0.1 + 0.8 * lines / (2 * packages))),
        )  # fmt: skip
        (self._cache / "installed").touch()
        progress(step, 1.0)

    def _role(self) -> None:
        with psycopg.connect(self._postgres.dsn, autocommit=True) as conn:
            if conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_ROLE,)).fetchone() is None:
                conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(_ROLE)))
            password = sql.Literal(self._password())
            conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(_ROLE), password))

    def _password(self) -> str:
        return secret_file(self._folder / "password")

    def _exists(self, database: str) -> bool:
        with psycopg.connect(self._postgres.dsn) as conn:
            found = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone()
        return found is not None

    def _make_template(self, progress: Progress) -> None:
        """Create a database with Tryton's own tools, give it a company, dump it."""
        step = "Setting up the CRM's database (once)"
        progress(step, 0.0)
        with self._scratch() as name:
            _run(
                [self._program("trytond-admin"), "-vv", "-c", str(self._configure()), "-d", name, "--email",
                 "admin@example.com", "-u", *_MODULES, "--activate-dependencies"],
                "Tryton could not create its database", "",
                lambda lines: progress(step, min(0.9, 0.9 * lines / _ADMIN_LINES)),
                env=os.environ | {"TRYTONPASSFILE": str(self._admin_password())},
            )  # fmt: skip
            key = self._cache / "key.new"
            key.touch(mode=0o600)
            script = str(files("instep_ops.embedded").joinpath(_BOOTSTRAP))
            _run(
                [self._program("python"), script, str(self._configure()), name, str(key)],
                "Tryton's company could not be set up",
            )
            dump = self._dump.with_suffix(".part")
            dump.touch(mode=0o600)
            _run(
                [binary("pg_dump"), "-Fc", "--no-owner", "--no-acl", "-f", str(dump), "-d", self._dsn(name)],
                "Tryton's database could not be kept",
            )
            key.replace(self._cache / "key")
            dump.replace(self._dump)
            self._become(name)
        progress(step, 1.0)

    def _admin_password(self) -> Path:
        secret_file(self._cache / "admin")
        return self._cache / "admin"

    def _restore(self, progress: Progress) -> None:
        step = "Creating the CRM's database"
        progress(step, 0.0)
        with self._scratch() as name:
            _run(
                [binary("pg_restore"), "--no-owner", "--no-acl", "--exit-on-error", "-j", "2", "-d", self._dsn(name),
                 str(self._dump)],
                "The CRM's database could not be restored", f"Delete {self._dump} and start again.",
            )  # fmt: skip
            self._become(name)
        progress(step, 1.0)

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """A database under work; it gets the real name when it is complete, so a half-made one is never used."""
        name = f"{self._database}_new"
        with psycopg.connect(self._postgres.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        self._postgres.create_database(name, owner=_ROLE)
        yield name

    def _become(self, name: str) -> None:
        statement = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
            sql.Identifier(name), sql.Identifier(self._database)
        )
        with psycopg.connect(self._postgres.dsn, autocommit=True) as conn:
            if not self._exists(self._database):
                conn.execute(statement)

    def _dsn(self, database: str) -> str:
        return self._postgres.database_dsn(database, _ROLE, self._password())

    def _configure(self) -> Path:
        make_folder(self._folder / "files")
        file = self._folder / "trytond.conf"
        write_private(
            file,
            f"[database]\nuri = {self._dsn('')}\npath = {self._folder / 'files'}\n"
            f"[web]\nlisten = {LOOPBACK}:{self._port or 1}\n",
        )
        return file

    def _start(self) -> None:
        self._server.end_leftover()
        self._port = settle({"web": self._port}, self._folder / "ports", "Tryton")["web"]
        self._server.start(
            [self._program("trytond"), "-c", str(self._configure()), "-d", self._database], self._answers, 60,
            cwd=self._folder,
        )  # fmt: skip

    def _answers(self) -> bool:
        with socket.socket() as probe:  # it listens only when the database is loaded
            return probe.connect_ex((LOOPBACK, self._port)) == 0


def _recipe_digest() -> str:
    """Name of the recipe: everything that the environment and the template are made of."""
    digest = hashlib.sha256(repr((_MODULES, sys.version_info[:2])).encode())
    for name in (LOCK, _BOOTSTRAP):
        digest.update(files("instep_ops.embedded").joinpath(name).read_bytes())
    return digest.hexdigest()[:12]


def _environment(home: Path) -> list[str]:
    """Make an empty environment; gives the command of a pip that installs into it.

    Our own pip does it when there is one: Debian's Python cannot put a pip into a new environment unless
    `python3-venv` is installed.
    """
    python = str(home / "bin" / "python")
    if find_spec("pip") is not None:
        venv.create(home, symlinks=True)
        return [sys.executable, "-m", "pip", "--python", python]
    try:
        venv.create(home, with_pip=True, symlinks=True)
    except subprocess.CalledProcessError as exc:
        raise EnvironmentFault(
            "This Python has no pip.", "Install python3-venv, or pip into this environment."
        ) from exc
    return [python, "-m", "pip"]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep out others that would make the same things at the same time; they wait."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(
    command: Sequence[str], fault: str, remedy: str = "", told: Callable[[int], None] = lambda lines: None,
    env: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """Run a program to its end, telling how many lines it has written so far.

    Raises:
        EnvironmentFault: it failed; quotes its last line.
    """
    lines: list[str] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, env=env,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.strip())
                told(len(lines))
        except BaseException:  # whoever is told may end it all: Ctrl-C
            process.kill()
            raise
    if process.returncode:
        raise EnvironmentFault(f"{fault}: {telling_line(chr(10).join(lines))}", remedy)
