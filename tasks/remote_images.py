"""Prepared images that a node reads from an object store one by one, because all of them do not fit in its cache.

What was read is kept in a sparse copy of its file as long as there is room. Nothing is removed for it: images are read
in random order, so what is there is worth as much as what would replace it. A checksum is kept of each, so what a crash
or another process has left incomplete is read again.
"""

from __future__ import annotations

import os
import sys
import threading
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from condensenet.data.manifest import Manifest
from tasks.object_store import ObjectStore

PART, CHECKSUMS = ".part", ".checksums"  # suffixes
CHECKSUM_BYTES = 4  # of an image that is not there: all 0, or beyond the end
LOOK_BYTES = 2**26  # written by this process between looks at what all have written
BLOCK = 512  # bytes, of st_blocks
ENDS = 3  # blocks of the file system that are only in part an image: where it starts, where it ends, its checksum


class RemoteImages:
    """Reads the images of ``store``, and keeps up to ``limit`` bytes of them in ``folder``; an ``ImageReader``.

    Raises ``ValueError`` if a file in the store has another size than when it was prepared.
    """

    def __init__(self, folder: Path, store: ObjectStore, manifest: Manifest, limit: float) -> None:
        self.folder, self.store, self.limit = folder, store, limit
        _check_sizes(store, manifest)
        self._lock = threading.Lock()
        self._block = os.statvfs(folder).f_frsize
        self._used, self._unseen, self._in_flight = disk_bytes(folder), 0, 0

    def read(self, split: str, index: int, file: str, start: int, size: int) -> np.ndarray:
        """Image ``index`` of ``split``, the ``size`` bytes from ``start`` on of ``file``: uint8 (size,)."""
        part, checksums = self.folder / f"{file}{PART}", self.folder / f"{split}{CHECKSUMS}"
        place = CHECKSUM_BYTES * index
        expected = _read(checksums, place, CHECKSUM_BYTES)
        if any(expected):
            content = _read(part, start, size)
            if checksum(content) == expected:
                return np.frombuffer(content, dtype=np.uint8)
        content = bytearray(self.store.read_range(file, start, size))
        room = size + ENDS * self._block
        if self._takes(room):
            try:
                _write(part, start, content)
                _write(checksums, place, checksum(content))
            except OSError:  # as on a full disk: then it is the rest that is not kept
                self.limit = 0
            finally:
                self._written(room)
        return np.frombuffer(content, dtype=np.uint8)

    def _takes(self, room: int) -> bool:
        """Whether ``room`` more bytes may be written; they are then in flight until ``_written``."""
        with self._lock:
            if self._unseen > LOOK_BYTES:
                self._used, self._unseen = disk_bytes(self.folder), 0
            fits = self._used + self._unseen + self._in_flight + room <= self.limit
            self._in_flight += room if fits else 0
            return fits

    def _written(self, room: int) -> None:
        with self._lock:
            self._in_flight -= room
            self._unseen += room


def _read(path: Path, start: int, size: int) -> bytearray:
    """What is there, which may be less than ``size`` bytes."""
    try:
        with path.open("rb", buffering=0) as file:
            return bytearray(os.pread(file.fileno(), size, start))
    except FileNotFoundError:
        return bytearray()


def _write(path: Path, start: int, content: bytes | bytearray) -> None:
    """Not through mapped memory: there a full disk ends the process by SIGBUS, here it is an ``OSError``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, start)
    finally:
        os.close(descriptor)


def checksum(content: bytes | bytearray) -> bytes:
    """Never all 0."""
    return (zlib.crc32(content) or 1).to_bytes(CHECKSUM_BYTES, sys.byteorder)


def disk_bytes(folder: Path) -> int:
    """What the files in ``folder`` take; holes in them take nothing."""
    total = 0
    for file in folder.iterdir():
        with suppress(FileNotFoundError):  # another process has just replaced it
            total += file.stat().st_blocks * BLOCK
    return total


def _check_sizes(store: ObjectStore, manifest: Manifest) -> None:
    sizes = store.sizes()
    for name in sorted(manifest.all_images_files):
        if (expected := manifest.files[name].bytes) != sizes.get(name):
            raise ValueError(
                f"{store}/{name} has {sizes.get(name, 'no')} bytes, not {expected}: delete {store} to upload it again"
            )
