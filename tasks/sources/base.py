"""What every source of images is turned into before it is prepared, and how training images are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tasks import paths
from tasks.errors import UserError
from tasks.params import DataParams

Stream: TypeAlias = Callable[[], Iterator[tuple[str, bytes]]]  # opens a stream of (name, encoded image)


@dataclass(frozen=True)
class Part:
    """One split of a source; an error about it names ``place``, a file or folder."""

    place: str
    labels: np.ndarray  # int64 (N,)
    images: np.ndarray | Stream  # all pixels, uint8 (N, C, S, S), or a stream in the order of the labels


@dataclass(frozen=True)
class Source:
    """A data set as it was found. ``facts`` go into the manifest: file names and sizes, nothing of this machine."""

    classes: tuple[str, ...]
    train: Part
    test: Part
    facts: Mapping[str, Any] = field(default_factory=dict)


def given_path(data: DataParams) -> Path:
    """``data.path``, relative to the checkout; it is there."""
    path = paths.checkout() / str(data.path)
    if not path.exists():
        raise UserError(f"data.path={data.path} is not there: it must be the file or folder of the images")
    return path


def hold_out(labels: np.ndarray, count: int, key: str) -> np.ndarray:
    """Which ``count`` of the images are held out: bool (N,), every class in its share, the same on every machine.

    The shares are rounded by largest remainder; within a class the images with the smallest sha256 of
    "<key>:<index>" are taken.
    """
    if not 0 <= count < len(labels):
        raise UserError(f"data: validation_images={count} is not allowed: there are {len(labels)} training images")
    held = np.zeros(len(labels), dtype=bool)
    for label, quota in _quotas(labels, count).items() if count else ():
        members = np.flatnonzero(labels == label).tolist()
        held[sorted(members, key=lambda index: _draw(key, index))[:quota]] = True
    return held


def _quotas(labels: np.ndarray, count: int) -> dict[int, int]:
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / len(labels)
    quotas = np.floor(exact).astype(int)
    for place in np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]:
        quotas[place] += 1
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))


def _draw(key: str, index: int) -> bytes:
    return hashlib.sha256(f"{key}:{index}".encode()).digest()


def check_range(place: str, labels: np.ndarray, num_classes: int) -> None:
    """Refuse labels that have no class name."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"{place}: image {wrong[0]} has label {labels[wrong[0]]}, allowed are 0 to {num_classes - 1} "
            f"({len(wrong)} of {len(labels)} labels are wrong)"
        )


def check_filled(source: Source, *, allow_empty_classes: bool) -> None:
    """Refuse a part without images and, unless allowed, classes without a training image."""
    for part in (source.train, source.test):
        if len(part.labels) == 0:
            raise UserError(f"{part.place}: it holds no images")
    present = np.bincount(source.train.labels, minlength=len(source.classes))
    empty = [source.classes[label] for label in np.flatnonzero(present == 0)]
    if empty and not allow_empty_classes:
        raise UserError(
            f"{source.train.place}: {len(empty)} of {len(source.classes)} classes have no training image, the first "
            f"is {empty[0]}: is it complete? (data.allow_empty_classes: true takes it as it is)"
        )
