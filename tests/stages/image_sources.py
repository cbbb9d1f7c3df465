"""Small sources of images in the forms that ``prepare`` reads, made by the tests that use them."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_bytes import encoded
from PIL import Image
from torchvision.datasets import CIFAR10

CLASSES = ("ant", "bee", "cat")


def picture(seed: int, width: int, height: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pictures(count: int, size: int = 8, start: int = 0) -> list[bytes]:
    return [encoded(picture(start + number, size, size)) for number in range(count)]


def cifar_batch(count: int, start: int = 0, labels: str = "labels", classes: int = 10) -> dict[str, Any]:
    rng = np.random.default_rng(start)
    return {
        "data": rng.integers(0, 256, (count, 3072), dtype=np.uint8),
        labels: [(start + number) % classes for number in range(count)],
    }


def cifar10_folder(folder: Path, **replaced: Any) -> Path:
    """Five training batches of 20 images and a test batch of 20; ``replaced`` gives other contents by file name."""
    folder.mkdir(parents=True)
    names = [f"class {number}" for number in range(10)]
    files: dict[str, Any] = {f"data_batch_{number}": cifar_batch(20, number) for number in range(1, 6)}
    files |= {"test_batch": cifar_batch(20, 9), "batches.meta": {"label_names": names}}
    for name, content in {**files, **replaced}.items():
        if content is not None:
            raw = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            (folder / name).write_bytes(raw)
    return folder


def publish(patch: pytest.MonkeyPatch, folder: Path, dataset: type = CIFAR10) -> None:
    """Have torchvision take the files in ``folder`` for the published ones of ``dataset``."""

    def md5(name: str) -> str:
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    for split in ("train_list", "test_list"):
        patch.setattr(dataset, split, [[name, md5(name)] for name, _ in getattr(dataset, split)])
    patch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(dataset.meta["filename"])})  # type: ignore[attr-defined]


def archive(folder: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    with tarfile.open(target, "w:gz") as tar:
        tar.add(folder, folder.name)
    return target


def python2_batch(images: np.ndarray, labels: Sequence[int]) -> bytes:
    """A batch as Python 2 and the numpy of its time pickled it: byte strings, and the array by ``_reconstruct``."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + number(-1) + number(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    shape = number(images.shape[0]) + number(images.shape[1]) + b"\x86"
    raw = images.tobytes()
    array += b"(K\x01" + shape + dtype + b"\x89T" + struct.pack("<i", len(raw)) + raw + b"tb"
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


def tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """A folder with ``files``: relative path -> content."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def image_tree(root: Path, per_class: int = 4, size: int = 8) -> Path:
    files = {}
    for part, start in (("train", 0), ("test", 100)):
        for number, name in enumerate(CLASSES):
            for index, content in enumerate(pictures(per_class, size, start + 10 * number)):
                files[f"{part}/{name}/{index}.jpg"] = content
    return tree(root, files)


def shard(
    path: Path,
    images: Sequence[bytes | None],
    labels: Sequence[int | None] | None = None,
    metadata: Mapping[str, str] | None = None,
    row_group_size: int | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """A Parquet file of encoded images, its labels 0, 1, 2, 0, ... if none are given."""
    labels = [number % len(CLASSES) for number in range(len(images))] if labels is None else labels
    metadata = {"class_names": json.dumps(CLASSES)} if metadata is None else metadata
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=dict(metadata))
    names = [f"{number}.jpg" for number in range(len(images))] if names is None else names
    rows = [{"bytes": content, "path": name} for content, name in zip(images, names, strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([rows, list(labels)], schema=schema), path, row_group_size=row_group_size)
    return path


def shards(root: Path, **how: Any) -> Path:
    shard(root / "train.parquet", pictures(12), **how)
    shard(root / "test.parquet", pictures(6, start=50))
    return root
