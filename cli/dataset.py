"""One's own images as a study's ``data``: what is there, what the test images are, how large the images are.

Without test images of its own, a fifth of each class is held out, always the same. Such a split is laid out in the
workspace, as links to the files or as two Parquet files; the images themselves are never changed.
"""

from __future__ import annotations

import io
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from condensenet.data.image_files import RAISED
from tasks import outputs, sources
from tasks.console import say
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources import parquet
from tasks.sources.base import Part, file_state, hold_out
from tasks.sources.imagefolder import SUFFIXES, USUAL_NAMES, is_image, relative_files

LISTED = 5  # names in a line
TEST_SHARE = 0.2
MAX_TEST_IMAGES = 10_000  # held out; more make a figure little better
HOLD_OUT_KEY = "test"
OTHER_FORMATS = (".avif", ".bmp", ".dng", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".tif", ".tiff")  # of photographs
SAMPLED = 64  # images that are looked at
IMBALANCE = 10  # the largest class over the smallest, beyond which a warning is due


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Where the images are, as ``data`` in ``params.yaml`` takes it, and what they are like."""

    source: str
    path: Path
    train: str
    test: str
    classes: tuple[str, ...]
    images_by_class: tuple[int, ...]  # training images
    shorter_side: int  # median of a sample
    square: int | None  # the side in pixels, if all sampled images are squares of the same size
    channels: int  # 1 if all sampled images are grayscale, else 3

    @property
    def train_images(self) -> int:
        return sum(self.images_by_class)


def find(folder: Path, workspace: Path) -> Dataset:
    """The data set in ``folder``; a split that it lacks is made in ``workspace``. Raises ``UserError``."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: it must hold a folder of images for each class, or Parquet files")
    if any(folder.glob("*.parquet")):
        return _parquet(folder, workspace)
    train, test = _split_folders(folder)
    if test is None:
        return _held_out(folder / train if train else folder, workspace)
    _tell_what_is_left_out(file for name in (train or "train", test) for file in relative_files(folder, name))
    return _described("imagefolder", folder, train or "train", test)


def warning(dataset: Dataset) -> str | None:
    """A line about classes of very different sizes, if there are any."""
    counts = dict(zip(dataset.classes, dataset.images_by_class, strict=True))
    small, large = min(counts, key=lambda name: counts[name]), max(counts, key=lambda name: counts[name])
    if counts[large] <= IMBALANCE * counts[small]:
        return None
    return (
        f"warning: {small} has {counts[small]} training images, {large} {counts[large]}: rare classes will be "
        "predicted too rarely; add images of them, or leave images of the others out"
    )


def _split_folders(folder: Path) -> tuple[str | None, str | None]:
    """The names of the folders with training and test images, None for one that is not there.

    A folder called ``train`` that holds images itself, beside others, is a class: of pictures of trains.
    """
    names = {entry.name.lower(): entry.name for entry in os.scandir(folder) if entry.is_dir()}

    def found(key: str) -> list[str]:
        usual = [names[name] for name in USUAL_NAMES[key] if name in names]
        return [name for name in usual if _has_folders(folder / name) or len(names) == 1]

    train, tests = next(iter(found("train")), None), found("test")
    test = next(iter(tests), None)
    if train and tests[1:]:
        say(f"{', '.join(tests[1:])} is not used: the test images are those in {test}")
    if train is None and test is not None and len(names) < 3:
        raise UserError(f"{folder}: there is {test}, but no train: put the training images into {folder / 'train'}")
    return (train, test) if train else (None, None)


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in os.scandir(folder))


def _held_out(folder: Path, workspace: Path) -> Dataset:
    """Link the images of ``folder``, a folder per class, into ``images/train`` and ``images/test``."""
    files = _files_by_class(folder)
    labels = np.repeat(np.arange(len(files)), [len(each) for each in files.values()])
    held = _hold_out(labels)
    root = workspace / "images"
    shutil.rmtree(root, ignore_errors=True)
    flat = [(name, file) for name, each in files.items() for file in each]
    for (name, file), is_test in zip(flat, held.tolist(), strict=True):
        link = root / ("test" if is_test else "train") / name / file.relative_to(folder / name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return _described("imagefolder", root, "train", "test")


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not classes:
        loose = sum(is_image(path.name) for path in folder.iterdir())
        found = f"{loose} images, but no folders" if loose else "no folders"
        raise UserError(
            f"{folder} has {found}: put the images of each class into a folder of their own, {folder}/CLASS/"
        )
    if len(classes) == 1:
        raise UserError(f"{folder} has one class only, {classes[0].name}: a classifier needs two or more folders")
    listing = {path.name: list(relative_files(folder, path.name)) for path in classes}
    _tell_what_is_left_out(file for each in listing.values() for file in each)
    files = {name: sorted(folder / file for file in each if is_image(file)) for name, each in listing.items()}
    for name, found_files in files.items():
        if len(found_files) < 2:
            kinds = ", ".join(SUFFIXES)
            raise UserError(
                f"{folder / name} has {'one image' if found_files else 'no images'} ({kinds}): "
                "each class needs two or more, or remove its folder"
            )
    return files


def _tell_what_is_left_out(files: Iterable[str]) -> None:
    """A line about photographs in formats that are not read."""
    suffixes = (os.path.splitext(file)[1].lower() for file in files if not os.path.basename(file).startswith("."))
    counts = Counter(suffix for suffix in suffixes if suffix in OTHER_FORMATS)
    if counts:
        kinds = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common())
        are = "file is" if counts.total() == 1 else "files are"
        say(f"{counts.total()} {are} left out ({kinds}): JPEG, PNG, GIF and WebP are read")


def _hold_out(labels: np.ndarray) -> np.ndarray:
    """Which images are for testing, bool (N,): a share of all, and at least one of each class that has two."""
    count = min(max(1, round(TEST_SHARE * len(labels))), MAX_TEST_IMAGES)
    held = hold_out(labels, count, HOLD_OUT_KEY)
    for label in np.unique(labels):
        (own,) = np.nonzero(labels == label)
        held[own[0]] |= len(own) > 1 and not held[own].any()
    return held


def _parquet(folder: Path, workspace: Path) -> Dataset:
    """Shards named train* and test* or val*; without such names a fifth of all rows is held out."""
    train, test = _shards(folder, "train"), _shards(folder, "test")
    if train and test:
        return _described("parquet", folder, train, test)
    if test and not train:
        raise UserError(f"{folder} has {test}, but no train*.parquet: name the training files so")
    root = _split_rows(folder, train or "*.parquet", workspace)
    return _described("parquet", root, "train.parquet", "test.parquet")


def _shards(folder: Path, key: str) -> str | None:
    """A glob for the files of ``key`` if there are any."""
    for name in USUAL_NAMES[key]:
        if any(folder.glob(f"{name}*.parquet")):
            return f"{name}*.parquet"
    return None


def _split_rows(folder: Path, pattern: str, workspace: Path) -> Path:
    """Two Parquet files of the rows of ``folder``, unless they are there already: new ones would be prepared anew."""
    files = sorted(folder.glob(pattern))
    root = workspace / "images"
    note, made_of = root / "made-of.json", [list(file_state(file)) for file in files]
    if outputs.read_json_or_empty(note).get("files") == made_of:
        return root
    held = _hold_out(parquet.read_labels(_params("parquet", folder, pattern, pattern)))
    root.mkdir(parents=True, exist_ok=True)
    note.unlink(missing_ok=True)
    _write_rows(files, held, root)
    outputs.write_json(note, {"files": made_of})
    return root


def _write_rows(files: Sequence[Path], held: np.ndarray, root: Path) -> None:
    """One row group in memory at a time; ``held`` is for all rows of ``files`` in their order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema, start = pq.read_schema(files[0]), 0
    groups = (file.read_row_group(n) for file in map(pq.ParquetFile, files) for n in range(file.num_row_groups))
    with (
        pq.ParquetWriter(root / "train.parquet", schema) as train,
        pq.ParquetWriter(root / "test.parquet", schema) as test,
    ):
        for group in groups:
            rows = held[start : start + len(group)]
            train.write_table(group.filter(pa.array(~rows)))
            test.write_table(group.filter(pa.array(rows)))
            start += len(group)


def _params(source: str, path: Path, train: str, test: str) -> DataParams:
    return DataParams(source=source, path=str(path.resolve()), train=train, test=test)  # type: ignore[arg-type]


def _described(source: str, path: Path, train: str, test: str) -> Dataset:
    read = sources.read(_params(source, path, train, test))
    counts = np.bincount(read.train.labels, minlength=len(read.classes)).tolist()
    test_counts = np.bincount(read.test.labels, minlength=len(read.classes)).tolist()
    for kind, of_classes in (("training", counts), ("test", test_counts)):
        for name, count in zip(read.classes, of_classes, strict=True):
            if count == 0:
                raise UserError(f"{path}: class {name} has no {kind} image: add some, or remove it everywhere")
    sample = list(_sample(read.train))
    if not sample:
        raise UserError(f"{path}: none of {SAMPLED} training images can be read")
    sizes = {image.size for image in sample}
    width, height = next(iter(sizes))
    return Dataset(
        source=source,
        path=path,
        train=train,
        test=test,
        classes=read.classes,
        images_by_class=tuple(counts),
        shorter_side=round(median(min(image.size) for image in sample)),
        square=width if len(sizes) == 1 and width == height else None,
        channels=1 if all(image.mode in ("1", "L") for image in sample) else 3,
    )


def _sample(part: Part) -> Iterator[Image.Image]:
    """Images of all classes whose headers can be read; the stage prepare names those that cannot.

    They are in the order of the classes, so the first ones may all be of one.
    """
    wanted = np.unique(np.linspace(0, len(part.labels) - 1, SAMPLED).round().astype(int))
    for _, content in part.images(wanted)():  # type: ignore[operator]
        try:
            yield Image.open(io.BytesIO(content))
        except (Image.DecompressionBombError, *RAISED):
            continue


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
