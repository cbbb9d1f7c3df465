"""Atomic writes: a file is either complete or absent. Where files are kept: a folder, or whatever is like one.

Nothing here imports torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

PERMANENT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


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
        return (self.path / name).read_bytes()

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


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file beside ``path``, flush it to disk and rename it. Creates the folder if necessary.

    Concurrent readers see either the old content or the new, never a part of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
