import os
import subprocess
import sys
from pathlib import Path

import pytest

from instep.errors import EnvironmentFault
from instep_ops.embedded import DataFolder, Kafka, Postgres
from instep_ops.embedded.folder import secret_file


def test_a_folder_belongs_to_one_instep_at_a_time(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    first.acquire()
    with pytest.raises(EnvironmentFault, match=rf"in use by another Instep \(process {os.getpid()}\)"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()


def test_the_lock_ends_with_the_process(tmp_path: Path) -> None:
    code = f"import os; from pathlib import Path; from instep_ops.embedded import DataFolder; \
DataFolder(Path({str(tmp_path)!r})).acquire(); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    folder = DataFolder(tmp_path)
    folder.acquire()
    folder.release()


def test_a_folder_holds_one_projects_data(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data")
    folder.acquire()
    folder.claim(tmp_path / "one")
    folder.claim(tmp_path / "one")
    with pytest.raises(EnvironmentFault, match=rf"the project in {tmp_path}/one\. Give this project another `name`"):
        folder.claim(tmp_path / "two")
    folder.release()


def test_clear_keeps_only_the_lock(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    folder.acquire()
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "x").touch()
    (tmp_path / "run.json").touch()
    folder.clear()
    assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]
    other = DataFolder(tmp_path)
    with pytest.raises(EnvironmentFault):
        other.acquire()
    folder.release()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "x"
    for make in (DataFolder(place).acquire, Postgres(place).ensure, Kafka(place).ensure):
        with pytest.raises(EnvironmentFault, match=r"file\S* cannot be written") as fault:
            make()
        assert fault.value.remedy


def test_a_secret_stays_the_same_and_private(tmp_path: Path) -> None:
    secret = secret_file(tmp_path / "s")
    assert secret == secret_file(tmp_path / "s")
    assert len(secret) >= 24
    assert (tmp_path / "s").stat().st_mode & 0o077 == 0
