"""Files that several processes share: written whole, locked, told apart by their content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condensenet.files import write_atomically
from tasks.console import say


def write(path: Path, text: str) -> None:
    """Whole or not at all, with the folder it goes to."""
    write_atomically(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def lock(descriptor: int, kind: int, waiting: str) -> None:
    """Take a lock that ends with the process, however it ends; says ``waiting`` if another one holds it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        say(waiting)
        fcntl.flock(descriptor, kind)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make ``folder`` and hold it alone; waits for another process that does. The owner may remove it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            lock(descriptor, fcntl.LOCK_EX, f"waiting for another process that works in {folder}")
            if folder.exists() and os.path.samestat(os.stat(folder), os.fstat(descriptor)):
                yield
                return
        finally:
            os.close(descriptor)
