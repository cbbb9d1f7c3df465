"""The common form of all image sources, the checks they share, and how validation images are chosen."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tasks import paths
from tasks.console import say
from tasks.errors import UserError
from tasks.params import DataParams

Stream: TypeAlias = Callable[[], Iterator[tuple[str, bytes]]]  # opens a stream of (name, encoded image)
Select: TypeAlias = Callable[[np.ndarray], Stream]  # the images with these indices, for any process
NAMED = 10  # classes that an error names


@dataclass(frozen=True)
class Part:
    """One split of a source. ``location`` names its file or folder in errors.

    ``identity`` and ``state`` of the images with given indices change when the images do, as far as that can be told
    without reading them. ``sizes`` are the bytes of those encoded images, where they are known without reading.
    """

    location: str
    labels: np.ndarray  # int64 (N,)
    images: np.ndarray | Select  # all pixels, uint8 (N, C, S, S), or what opens streams of encoded images
    identity: str = ""
    state: Callable[[np.ndarray], str] = lambda indices: ""
    sizes: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Source:
    """A data set before it is prepared. ``facts`` go into the manifest: file names and sizes, no absolute paths."""

    classes: tuple[str, ...]
    train: Part
    test: Part
    facts: Mapping[str, Any] = field(default_factory=dict)


def data_path(data: DataParams) -> Path:
    """``data.path``, relative to the checkout; raises ``UserError`` if it does not exist."""
    path = paths.checkout() / str(data.path)
    if not path.exists():
        raise UserError(f"data.path={data.path} does not exist: it must be the file or folder of the images")
    return path


def split_training_images(labels: np.ndarray, data: DataParams) -> tuple[np.ndarray, np.ndarray]:
    """The indices of the images to train on and of those held out for validation.

    Raises ``UserError`` for numbers that are not allowed.
    """
    held_out = hold_out(labels, data.validation_images, "validation")
    train, count = np.flatnonzero(~held_out), data.train_images
    if count is not None and not 1 <= count <= len(train):
        raise UserError(f"data: train_images={count} is not allowed: 1 to {len(train)} are left for training, or null")
    if count is not None and count < len(train):
        train = train[hold_out(labels[train], count, "train")]
    return train, np.flatnonzero(held_out)


def hold_out(labels: np.ndarray, count: int, key: str) -> np.ndarray:
    """Choose ``count`` images to hold out, stratified by class and the same on every machine: bool (N,).

    Class shares are rounded by largest remainder. Within a class, the images with the smallest sha256 of
    "<key>:<index>" are chosen.
    """
    if not 0 <= count < len(labels):
        raise UserError(f"data: validation_images={count} is not allowed: there are {len(labels)} training images")
    held = np.zeros(len(labels), dtype=bool)
    for label, quota in _quotas(labels, count).items() if count else ():
        members = np.flatnonzero(labels == label).tolist()
        held[sorted(members, key=lambda index: _order(key, index))[:quota]] = True
    return held


def _quotas(labels: np.ndarray, count: int) -> dict[int, int]:
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / len(labels)
    quotas = np.floor(exact).astype(int)
    for index in np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]:
        quotas[index] += 1
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))


def _order(key: str, index: int) -> bytes:
    return hashlib.sha256(f"{key}:{index}".encode()).digest()


def check_labels(location: str, labels: np.ndarray, num_classes: int) -> None:
    """Raise ``UserError`` if a label has no class name."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise UserError(
            f"{location}: image {wrong[0]} has label {labels[wrong[0]]}, allowed are 0 to {num_classes - 1} "
            f"({len(wrong)} of {len(labels)} labels are wrong)"
        )


def check_not_empty(source: Source, *, allow_empty_classes: bool) -> None:
    """Raise ``UserError`` for a split without images or, unless allowed, a class without images in a split."""
    for part in (source.train, source.test):
        if len(part.labels) == 0:
            raise UserError(f"{part.location}: it holds no images")
    for kind, part in (("training", source.train), ("test", source.test)):
        present = np.bincount(part.labels, minlength=len(source.classes))
        empty = [source.classes[label] for label in np.flatnonzero(present == 0)]
        if not empty:
            continue
        others = ", ".join(empty[1:NAMED]) + (", ..." if len(empty) > NAMED else "")
        problem = (
            f"{part.location}: {len(empty)} of {len(source.classes)} classes have no {kind} image, the first is "
            f"{empty[0]}{f' (then {others})' if others else ''}"
        )
        if not allow_empty_classes:
            raise UserError(f"{problem}: is it complete? (data.allow_empty_classes: true accepts it)")
        say(f"warning: {problem}")


def identity(items: Iterable[object]) -> str:
    """A hash of what tells one state of a source from another."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()


def file_state(path: Path) -> tuple[str, int, int]:
    """The name of a file, its bytes and when it was changed."""
    stat = path.stat()
    return path.name, stat.st_size, stat.st_mtime_ns
