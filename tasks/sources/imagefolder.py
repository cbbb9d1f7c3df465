"""Trees of image files: ``<train>/<class>/...`` and ``<test>/<class>/...``; classes are the folders' sorted names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from tasks.errors import UserError
from tasks.params import DataParams
from tasks.sources.base import Part, Source, given_path

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp")  # any case; other files are passed over and counted


def read(data: DataParams) -> Source:
    root = given_path(data)
    classes = _classes(root / data.train)
    found = _classes(root / data.test)
    if found != classes:
        odd = sorted(set(classes) ^ set(found))
        where = data.train if odd[0] in classes else data.test
        raise UserError(
            f"{root / data.test}: its classes are not those of {root / data.train}: {len(odd)} stand in one of them "
            f"only, the first is {odd[0]!r} (in {where})"
        )
    parts, facts = [], {}
    for name in (data.train, data.test):
        files, labels, passed_over = _files(root / name, classes)
        parts.append(Part(str(root / name), labels, partial(_stream, root / name, files)))
        facts[name] = {"images": len(files), "other_files": passed_over}
    return Source(classes=classes, train=parts[0], test=parts[1], facts={"folders": facts})


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: a folder with a folder for each class is needed")
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise UserError(f"{folder}: it has no folder for any class")
    return tuple(names)


def _files(folder: Path, classes: tuple[str, ...]) -> tuple[list[str], np.ndarray, int]:
    """Paths relative to ``folder`` in sorted order, their labels, and how many other files there are."""
    files: list[str] = []
    counts, passed_over = [], 0
    for name in classes:
        every = [
            os.path.relpath(os.path.join(parent, file), folder)
            for parent, _, names in os.walk(folder / name)
            for file in names
        ]
        images = sorted(file for file in every if file.lower().endswith(SUFFIXES))
        files += images
        counts.append(len(images))
        passed_over += len(every) - len(images)
    return files, np.repeat(np.arange(len(classes), dtype=np.int64), counts), passed_over


def _stream(folder: Path, files: list[str]) -> Iterator[tuple[str, bytes]]:
    for file in files:
        try:
            yield file, (folder / file).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / file} cannot be read: {error.strerror}") from None
