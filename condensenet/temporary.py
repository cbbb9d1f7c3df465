"""Temporary files and folders, locked while their process lives: what a killed one left goes with the next of its name.

Nothing here imports torch.
"""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from condensenet.file_locks import is_at, lock, open_locked, try_lock

SUFFIX = ".tmp"  # ends the name of a file that is being written
PREFIX = ".cn-"  # begins the names of temporary folders; short, since paths of sockets are
MARK, CONTENT = "made-by-condensenet", "in"  # in a temporary folder
RANDOM = "????????"  # as mkdtemp and our own names end


@contextmanager
def temporary_file(path: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """A new file beside ``path``, removed at the end if it is still there, and those that killed processes left so.

    Until it is locked, another writer takes it for abandoned: then this one makes another.
    """
    _remove_abandoned_files(path)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SUFFIX}")
        with open(temporary, "xb") as file:  # which follows no link that lies in wait
            try:
                if _is_ours(temporary, file.fileno()):
                    yield temporary, file
                    return
            finally:
                temporary.unlink(missing_ok=True)


def _is_ours(temporary: Path, descriptor: int) -> bool:
    try:
        return try_lock(descriptor) and is_at(temporary, descriptor)
    except OSError:  # a file system without locks, where nobody can take it for abandoned
        return True


def _remove_abandoned_files(path: Path) -> None:
    for left in path.parent.glob(f".{glob.escape(path.name)}.{RANDOM}{SUFFIX}"):
        with suppress(OSError), _taken(left, os.O_RDWR) as descriptor:
            if descriptor is not None:
                left.unlink()


@contextmanager
def temporary_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """An empty folder, removed at the end, and with it those of the same prefix that killed processes left there.

    It lies, beside a mark, in a folder in ``parent`` (default: where temporary files go). What has no mark of this
    machine is somebody else's.
    """
    parent = parent or Path(tempfile.gettempdir())
    _remove_abandoned_folders(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX + prefix, dir=parent))
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _mark(folder, descriptor)
        yield folder / CONTENT
    finally:
        with suppress(OSError):
            _remove_marked(folder)
        os.close(descriptor)


def relative_path(prefix: str) -> Path:
    """A path as long as that of a ``temporary_folder`` below its parent: some programs limit the length."""
    return Path(f"{PREFIX}{prefix}{RANDOM}", CONTENT)


def _mark(folder: Path, descriptor: int) -> None:
    with suppress(OSError):  # a file system without locks, where nobody can take it for abandoned
        lock(descriptor)  # after another process, which sees no mark yet
    (folder / MARK).write_bytes(_host())
    (folder / CONTENT).mkdir(0o700)


def _remove_abandoned_folders(parent: Path, prefix: str) -> None:
    for left in parent.glob(f"{PREFIX}{prefix}{RANDOM}"):
        with suppress(OSError), _taken(left, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            if descriptor is not None and os.fstat(descriptor).st_uid == os.geteuid() and _is_marked(left):
                _remove_marked(left)


def _is_marked(folder: Path) -> bool:
    return (folder / MARK).read_bytes() == _host()


def _host() -> bytes:
    """Who sees our locks: on some shared file systems no other machine does."""
    return os.uname().nodename.encode()


def _remove_marked(folder: Path) -> None:
    """The mark goes last, so that another process finishes what is killed or fails here."""
    shutil.rmtree(folder / CONTENT, ignore_errors=True)
    if not (folder / CONTENT).exists():
        (folder / MARK).unlink(missing_ok=True)
        folder.rmdir()


@contextmanager
def _taken(left: Path, flags: int) -> Iterator[int | None]:
    """What may be abandoned, open and locked; None if its process lives.

    Raises ``OSError`` if it has just gone, is another user's, or lies where there are no locks.
    """
    descriptor = open_locked(left, flags)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)
