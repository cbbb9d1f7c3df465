"""What every source of images is turned into before it is prepared, and how training images are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.errors import UserError


@dataclass(frozen=True)
class Part:
    """One split of a source. ``images`` is either all pixels, uint8 (N, C, S, S), or opens a stream of (name, file).

    ``place`` is the file or folder that an error about it names.
    """

    place: str
    labels: np.ndarray  # int64 (N,)
    images: np.ndarray | Callable[[], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Source:
    """A data set as it was found: ``parts`` has train and test, ``facts`` says where it came from."""

    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    facts: Mapping[str, Any] = field(default_factory=dict)


def hold_out(labels: np.ndarray, count: int, key: str) -> np.ndarray:
    """Which ``count`` of the images are held out: bool (N,), every class in its share, the same on every machine.

    The shares are rounded by largest remainder; within a class the images with the smallest sha256 of
    "<key>:<index>" are taken.
    """
    if not 0 <= count < len(labels):
        raise UserError(f"data: validation_images={count} is not allowed: there are {len(labels)} training images")
    held = np.zeros(len(labels), dtype=bool)
    for label, quota in _quotas(labels, count).items():
        members = np.flatnonzero(labels == label).tolist()
        held[sorted(members, key=lambda index: _draw(key, index))[:quota]] = True
    return held


def _quotas(labels: np.ndarray, count: int) -> dict[int, int]:
    classes, sizes = np.unique(labels, return_counts=True)
    exact = sizes * count / max(len(labels), 1)
    quotas = np.floor(exact).astype(int)
    for place in np.argsort(quotas - exact, kind="stable")[: count - quotas.sum()]:
        quotas[place] += 1
    return dict(zip(classes.tolist(), quotas.tolist(), strict=True))


def _draw(key: str, index: int) -> bytes:
    return hashlib.sha256(f"{key}:{index}".encode()).digest()


def check_labels(source: Source, *, allow_empty_classes: bool) -> None:
    """Refuse labels without a name and classes without a training image."""
    count = len(source.classes)
    for part in source.parts.values():
        if len(part.labels) == 0:
            raise UserError(f"{part.place}: it holds no images")
        wrong = np.flatnonzero((part.labels < 0) | (part.labels >= count))
        if len(wrong):
            raise UserError(
                f"{part.place}: image {wrong[0]} has label {part.labels[wrong[0]]}, allowed are 0 to {count - 1}: "
                f"{len(wrong)} images are mislabelled"
            )
    present = np.bincount(source.parts["train"].labels, minlength=count)
    empty = [source.classes[label] for label in np.flatnonzero(present == 0)]
    if empty and not allow_empty_classes:
        raise UserError(
            f"{source.parts['train'].place}: {len(empty)} of {count} classes have no images (the first: {empty[0]}); "
            "is it complete? data.allow_empty_classes: true takes it as it is"
        )
