"""Image files in ``<train>/<class>/...`` and ``<test>/<class>/...``; the sorted folder names are the classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from condensenet.data.image_files import MAX_BYTES
from condensenet.files import read_regular
from tasks.console import progress
from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part, Source, Stream, data_path, file_state, identity

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")  # in any case; others, and hidden ones, are skipped and counted
USUAL_NAMES = {"train": ("train", "training"), "test": ("test", "val", "valid", "validation", "testing")}


def read(data: DataParams) -> Source:
    root = data_path(data)
    classes, test_classes = _classes(root / data.train, "train"), _classes(root / data.test, "test")
    if test_classes != classes:
        unmatched = sorted(set(classes) ^ set(test_classes))
        split = data.train if unmatched[0] in classes else data.test
        raise UserError(
            f"{root / data.test}: its classes are not those of {root / data.train}: {len(unmatched)} exist in one of "
            f"them only, the first is {unmatched[0]!r} (in {split})"
        )
    parts, facts = [], {}
    for name in (data.train, data.test):
        files, labels, skipped = _files(root / name, classes)
        select, state = partial(_select, root / name, files), partial(_state, root / name, files)
        sizes = partial(_sizes, root / name, files)
        parts.append(Part(str(root / name), labels, select, identity(files), state, sizes))
        facts[name] = {"images": len(files), "other_files": skipped}
    return Source(classes=classes, train=parts[0], test=parts[1], facts={"folders": facts})


def _classes(folder: Path, key: str) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist: it must hold one folder per class{_instead(folder, key)}")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: it has no class folders")
    return tuple(names)


def _instead(folder: Path, key: str) -> str:
    """What else may be meant by ``data.train`` or ``data.test``."""
    if not folder.parent.is_dir():
        return ""
    others = sorted(entry.name for entry in os.scandir(folder.parent) if entry.is_dir())
    likely = [name for name in others if name.lower() in USUAL_NAMES[key]]
    if likely:
        return f" (there is {likely[0]}: data.{key}: {likely[0]})"
    return f" (data.{key} names it; there are {', '.join(others[:5])})" if others else ""


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray, int]:
    """The images' paths relative to ``folder`` in sorted order, their labels, and the number of other files."""
    files: list[str] = []
    counts, skipped = [], 0
    for name in progress(classes, len(classes), f"listing {folder.name}", units="classes"):
        class_files = list(relative_files(folder, name))
        images = sorted(file for file in class_files if is_image(file))
        files += images
        counts.append(len(images))
        skipped += len(class_files) - len(images)
    return files, np.repeat(np.arange(len(classes), dtype=np.int64), counts), skipped


def relative_files(folder: Path, name: str) -> Iterator[str]:
    """All files of a class, but for those in hidden folders: copies that tools keep, such as ``.ipynb_checkpoints``."""
    for parent, folders, names in os.walk(folder / name):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for file in names:
            yield os.path.relpath(os.path.join(parent, file), folder)


def _state(folder: Path, files: list[str], indices: np.ndarray) -> str:
    """Changes when an image is replaced by another under its name."""
    return identity(file_state(folder / files[index]) for index in indices.tolist())


def _sizes(folder: Path, files: list[str], indices: np.ndarray) -> np.ndarray:
    try:
        return np.array([(folder / files[index]).stat().st_size for index in indices.tolist()], dtype=np.int64)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from None


def is_image(file: str) -> bool:
    """Not, among others, the ``._`` files that macOS leaves beside images."""
    return file.lower().endswith(SUFFIXES) and not os.path.basename(file).startswith(".")


def _select(folder: Path, files: list[str], indices: np.ndarray) -> Stream:
    return partial(_stream, folder, [files[index] for index in indices.tolist()])


def _stream(folder: Path, files: list[str]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        try:
            yield file, _content(folder / file)
        except OSError as error:
            raise UserError(f"{folder / file} cannot be read: {error.strerror}") from None


def _content(path: Path) -> bytes:
    """Nothing, which is no image, for what is no regular file or too large for one."""
    try:
        return read_regular(path, MAX_BYTES) if path.is_file() or not path.exists() else b""
    except ValueError:
        return b""
