from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instep.errors import EnvironmentFault
from instep_connectors.postgres.spool import Spool, check_folder

FRAME = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=300))


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: to whoever writes, a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@given(st.lists(FRAME))
def test_frames_come_back_as_they_were(frames: list[tuple[int, int, bytes]]) -> None:
    spool = Spool(None)
    for frame in frames:
        spool.add(*frame)
    assert list(spool.read()) == frames
    spool.close()


def test_many_frames_and_large_ones_go_through_a_file_without_a_name(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    frames = [(n, n << 33, bytes([n % 256]) * (n * 7919 % 3000)) for n in range(3000)]
    frames.append((1, 1, b"large" * 1_000_000))
    for frame in frames:
        spool.add(*frame)
    assert os.fstat(spool._file.fileno()).st_size > 5_000_000 and not list(tmp_path.iterdir())
    assert list(spool.read()) == frames
    spool.close()
    spool.close()


def test_a_full_disk_is_told_with_the_remedy_whether_it_refuses_at_once_or_at_the_end(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with files_end_at(3 << 20), pytest.raises(EnvironmentFault, match="spool") as caught:
        for _ in range(10_000):
            spool.add(1, 1, b"x" * 1000)
    assert str(tmp_path) in caught.value.cause and "stream_large" in caught.value.remedy
    with files_end_at(3 << 20):
        spool.close()
    last = Spool(tmp_path)
    last.add(1, 1, b"x" * 1000)
    with files_end_at(0):
        with pytest.raises(EnvironmentFault):
            list(last.read())  # what was in memory is written only now
        last.close()


def test_a_folder_that_takes_no_files_is_told_before_it_is_needed(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(None)
    with pytest.raises(EnvironmentFault, match="missing: No such file or directory"):
        check_folder(tmp_path / "missing")
