"""Reading prepared images.

Raw images are memory-mapped: all processes on a machine share one copy. Others are read one by one, which leaves them
in the system's file cache, but not in the memory of the process.

Shapes: N images, C channels, H height, W width; prepared raw images are square, S x S.
"""

from __future__ import annotations

import os
import resource
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from condensenet.data.manifest import MANIFEST, SPLITS, Manifest, fingerprint
from condensenet.files import sha256
from condensenet.machine import usable_cores
from condensenet.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]  # images float32 (N, C, H, W), normalised; labels int64 (N,)
OPEN_FILES = (64, 4096)  # of one split at a time: at least and at most


class ImageReader(Protocol):
    """Reads images from elsewhere, in any thread."""

    def read(self, split: str, index: int, file: str, start: int, size: int) -> np.ndarray:
        """Image ``index`` of ``split``, the ``size`` bytes from ``start`` on of ``file``: uint8 (size,)."""


class ImageSplit:
    """The images of one split in their stored order, and their ``labels``, int64 (N,)."""

    def __init__(self, root: Path, manifest: Manifest, name: str, reader: ImageReader | None = None) -> None:
        self.name, self.manifest, self._reader = name, manifest, reader
        self._count = manifest.splits.get(name, 0)
        files = {root / file: count for file, count in manifest.images_files(name).items() if count}
        self._files = _Files(list(files))
        self._first = np.concatenate([[0], np.cumsum(list(files.values()))]).astype(np.int64)  # image of each file
        self._maps = [np.memmap(file, np.uint8, "r") for file in files] if manifest.encoding == "raw" else []
        none = np.zeros(0, dtype=np.int64)
        labels = np.load(root / f"{name}.labels.npy") if self._count else none
        self.labels = torch.from_numpy(labels)
        if len(self.labels) != self._count or self._first[-1] != self._count:
            raise ValueError(f"{root}: {name} has {len(self.labels)} labels, but its manifest says {self._count}")
        self.sizes = none.reshape(0, 2)  # of ``pixels``: int32 (N, 2), height and width
        self._offsets = none  # of each image in the files one after the other, and the end
        if self._count and manifest.encoding == "pixels":
            self.sizes = np.load(root / f"{name}.sizes.npy")
            bytes_N = self.sizes.astype(np.int64).prod(axis=1) * manifest.channels
            self._offsets = np.concatenate([[0], np.cumsum(bytes_N)])
        elif self._count and manifest.encoding == "encoded":
            self._offsets = np.load(root / f"{name}.offsets.npy")

    def __len__(self) -> int:
        return self._count

    def raw(self, indices: np.ndarray) -> np.ndarray:
        """Copies of raw images: uint8 (N, C, S, S)."""
        size, channels = self.manifest.image_size, self.manifest.channels
        shape = (channels, size, size)
        if len(self._maps) == 1:
            return np.asarray(self._maps[0].reshape(-1, *shape)[indices])
        images = np.empty((len(indices), *shape), dtype=np.uint8)
        for file in np.unique(files := self._file_of(indices)):
            here = files == file
            images[here] = self._maps[file].reshape(-1, *shape)[indices[here] - self._first[file]]
        return images

    def encoded(self, index: int) -> np.ndarray:
        """A copy of one encoded image file, as uint8 bytes."""
        return self._read(index, 0, int(self._offsets[index + 1] - self._offsets[index]))

    def pixels(self, index: int, top: int = 0, rows: int | None = None) -> np.ndarray:
        """``rows`` rows of one image of ``pixels``, from ``top`` on (default: all of it): uint8 (rows, W, C)."""
        height, width = self.sizes[index].tolist()
        rows, row_bytes = height - top if rows is None else rows, width * self.manifest.channels
        content = self._read(index, top * row_bytes, rows * row_bytes)
        return content.reshape(rows, width, self.manifest.channels)

    def _read(self, index: int, skip: int, size: int) -> np.ndarray:
        file = int(self._file_of(index))
        start = int(self._offsets[index] - self._offsets[self._first[file]])
        if self._reader is None:
            return self._files.read(file, start + skip, size)
        whole = int(self._offsets[index + 1] - self._offsets[index])
        return self._reader.read(self.name, index, self._files.name(file), start, whole)[skip : skip + size]

    def _file_of(self, index: int | np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first, index, side="right") - 1


class _Files:
    """Files to read parts of, by several threads at once; the least recently used are closed."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._open = lru_cache(_most_open())(_OpenFile)

    def name(self, file: int) -> str:
        return self._paths[file].name

    def read(self, file: int, start: int, size: int) -> np.ndarray:
        """uint8 (size,); raises ``ValueError`` if the file is shorter."""
        opened = self._open(self._paths[file])
        content, done = np.empty(size, dtype=np.uint8), 0
        while done < size:
            count = os.preadv(opened.descriptor, [content[done:].data], start + done)
            if count == 0:
                raise ValueError(f"{self._paths[file]} ends before byte {start + size}: prepare the data again")
            done += count
        return content


def _most_open() -> int:
    """A quarter of what the process may open, since training and test images are read at a time."""
    least, most = OPEN_FILES
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if allowed == resource.RLIM_INFINITY else max(least, min(most, allowed // 4))


class _OpenFile:
    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.descriptor)  # once no thread uses it any more


class PreparedData:
    """A folder of images written by ``write_prepared`` or ``PreparedWriter``.

    Opening it checks the size of every file, but not its content (see ``verify``). Raises ``ValueError`` if a file is
    missing or its size differs from the manifest. With a ``reader`` the folder has only what is not images, and these,
    which must not be raw, come from the reader.
    """

    def __init__(self, root: Path | str, reader: ImageReader | None = None) -> None:
        self.root, self._reader = Path(root), reader
        path = self.root / MANIFEST
        try:
            self.manifest = Manifest.load(path)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: {self.root} holds no prepared images") from None
        for name, entry in self.manifest.files.items():
            if reader is not None and name in self.manifest.all_images_files:
                continue
            file = self.root / name
            size = file.stat().st_size if file.exists() else None
            if size != entry.bytes:
                problem = "is missing" if size is None else f"has {size} bytes, not {entry.bytes}"
                raise ValueError(f"{file} {problem}: prepare the data again")

    def split(self, name: str) -> ImageSplit:
        """``train``, ``validation`` (may be empty) or ``test``."""
        if name not in SPLITS:
            raise ValueError(f"split={name!r} is not allowed: {', '.join(SPLITS)}")
        return ImageSplit(self.root, self.manifest, name, self._reader)

    @property
    def evaluation_split(self) -> ImageSplit:
        """The images that training is validated on: the held-out ones, or the test images if none are held out."""
        return self.split("validation" if self.manifest.splits.get("validation") else "test")

    def verify(self) -> None:
        """Read every file and check its sha256; raises ``ValueError`` naming the first one that differs."""
        files = self.manifest.files
        with ThreadPoolExecutor(usable_cores(), thread_name_prefix="verify") as pool:
            digests = pool.map(sha256, [self.root / name for name in files])
            for (name, entry), digest in zip(files.items(), digests, strict=True):
                if digest != entry.sha256:
                    raise ValueError(f"{self.root / name} differs from what was prepared: its sha256 does not match")
        manifest = self.manifest
        shape = (manifest.image_size, manifest.channels)
        if fingerprint(manifest.classes, manifest.encoding, shape, manifest.files) != manifest.fingerprint:
            raise ValueError(f"{self.root / MANIFEST} was changed: its fingerprint does not match its content")


def pixel_mean_and_std(manifest: Manifest | Preprocessing) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the training images per channel, in 0..255 units: float32 (C,)."""
    mean, std = (np.float32(255) * np.array(values, dtype=np.float32) for values in (manifest.mean, manifest.std))
    return mean, std


def normalise(images: np.ndarray, manifest: Manifest | Preprocessing) -> Tensor:
    """float32 (N, C, H, W) from uint8 (N, C, H, W), by the mean and standard deviation of the training images."""
    mean, std = pixel_mean_and_std(manifest)
    result = images.astype(np.float32)  # in NumPy, which stays in this thread: several threads load images at once
    result -= mean[:, None, None]
    result /= std[:, None, None]
    return torch.from_numpy(result)
