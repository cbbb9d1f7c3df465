"""Files that several processes share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.console import say


def write(path: Path, text: str) -> None:
    """Whole or not at all, so that who reads it meanwhile never sees a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make ``folder`` and hold it alone; waits for another process that does. The owner may remove it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            _lock(descriptor, folder)
            if folder.exists() and os.path.samestat(os.stat(folder), os.fstat(descriptor)):
                yield
                return
        finally:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say(f"waiting for another process that works in {folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
