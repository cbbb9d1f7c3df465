"""Writing one file of images: a shard of a split, or all of it. The content is hashed on the fly.

Shapes: N images.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from condensenet.data.manifest import FileEntry


@dataclass(frozen=True, kw_only=True)
class Shard:
    """What a file of images holds. Of raw images neither lengths nor sizes are needed: they may be missing."""

    file: FileEntry
    labels_N: np.ndarray  # int64
    lengths_N: np.ndarray  # int64: bytes
    sizes_N2: np.ndarray  # int32: height and width


class ShardWriter:
    """Appends images to a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.labels: list[int] = []
        self._lengths: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._bytes, self._sha = 0, hashlib.sha256()
        self._file = open(path, "wb")  # noqa: SIM115  closed by finish or close

    def add(self, content: bytes | memoryview, label: int, size: tuple[int, int] | None = None) -> None:
        """Append one image of ``size`` (height, width): its pixels or the content of its encoded file."""
        self.extend(content, [label])
        self._lengths.append(len(content))
        if size is not None:
            self._sizes.append(size)

    def extend(self, content: bytes | memoryview, labels: Sequence[int]) -> None:
        """Append the raw pixels of several images."""
        self._file.write(content)
        self._sha.update(content)
        self._bytes += len(content)
        self.labels.extend(labels)

    def finish(self) -> Shard:
        """Flush the file to disk and close it."""
        sync_and_close(self._file)
        entry = FileEntry(bytes=self._bytes, sha256=self._sha.hexdigest())
        return Shard(
            file=entry,
            labels_N=np.array(self.labels, dtype=np.int64),
            lengths_N=np.array(self._lengths, dtype=np.int64),
            sizes_N2=np.array(self._sizes, dtype=np.int32).reshape(-1, 2),
        )

    def close(self) -> None:
        self._file.close()


def save_array(path: Path, values: np.ndarray) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, values)
    write(path, buffer.getvalue())
    return FileEntry(bytes=len(buffer.getvalue()), sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        sync_and_close(file)


def sync_and_close(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()
