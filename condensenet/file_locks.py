"""Advisory locks on open files and folders. They are released when the process that holds them ends, however it ends.

A forked child inherits the parent's open file and so keeps its lock alive: a process that forks must call ``unlock``,
not just close the file.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol


class Open(Protocol):
    def fileno(self) -> int: ...


def try_lock(file: int | Open, *, shared: bool = False) -> bool:
    """Take the lock if it is free; returns whether it was. A lock already held is converted to the requested mode.

    On NFS a shared lock needs a file that is open for reading, and any other one that is open for writing.
    """
    try:
        fcntl.flock(file, _mode(shared) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(file: int | Open, *, shared: bool = False) -> None:
    """Wait for the lock and take it. A lock already held is converted to the requested mode."""
    fcntl.flock(file, _mode(shared))


def unlock(file: int | Open) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)


def open_locked(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """The descriptor of a file or folder, no link, which keeps it locked; None if another process does, or has just
    moved it. Raises ``OSError``; a pipe is not waited for.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if try_lock(descriptor) and is_at(path, descriptor):
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file or folder still is the one at ``path``. Who had its lock may have moved or removed it."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _mode(shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX
