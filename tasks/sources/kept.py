"""Shards that stay beside the prepared images, as hard links, for whoever must prepare the same again.

DVC may be killed while it records the images, and removes the outputs of a stage before it repeats it; or another study
has the same images. Kept shards take no room while the images exist, in their folder or in DVC's cache.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from condensenet.data.in_progress import remove_abandoned
from tasks.console import say

COMPLETE = "complete"  # marks a folder of shards that have been put in place
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV)


def linked(files: Path) -> Path:
    """A folder of hard links to ``files``, which it stands beside; ``files`` itself where the file system has none."""
    links = files.with_suffix(".links")
    shutil.rmtree(links, ignore_errors=True)  # of a killed process
    links.mkdir()
    try:
        for file in files.iterdir():
            os.link(file, links / file.name)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return files
    return links


def keep(folder: Path) -> None:
    (folder / COMPLETE).touch()


def take_over(folder: Path) -> None:
    """Link what other studies keep of the preparation that is to be made in ``folder``."""
    for other in _same(folder):
        if other == folder or not (other / COMPLETE).exists():
            continue
        say(f"prepare: taking over the shards of {other.parent.name}")
        with suppress(OSError):  # no hard links, or just removed: what is missing is made
            shutil.copytree(other, folder, copy_function=_link, dirs_exist_ok=True)
        (folder / COMPLETE).unlink(missing_ok=True)
        return


def forget(root: Path) -> None:
    """Remove what is kept of the images in ``root`` if it takes room, because DVC's cache is on another disk."""
    remove_abandoned(root, spare=lambda folder: not (folder / COMPLETE).exists() or not _takes_room(folder))


def _link(source: str, target: str) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _same(folder: Path) -> Iterator[Path]:
    """The folders of the same preparation, of all studies."""
    yield from folder.parent.parent.glob(f"*/{folder.name}")


def _takes_room(folder: Path) -> bool:
    keepers = sum(1 for _ in _same(folder))
    with suppress(FileNotFoundError):  # another training removes it
        return any(file.stat().st_nlink <= keepers for file in folder.glob("*/*.bin"))
    return False
