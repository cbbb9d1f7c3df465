"""Folders beside the one that is being made: locked while a writer lives, so that the next one knows which are left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from condensenet.file_locks import open_locked


@contextmanager
def resumable_folder(root: Path, key: str) -> Iterator[Path]:
    """A folder beside ``root`` for work in progress: after a failure or a kill the next with the same ``key`` gets it.

    Those that other writers have left are removed. Raises ``ValueError`` if another process has entered it.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    folder = root.parent / f".{root.name}.partial-{key}"
    remove_abandoned(root, keep=folder)
    descriptor = None
    while descriptor is None:  # another writer may take it for abandoned, and remove it
        with suppress(FileExistsError):
            folder.mkdir()
        descriptor = _locked(folder)
        if descriptor is None and folder.exists():
            raise ValueError(f"{folder} is in use: the same data is being prepared by another process")
    try:
        yield folder
    finally:
        os.close(descriptor)


def put_in_place(folder: Path, root: Path) -> None:
    """Rename ``folder`` to ``root``, which is removed if there is one."""
    if root.exists():
        old = folder.with_name(folder.name + ".old")
        _remove(old)  # what a killed process had half removed
        root.rename(old)
        folder.rename(root)
        _remove(old)
    else:
        folder.rename(root)


def remove_abandoned(root: Path, keep: Path | None = None) -> None:
    """Remove the folders that killed writers have left beside ``root``, but ``keep``. Living ones lock theirs."""
    for folder in set(root.parent.glob(f".{root.name}.partial-*")) - {keep}:
        if (descriptor := _locked(folder)) is not None:
            try:
                _remove(folder)
            finally:
                os.close(descriptor)


def new_folder(root: Path) -> tuple[Path, int]:
    """A temporary folder beside ``root`` and the descriptor that keeps it locked.

    Until it is locked, another writer takes it for abandoned: then this one makes another.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
        if (descriptor := _locked(folder)) is not None:
            return folder, descriptor


def _locked(folder: Path) -> int | None:
    """A descriptor that keeps ``folder`` locked; None if another process does, or has just moved or removed it."""
    try:
        return open_locked(folder)
    except FileNotFoundError:
        return None


def _remove(folder: Path) -> None:
    with suppress(FileNotFoundError):  # another writer removes it too
        shutil.rmtree(folder)
