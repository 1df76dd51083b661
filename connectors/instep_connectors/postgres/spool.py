"""Frames put aside until it is known whether they count: in a temporary file, behind a megabyte of memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct
from tempfile import TemporaryFile
from typing import IO, Final

from instep.errors import EnvironmentFault

_BUFFER: Final = 1 << 20
"""Bytes in memory; a transaction that is not larger may never reach the disk."""

_HEAD: Final = Struct(">IIQ")
"""In front of each frame: its bytes, its (sub)transaction, its WAL position."""


class Spool:
    """One transaction's frames, in the order in which they came.

    The file has no name: it goes with the process, whatever ends that.

    Args:
        folder: of the file; None: the system's temporary folder.

    Raises:
        EnvironmentFault: it takes no file.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file = _open(folder)

    def add(self, xid: int, lsn: int, frame: bytes) -> None:
        """Put one frame aside. Hot.

        Args:
            xid: the (sub)transaction that it belongs to.
            lsn: its WAL position.
            frame: up to 4 GB.

        Raises:
            EnvironmentFault: the disk is full, or takes no more for another reason.
        """
        try:
            self._file.write(_HEAD.pack(len(frame), xid, lsn) + frame)
        except OSError as exc:
            raise _fault(self._folder, exc) from exc

    def read(self) -> Iterator[tuple[int, int, bytes]]:
        """Give what was put aside, never more than one frame at once: (sub)transaction, WAL position, frame.

        Raises:
            EnvironmentFault: the disk is full, since the last bytes are written only now, or cannot be read.
        """
        try:
            self._file.seek(0)
            while head := self._file.read(_HEAD.size):
                size, xid, lsn = _HEAD.unpack(head)
                yield xid, lsn, self._file.read(size)
        except OSError as exc:
            raise _fault(self._folder, exc) from exc

    def close(self) -> None:
        """Throw all of it away. Safe to call twice."""
        with suppress(OSError):  # a full disk refuses the last bytes once more, which nobody wants now
            self._file.close()


def check_folder(folder: Path | None) -> None:
    """Find out now, not at the first large transaction, that a folder takes no files.

    Raises:
        EnvironmentFault: it does not.
    """
    _open(folder).close()


def _open(folder: Path | None) -> IO[bytes]:
    try:
        return TemporaryFile(buffering=_BUFFER, dir=folder)
    except OSError as exc:
        raise _fault(folder, exc) from exc


def _fault(folder: Path | None, exc: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"A large transaction cannot be put aside in {folder or 'the temporary folder'}: {exc.strerror or exc}.",
        "Make room there, name another folder in the source's `spool`, or set its stream_large = false.",
    )
