"""Reading prepared images. They are memory-mapped, so all processes on a machine share one copy.

Shapes: N images, C channels, H height, W width; prepared raw images are square, S x S.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condensenet.data.manifest import MANIFEST, SPLITS, Manifest, fingerprint
from condensenet.preprocessing import Preprocessing

Batch = tuple[Tensor, Tensor]  # images float32 (N, C, H, W), normalised; labels int64 (N,)


class ImageSplit:
    """The images of one split in their stored order, and their ``labels``, int64 (N,)."""

    def __init__(self, root: Path, manifest: Manifest, name: str) -> None:
        self.name, self.manifest = name, manifest
        self._count = manifest.splits.get(name, 0)
        self._bytes, labels, self._offsets = _arrays(root, manifest, name, self._count)
        self.labels = torch.from_numpy(labels)
        if len(self.labels) != self._count:
            raise ValueError(f"{root}: {name} has {len(self.labels)} labels, but its manifest says {self._count}")

    def __len__(self) -> int:
        return self._count

    def raw(self, indices: np.ndarray) -> np.ndarray:
        """Copies of raw images: uint8 (N, C, S, S)."""
        size = self.manifest.image_size
        return np.asarray(self._bytes.reshape(-1, self.manifest.channels, size, size)[indices])

    def encoded(self, index: int) -> np.ndarray:
        """A copy of one encoded image file, as uint8 bytes."""
        return np.array(self._bytes[self._offsets[index] : self._offsets[index + 1]])


class PreparedData:
    """A folder of images written by ``write_prepared`` or ``PreparedWriter``.

    Opening it checks the size of every file, but not its content (see ``verify``). Raises ``ValueError`` if a file is
    missing or its size differs from the manifest.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        path = self.root / MANIFEST
        try:
            self.manifest = Manifest.load(path)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: {self.root} holds no prepared images") from None
        for name, entry in self.manifest.files.items():
            file = self.root / name
            size = file.stat().st_size if file.exists() else None
            if size != entry.bytes:
                problem = "is missing" if size is None else f"has {size} bytes, not {entry.bytes}"
                raise ValueError(f"{file} {problem}: prepare the data again")

    def split(self, name: str) -> ImageSplit:
        """``train``, ``validation`` (may be empty) or ``test``."""
        if name not in SPLITS:
            raise ValueError(f"split={name!r} is not allowed: {', '.join(SPLITS)}")
        return ImageSplit(self.root, self.manifest, name)

    @property
    def evaluation_split(self) -> ImageSplit:
        """The images that training is validated on: the held-out ones, or the test images if none are held out."""
        return self.split("validation" if self.manifest.splits.get("validation") else "test")

    def verify(self) -> None:
        """Read every file and check its sha256; raises ``ValueError`` naming the first one that differs."""
        for name, entry in self.manifest.files.items():
            if _sha256(self.root / name) != entry.sha256:
                raise ValueError(f"{self.root / name} differs from what was prepared: its sha256 does not match")
        manifest = self.manifest
        shape = (manifest.image_size, manifest.channels)
        if fingerprint(manifest.classes, manifest.encoding, shape, manifest.files) != manifest.fingerprint:
            raise ValueError(f"{self.root / MANIFEST} was changed: its fingerprint does not match its content")


def _arrays(root: Path, manifest: Manifest, name: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The images' bytes, memory-mapped; the labels; where each encoded image starts (empty for raw images)."""
    none = np.zeros(0, dtype=np.int64)
    if count == 0:
        return np.zeros(0, dtype=np.uint8), none, none
    images = np.memmap(root / f"{name}.images.bin", dtype=np.uint8, mode="r")
    labels = np.load(root / f"{name}.labels.npy")
    encoded = manifest.encoding == "encoded"
    return images, labels, np.load(root / f"{name}.offsets.npy") if encoded else none


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
