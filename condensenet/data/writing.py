"""Writing prepared images: into a folder that takes its place only when it is complete and verified.

A folder of prepared images holds, for each split that has images:
``<split>.images.bin``, or a file ``<split>-<number>-of-<count>.images.bin`` for each of several shards: raw uint8
pixels, channels first; concatenated encoded images; or uint8 pixels of images of several sizes, channels last;
``<split>.offsets.npy`` (encoded only: int64, where each image starts in the shards one after another, and the end) or
``<split>.sizes.npy`` (pixels only: int32, height and width), and ``<split>.labels.npy`` (int64).

Shapes: N images, C channels, H height, W width, V pixel value; prepared raw images are square, S x S.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from condensenet.data.in_progress import new_folder, put_in_place, remove_abandoned
from condensenet.data.manifest import MANIFEST, SPLITS, Encoding, FileEntry, Manifest, fingerprint, images_files
from condensenet.data.prepared import PreparedData
from condensenet.data.shards import Shard, ShardWriter, save_array, write


@dataclass(frozen=True, kw_only=True)
class Description:
    """What is the same for all images of a data set, see ``Manifest``."""

    name: str
    classes: tuple[str, ...]
    encoding: Encoding
    image_size: int
    channels: int


def assemble(
    folder: Path,
    root: Path,
    about: Description,
    shards: Mapping[str, Sequence[Shard]],
    histogram_CV: np.ndarray,
    *,
    source: Mapping[str, Any] | None = None,
    corrupt: Sequence[str] = (),
) -> Manifest:
    """Complete ``folder``, which holds the files of ``shards``, by their index; verify it and move it to ``root``.

    ``histogram_CV`` is that of the training images. Raises ``ValueError`` if there are none, or if a file does not read
    back as it was written.
    """
    counts = {split: tuple(len(shard.labels_N) for shard in shards.get(split, ())) for split in SPLITS}
    if not sum(counts["train"]):
        raise ValueError(f"the data {about.name} has no training images")
    files: dict[str, FileEntry] = {}
    for split in SPLITS:
        if sum(counts[split]):
            files |= _index(folder, split, about, shards[split])
    mean, std = mean_and_std(histogram_CV)
    sizes_N2 = np.concatenate([shard.sizes_N2 for split in shards.values() for shard in split])
    manifest = Manifest(
        name=about.name,
        classes=about.classes,
        encoding=about.encoding,
        image_size=about.image_size,
        channels=about.channels,
        mean=mean,
        std=std,
        splits={split: sum(each) for split, each in counts.items()},
        fingerprint=fingerprint(about.classes, about.encoding, (about.image_size, about.channels), files),
        files=files,
        source=dict(source or {}),
        corrupt=tuple(corrupt),
        shards={split: each for split, each in counts.items() if sum(each)},
        input_sized=len(sizes_N2) > 0 and bool((sizes_N2 == about.image_size).all()),
    )
    write(folder / MANIFEST, manifest.to_json().encode())
    PreparedData(folder).verify()  # read back: a bad disk must not replace good images
    folder.chmod(0o755)  # mkdtemp makes it private
    put_in_place(folder, root)
    return manifest


def _index(folder: Path, split: str, about: Description, shards: Sequence[Shard]) -> dict[str, FileEntry]:
    """Write the labels and the places of the images; returns all files of the split."""
    names = images_files(split, len(shards))
    entries = {name: shard.file for name, shard in zip(names, shards, strict=True)}
    arrays = {"labels": np.concatenate([shard.labels_N for shard in shards])}
    if about.encoding == "encoded":
        arrays["offsets"] = np.concatenate([[0], np.cumsum(np.concatenate([shard.lengths_N for shard in shards]))])
    elif about.encoding == "pixels":
        arrays["sizes"] = np.concatenate([shard.sizes_N2 for shard in shards])
        if len(arrays["sizes"]) != len(arrays["labels"]):
            raise ValueError(f"{split}: every image stored as pixels needs its size")
    for name, values in arrays.items():
        entries[f"{split}.{name}.npy"] = save_array(folder / f"{split}.{name}.npy", values)
    return entries


class PreparedWriter:
    """``with PreparedWriter(root, ...) as writer:`` fill ``writer.splits[name]``, then call ``writer.finish(...)``.

    Everything is written to a temporary folder beside ``root``, which replaces ``root`` at the end. A killed writer
    leaves nothing under ``root``; the next writer removes its temporary folder.
    """

    def __init__(
        self, root: Path, *, name: str, classes: Sequence[str], encoding: Encoding, image_size: int, channels: int
    ) -> None:
        self.root = Path(root)
        self._about = Description(
            name=name, classes=tuple(classes), encoding=encoding, image_size=image_size, channels=channels
        )
        self.histogram_CV = np.zeros((channels, 256), dtype=np.int64)  # of the training images; the caller adds to it

    def __enter__(self) -> Self:
        self.root.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(self.root)
        self._folder, self._lock = new_folder(self.root)
        self.splits = {split: ShardWriter(self._folder / images_files(split, 1)[0]) for split in SPLITS}
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
        shards = {name: [split.finish()] for name, split in self.splits.items()}
        for name, split in self.splits.items():
            if not split.labels:
                split.path.unlink()
                del shards[name]
        return assemble(self._folder, self.root, self._about, shards, self.histogram_CV, source=source, corrupt=corrupt)


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
