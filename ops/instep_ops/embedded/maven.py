"""Java libraries by Maven coordinates: exactly those of a committed lock, each checked by its SHA-256.

`jgo` downloads; what is wanted stands in the lock (coordinates and digests, of `jars/` and `modules/` alike when `jgo`
resolved them), so nothing is resolved on the user's machine. Files go to the user's Maven cache, and only after their
digest was checked.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from instep.errors import EnvironmentFault
from instep_ops.embedded.part import Progress

_DOWNLOADS = 4
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked library."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int

    @property
    def path(self) -> Path:
        """Its place in a Maven repository."""
        return Path(*self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar")


def read_lock(lock: str) -> list[Jar]:
    """Read a lock's text: a JSON object with `jars`, each `coordinates` (g:a:v), `sha256` and `size` (bytes)."""
    entries = json.loads(lock)["jars"]
    split = [(entry["coordinates"].split(":"), entry["sha256"], entry["size"]) for entry in entries]
    return [Jar(group, artifact, version, sha256, size) for (group, artifact, version), sha256, size in split]


def ensure_jars(jars: Sequence[Jar], what: str, progress: Progress, cache: Path | None = None) -> list[Path]:
    """Give the path of every locked library, downloading those that are missing.

    Args:
        jars: the lock.
        what: what they are for, shown with the progress.
        progress: told about downloads only.
        cache: Maven repository; default: the user's.

    Raises:
        EnvironmentFault: a download failed, or a file's digest is not the locked one.
    """
    home = cache or _user_cache()
    missing = [jar for jar in jars if not (home / jar.path).exists()]
    if missing:
        _download(missing, home, f"Downloading {what}", progress)
    for jar in jars:
        if jar not in missing:
            check(home / jar.path, jar)
    return [home / jar.path for jar in jars]


def check(file: Path, jar: Jar) -> None:
    """Compare a file with its lock.

    Raises:
        EnvironmentFault: it is another file.
    """
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != jar.sha256:
        raise EnvironmentFault(
            f"{file} is not the locked file: its SHA-256 is {found[:16]}…, the lock says {jar.sha256[:16]}….",
            "Delete the file and start again; it is then downloaded anew.",
        )


def _user_cache() -> Path:
    try:
        from jgo.config import GlobalSettings
    except ModuleNotFoundError:
        raise EnvironmentFault(
            "The embedded Kafka is not installed.", "Install it with: pip install 'instep[embedded]'."
        ) from None
    return GlobalSettings.load().repo_cache


def _download(jars: Sequence[Jar], home: Path, description: str, progress: Progress) -> None:
    total, done = sum(jar.size for jar in jars), 0
    progress(description, 0.0)
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".instep-", dir=home) as arriving, ThreadPoolExecutor(_DOWNLOADS) as pool:
        for jar in pool.map(lambda jar: _fetch(jar, Path(arriving), home), jars):
            done += jar.size
            progress(description, done / total)


def _fetch(jar: Jar, arriving: Path, home: Path) -> Jar:
    """Download one file beside the cache, check it, move it in."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    repositories = GlobalSettings.load().repositories or None  # a user's mirror; default: Maven Central
    context = MavenContext(repo_cache=arriving, timeout=_TIMEOUT_S, remote_repos=repositories)
    try:
        artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
        file = Path(artifact.resolve())
    except (OSError, RuntimeError) as exc:  # requests' errors are OSErrors
        raise EnvironmentFault(
            f"{jar.group}:{jar.artifact}:{jar.version} could not be downloaded: {exc}.",
            "Connect this machine to the internet for the first start; later starts need no network.",
        ) from exc
    check(file, jar)
    place = home / jar.path
    place.parent.mkdir(parents=True, exist_ok=True)
    file.replace(place)
    return jar
