"""Advisory locks on open files and folders. They end with the process that holds them, however it ends.

A forked child holds a lock as long as its parent's file is open in it: who has children calls ``unlock`` before it
closes the file.
"""

from __future__ import annotations

import fcntl
from typing import Protocol


class Open(Protocol):
    def fileno(self) -> int: ...


def try_lock(file: int | Open, *, shared: bool = False) -> bool:
    """Take the lock if it is free, and say whether it was; a lock held already changes to the kind asked for."""
    try:
        fcntl.flock(file, _kind(shared) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(file: int | Open, *, shared: bool = False) -> None:
    """Wait for the lock and take it; a lock that is held already changes to the kind asked for."""
    fcntl.flock(file, _kind(shared))


def unlock(file: int | Open) -> None:
    fcntl.flock(file, fcntl.LOCK_UN)


def _kind(shared: bool) -> int:
    return fcntl.LOCK_SH if shared else fcntl.LOCK_EX
