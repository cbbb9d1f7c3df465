"""Writing the prepared form: as a stream, hashed on the way, and in place only when it is whole.

A folder of prepared images holds, for each split that has images:
``<split>.images.bin`` (raw uint8 pixels, channels first; or encoded images one after another),
``<split>.offsets.npy`` (encoded only: int64, where each image starts, and the end) and ``<split>.labels.npy`` (int64).
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

from condensenet.data.manifest import MANIFEST, SPLITS, Encoding, FileEntry, Manifest, fingerprint, to_json
from condensenet.locks import lock, try_lock

# N images, C channels, H height, W width


class SplitWriter:
    """Appends the images of one split. ``histogram`` counts the pixel values of what was given to ``measure``."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder, self.split = folder, split
        self.labels: list[int] = []
        self.offsets: list[int] = [0]
        self._sha = hashlib.sha256()
        self._file = open(folder / f"{split}.images.bin", "wb")  # noqa: SIM115  closed by finish

    def add(self, content: bytes | memoryview, label: int) -> None:
        """Append one image: its raw pixels or its encoded file."""
        self.extend(content, [label])

    def extend(self, content: bytes | memoryview, labels: Sequence[int]) -> None:
        """Append raw pixels of several images at once."""
        self._file.write(content)
        self._sha.update(content)
        self.labels.extend(labels)
        self.offsets.append(self.offsets[-1] + len(content))

    def finish(self, *, encoded: bool) -> dict[str, FileEntry]:
        """Close the files and give their entries by name; a split without images leaves no file."""
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
    """``with PreparedWriter(root, ...) as writer:`` fill ``writer.splits[name]``, then ``writer.finish(...)``.

    All is written in a folder beside ``root``, which takes its place at the end: a writer that was killed leaves
    nothing under ``root``, and what it left beside it is removed by the next one.
    """

    def __init__(
        self, root: Path, *, name: str, classes: Sequence[str], encoding: Encoding, image_size: int, channels: int
    ) -> None:
        self.root, self.name, self.classes = Path(root), name, tuple(classes)
        self.encoding, self.image_size, self.channels = encoding, image_size, channels
        self.histogram_CV = np.zeros((channels, 256), dtype=np.int64)  # V the pixel value; of training images only

    def __enter__(self) -> Self:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(self.root)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.root.name}.partial-", dir=self.root.parent))
        self._lock = os.open(self._folder, os.O_RDONLY)
        lock(self._lock)  # tells other writers that this folder is not abandoned
        self.splits = {split: SplitWriter(self._folder, split) for split in SPLITS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in self.splits.values():
            split.close()
        shutil.rmtree(self._folder, ignore_errors=True)  # gone already when finished
        os.close(self._lock)

    def finish(self, *, source: Mapping[str, Any] | None = None, corrupt: Sequence[str] = ()) -> Manifest:
        """Write the manifest and move the whole into place; raises ``ValueError`` without training images."""
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
        _write(self._folder / MANIFEST, to_json(manifest).encode())
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
    """Prepare images that are in memory: split name -> (uint8 (N, C, S, S), labels (N,)).

    Raises ``ValueError`` for other types and shapes, and for labels that are not numbers of ``classes``.
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
    """How often each value occurs, by channel: (C, 256) int64 of uint8 (N, C, H, W)."""
    return np.stack([np.bincount(images[:, c].reshape(-1), minlength=256) for c in range(images.shape[1])])


def mean_and_std(histogram_CV: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel in 0..1 units; exact, so free of the order of the images.

    A channel of one value has a deviation of 0, with which nothing can be normalised: it counts as 1.
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
        raise ValueError(f"{split}: labels are {min(labels)} to {max(labels)}, allowed are 0 to {num_classes - 1}")


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
    """Remove what killed writers left beside ``root``; a folder that is locked has a living one."""
    for folder in root.parent.glob(f".{root.name}.partial-*"):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if try_lock(descriptor):
                shutil.rmtree(folder)
        finally:
            os.close(descriptor)
