"""Writing prepared images: streamed, hashed on the fly, and moved into place only when complete and verified.

A folder of prepared images holds, for each split that has images:
``<split>.images.bin`` (raw uint8 pixels, channels first; or concatenated encoded images),
``<split>.offsets.npy`` (encoded only: int64, where each image starts, and the end) and ``<split>.labels.npy`` (int64).

Shapes: N images, C channels, H height, W width, V pixel value; prepared raw images are square, S x S.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from condensenet.data.manifest import MANIFEST, SPLITS, Encoding, FileEntry, Manifest, fingerprint
from condensenet.data.prepared import PreparedData
from condensenet.file_locks import lock, try_lock


class SplitWriter:
    """Appends the images of one split to its files."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.labels: list[int] = []
        self.offsets: list[int] = [0]
        self._sha = hashlib.sha256()
        self._file = open(folder / f"{split}.images.bin", "wb")  # noqa: SIM115  closed by finish

    def add(self, content: bytes | memoryview, label: int) -> None:
        """Append one image: its raw pixels or the content of its encoded file."""
        self.extend(content, [label])

    def extend(self, content: bytes | memoryview, labels: Sequence[int]) -> None:
        """Append the raw pixels of several images."""
        self._file.write(content)
        self._sha.update(content)
        self.labels.extend(labels)
        self.offsets.append(self.offsets[-1] + len(content))

    def finish(self, *, encoded: bool) -> dict[str, FileEntry]:
        """Close the files and return their manifest entries by name; an empty split leaves no files."""
        _sync_and_close(self._file)
        images = f"{self.split}.images.bin"
        if not self.labels:
            (self.folder / images).unlink()
            return {}
        entries = {images: FileEntry(bytes=self.offsets[-1], sha256=self._sha.hexdigest())}
        arrays = {"labels": self.labels} | ({"offsets": self.offsets} if encoded else {})
        for name, values in arrays.items():
            entries[f"{self.split}.{name}.npy"] = _save_array(self.folder / f"{self.split}.{name}.npy", values)
        return entries

    def close(self) -> None:
        self._file.close()


class PreparedWriter:
    """``with PreparedWriter(root, ...) as writer:`` fill ``writer.splits[name]``, then call ``writer.finish(...)``.

    Everything is written to a temporary folder beside ``root``, which replaces ``root`` at the end. A killed writer
    leaves nothing under ``root``; the next writer removes its temporary folder.
    """

    def __init__(
        self, root: Path, *, name: str, classes: Sequence[str], encoding: Encoding, image_size: int, channels: int
    ) -> None:
        self.root, self.name, self.classes = Path(root), name, tuple(classes)
        self.encoding, self.image_size, self.channels = encoding, image_size, channels
        self.histogram_CV = np.zeros((channels, 256), dtype=np.int64)  # of the training images; the caller adds to it

    def __enter__(self) -> Self:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.root)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.root.name}.partial-", dir=self.root.parent))
        self._lock = os.open(self._folder, os.O_RDONLY)
        lock(self._lock)  # shows other writers that this folder is in use
        self.splits = {split: SplitWriter(self._folder, split) for split in SPLITS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in self.splits.values():
            split.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # already moved if finished
        os.close(self._lock)

    def finish(self, *, source: Mapping[str, Any] | None = None, corrupt: Sequence[str] = ()) -> Manifest:
        """Write the manifest, verify all files and move the folder into place.

        Raises ``ValueError`` if there are no training images, or if a file does not read back as it was written.
        """
        if not self.splits["train"].labels:
            raise ValueError(f"the data {self.name} has no training images")
        counts = {name: len(split.labels) for name, split in self.splits.items()}
        files: dict[str, FileEntry] = {}
        for split in self.splits.values():
            files |= split.finish(encoded=self.encoding == "encoded")
        mean, std = mean_and_std(self.histogram_CV)
        shape = (self.image_size, self.channels)
        manifest = Manifest(
            name=self.name,
            classes=self.classes,
            encoding=self.encoding,
            image_size=self.image_size,
            channels=self.channels,
            mean=mean,
            std=std,
            splits=counts,
            fingerprint=fingerprint(self.classes, self.encoding, shape, files),
            files=files,
            source=dict(source or {}),
            corrupt=tuple(corrupt),
        )
        _write(self._folder / MANIFEST, manifest.to_json().encode())
        PreparedData(self._folder).verify()  # read back: a bad disk must not replace good images
        self._folder.chmod(0o755)  # mkdtemp makes it private
        _put_in_place(self._folder, self.root)
        return manifest


def write_prepared(
    root: Path,
    splits: Mapping[str, tuple[np.ndarray, Sequence[int] | np.ndarray]],
    *,
    name: str,
    classes: Sequence[str],
    source: Mapping[str, Any] | None = None,
) -> Manifest:
    """Prepare images in memory. ``splits`` maps train, validation and test to uint8 (N, C, S, S) and labels (N,).

    Raises ``ValueError`` for other types or shapes, and for labels outside 0..len(classes)-1.
    """
    for split, (images, labels) in splits.items():
        _check_arrays(split, images, labels, len(classes))
    channels, size = splits["train"][0].shape[1:3]
    if len({images.shape[1:] for images, _ in splits.values()}) > 1:
        raise ValueError(f"the splits of {name} hold images of different shapes")
    with PreparedWriter(root, name=name, classes=classes, encoding="raw", image_size=size, channels=channels) as writer:
        for split, (images, labels) in splits.items():
            if len(images):
                writer.splits[split].extend(np.ascontiguousarray(images).data.cast("B"), [int(x) for x in labels])
        writer.histogram_CV += histogram(splits["train"][0])
        return writer.finish(source=source)


def histogram(images: np.ndarray) -> np.ndarray:
    """How often each pixel value occurs per channel: int64 (C, 256) from uint8 (N, C, H, W)."""
    return np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])


def mean_and_std(histogram_CV: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, in 0..1 units, independent of the order of the images.

    A constant channel, whose standard deviation of 0 could not normalise anything, gets 1 instead.
    """
    values = np.arange(256) / 255
    means, stds = [], []
    for counts in histogram_CV:
        mean = float(counts @ values) / max(int(counts.sum()), 1)
        variance = float(counts @ (values - mean) ** 2) / max(int(counts.sum()), 1)
        means.append(mean)
        stds.append(variance**0.5 or 1.0)
    return tuple(means), tuple(stds)


def _check_arrays(split: str, images: np.ndarray, labels: Sequence[int] | np.ndarray, num_classes: int) -> None:
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is not allowed: {', '.join(SPLITS)}")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"{split}: images are {images.dtype} {images.shape}, not uint8 (N, C, S, S)")
    if len(images) != len(labels):
        raise ValueError(f"{split}: {len(images)} images and {len(labels)} labels")
    if len(labels) and not (min(labels) >= 0 and max(labels) < num_classes):
        raise ValueError(f"{split}: labels are {min(labels)} to {max(labels)}, but must be 0 to {num_classes - 1}")


def _save_array(path: Path, values: Sequence[int]) -> FileEntry:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(values, dtype=np.int64))
    _write(path, buffer.getvalue())
    return FileEntry(bytes=len(buffer.getvalue()), sha256=hashlib.sha256(buffer.getvalue()).hexdigest())


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        _sync_and_close(file)


def _sync_and_close(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())
    file.close()


def _put_in_place(folder: Path, root: Path) -> None:
    if root.exists():
        old = folder.with_name(folder.name + ".old")
        root.rename(old)
        folder.rename(root)
        shutil.rmtree(old)
    else:
        folder.rename(root)


def _remove_abandoned(root: Path) -> None:
    """Remove the temporary folders of killed writers beside ``root``; those of living writers are locked."""
    for folder in root.parent.glob(f".{root.name}.partial-*"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if try_lock(descriptor):
                shutil.rmtree(folder)
        finally:
            os.close(descriptor)
