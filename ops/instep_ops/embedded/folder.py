"""The one folder that holds the embedded parts' data, and who may use it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import IO

from instep.errors import EnvironmentFault


class DataFolder:
    """A data folder, used by one Instep at a time.

    A run that died leaves the lock free (the system drops it with the process) but perhaps servers behind; whoever
    holds the lock may therefore end servers that the folder names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: IO[str] | None = None

    def acquire(self) -> None:
        """Create the folder and take it.

        Raises:
            EnvironmentFault: it cannot be written, or another Instep uses it.
        """
        make_folder(self.path)
        lock = (self.path / "lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise EnvironmentFault(
                f"The data folder {self.path} is in use by another Instep (process {holder}).",
                "Stop that one, or name another folder with --data.",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def claim(self, project: Path) -> None:
        """Note whose data this is, once; the default folder goes by a project's name, which two may share.

        Raises:
            EnvironmentFault: it holds another project's data.
        """
        note, mine = self.path / "project", str(project.absolute())
        owner = note.read_text(encoding="utf-8").strip() if note.exists() else mine
        if owner != mine:
            raise EnvironmentFault(
                f"The data folder {self.path} holds the data of the project in {owner}.",
                f"Give this project another `name` in instep.toml; if it moved from there, delete {note}.",
            )
        note.write_text(mine, encoding="utf-8")

    def release(self) -> None:
        """Let others use it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def clear(self) -> None:
        """Delete everything in it, keeping the lock. Only for a folder that is held and whose parts are stopped."""
        for entry in self.path.iterdir():
            if entry.name == "lock":
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def make_folder(path: Path) -> None:
    """Create a folder that can be written.

    Raises:
        EnvironmentFault: it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise EnvironmentFault(
            f"The folder {path} cannot be written: {exc.strerror}.", "Give yourself the right, or name another folder."
        ) from exc


def secret_file(path: Path) -> str:
    """Read the secret kept in a file; make one on the first call. Only the owner may read it."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    secret = secrets.token_urlsafe(24)
    write_private(path, secret)
    return secret


def write_private(path: Path, text: str) -> None:
    """Write a file only the owner may read, whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_numbers(path: Path) -> dict[str, int]:
    """Read a small JSON object of numbers; empty when there is none or it is damaged (it can be made again)."""
    try:
        found = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, int)} if isinstance(found, dict) else {}
