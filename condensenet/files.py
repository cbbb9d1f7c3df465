"""Atomic writes: a file is either complete or absent. Bounded reads. Where files are kept: a folder, or the like.

Nothing here imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from condensenet.temporary import temporary_file

MAX_BYTES = 2**35  # of a file in a storage: the largest checkpoint of condensenet.config.bounds.MAX_WEIGHTS
PERMANENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
REMOVED = {errno.ENOENT, errno.ESTALE}  # by another machine, on a file system whose locks it does not see
ATTEMPTS = 3


class Storage(Protocol):
    """Files by name, such as a folder or a part of an object store. A write is seen as a whole or not at all.

    All methods raise ``OSError``: ``ConnectionError`` if the storage cannot be reached, ``FileNotFoundError`` if
    ``read`` or ``rename`` finds no such file. ``names`` lists what lies there directly, nothing if there is
    nothing. ``delete`` does not mind a missing file.
    """

    def read(self, name: str) -> bytes: ...

    def write(self, name: str, content: bytes) -> None: ...

    def exists(self, name: str) -> bool: ...

    def names(self) -> list[str]: ...

    def rename(self, name: str, new: str) -> None: ...

    def delete(self, name: str) -> None: ...


@dataclass(frozen=True)
class Folder:
    """The storage in a folder on disk, which the first write makes."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self, name: str) -> bytes:
        try:
            return read_regular(self.path / name, MAX_BYTES)
        except ValueError as error:
            raise OSError(errno.EINVAL, str(error)) from None

    def write(self, name: str, content: bytes) -> None:
        write_atomically(self.path / name, content)

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def names(self) -> list[str]:
        return os.listdir(self.path) if self.path.is_dir() else []

    def rename(self, name: str, new: str) -> None:
        (self.path / name).replace(self.path / new)

    def delete(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)


def as_storage(place: str | Path | Storage) -> Storage:
    return Folder(Path(place)) if isinstance(place, (str, Path)) else place


def is_permanent_write_error(error: BaseException) -> bool:
    """Whether the disk is full or not writable for us, so that a retry would fail in the same way."""
    return isinstance(error, OSError) and error.errno in PERMANENT


def sha256(path: Path) -> str:
    """The hexadecimal digest of a file, which may be larger than memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path | str, limit: int) -> bytes:
    """The content of a regular file; raises ``ValueError`` for a device or pipe, and for more than ``limit`` bytes."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if status.st_size > limit:
            raise ValueError(f"{path} has {status.st_size} bytes: at most {limit} are allowed")
        return file.read(status.st_size)


def _open_at_once(path: str, flags: int) -> int:
    """A pipe without a writer would be waited for."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to disk and rename it. Creates the folder if necessary.

    Concurrent readers see either the old content or the new, never a part of it. What a killed process had written so
    far goes with the next file of that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _write(path, content)
            return
        except OSError as error:
            if error.errno not in REMOVED or attempt == ATTEMPTS - 1:
                raise


def _write(path: Path, content: bytes) -> None:
    with temporary_file(path) as (temporary, file):
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.replace(temporary, path)
