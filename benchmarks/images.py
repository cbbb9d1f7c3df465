"""Images to compare trainings on: CIFAR-10 from Parquet files, a subset of prepared images, or patterns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from condensenet.data import ImageSplit, PreparedData, write_prepared

CIFAR_PARQUET = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {"train": "cifar10-jpeg-train.parquet", "test": "cifar10-jpeg-test.parquet"}


def cifar10_jpeg(root: Path) -> PreparedData:
    """All of CIFAR-10, re-encoded as JPEG, prepared in ``root`` unless that exists.

    Raises ``FileNotFoundError`` if the Parquet files are not beside the checkout.
    """
    if not root.exists():
        for name in FILES.values():
            if not (CIFAR_PARQUET / name).exists():
                raise FileNotFoundError(f"{CIFAR_PARQUET / name} is missing: pass a folder of prepared images")
        from tasks.params import DataParams
        from tasks.sources import parquet
        from tasks.sources.base import split_training_images
        from tasks.sources.write_streams import write_streams

        data = DataParams(source="parquet", path=str(CIFAR_PARQUET), train=FILES["train"], test=FILES["test"])
        source = parquet.read(data)
        write_streams("cifar10-jpeg", data, source, *split_training_images(source.train.labels, data), root)
    return PreparedData(root)


def subset(data: PreparedData, root: Path, train_images: int, test_images: int) -> PreparedData:
    """The first images of every class in ``data`` (raw), the same number of each, prepared in ``root``.

    Mean and standard deviation are those of the selected training images. Raises ``ValueError`` if a class has too few.
    """
    splits = {}
    for name, count in (("train", train_images), ("test", test_images)):
        split = data.split(name)
        chosen = first_of_each_class(split, count, len(data.manifest.classes))
        splits[name] = (split.raw(chosen), split.labels[chosen].numpy())
    write_prepared(root, splits, name=data.manifest.name, classes=data.manifest.classes)
    return PreparedData(root)


def first_of_each_class(split: ImageSplit, count: int, classes: int) -> np.ndarray:
    """``count`` indices in stored order; if the classes do not divide it, the first ones have one more."""
    labels = split.labels.numpy()
    chosen = []
    for label in range(classes):
        quota = count // classes + (label < count % classes)
        members = np.flatnonzero(labels == label)
        if len(members) < quota:
            raise ValueError(f"{count} images are not allowed: class {label} of {split.name} has {len(members)}")
        chosen.append(members[:quota])
    return np.sort(np.concatenate(chosen))


def patterns(root: Path, train_images: int, test_images: int) -> PreparedData:
    """Ten smooth patterns under strong noise, 32 x 32, to learn from where there are no real images."""
    random = np.random.default_rng(0)
    coarse = random.integers(60, 196, (10, 3, 4, 4))
    smooth = coarse.repeat(8, axis=2).repeat(8, axis=3)

    def images(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 10
        noise = random.normal(0, 150, (count, 3, 32, 32))
        return (smooth[labels] + noise).clip(0, 255).astype(np.uint8), labels

    splits = {"train": images(train_images), "test": images(test_images)}
    write_prepared(root, splits, name="patterns", classes=[str(label) for label in range(10)])
    return PreparedData(root)
