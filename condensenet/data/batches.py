"""Batches of images: deterministic functions of (seed, epoch, index), so a rerun or a resumed run sees the same."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from condensenet.config import AugmentConfig
from condensenet.data import randomness
from condensenet.data.augment import augment_batch, resized_crop_draws
from condensenet.data.decoding import decode, evaluation_view, training_view
from condensenet.data.prepared import Batch, ImageSplit, normalise
from condensenet.data.resident import ResidentSplit, Split, StreamedSplit
from condensenet.machine import usable_cores

CHUNK = 16  # images that one thread decodes at a time
BATCHES_AHEAD = 2
SMALL = 64  # raw images up to this many pixels a side are loaded as they are asked for, without threads
TOGETHER_BYTES = 2**18  # of float32 images: what stays in a core's cache until it is used


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole global batches in an epoch; raises ``ValueError`` when there is none."""
    if batch_size > len(split):
        raise ValueError(
            f"batch_size={batch_size} is not allowed: it must be at most the {len(split)} {split.name} images"
        )
    return len(split) // batch_size


def train_batches(
    split: Split,
    *,
    augment: AugmentConfig,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    threads: int | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch from ``start_step`` on, in an order drawn from (seed, epoch).

    ``batch_size`` is the global batch; rank r of w yields the r-th of w equal parts of each. The last, incomplete
    global batch is left out: other images are left out in the next epoch. ``threads`` decode encoded images
    (default: the cores of this process, shared between ranks). A resident or streamed split gives the same batches, the
    images on its device. Raises ``ValueError`` at the call, not later.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not allowed: it must be in 0..{world_size - 1}")
    if batch_size % world_size != 0:
        raise ValueError(f"batch_size={batch_size} is not divisible by world_size={world_size}")
    steps = steps_per_epoch(split, batch_size)
    if not 0 <= start_step <= steps:
        raise ValueError(f"start_step={start_step} is not allowed: an epoch has {steps} steps")
    share = batch_size // world_size
    order = randomness.permutation(len(split), seed, epoch)[: steps * batch_size]
    parts = order.reshape(steps, world_size, share)[start_step:, rank]
    if isinstance(split, ResidentSplit):
        return split.training_batches(parts.reshape(-1), share, augment, seed, epoch)
    loader = _TrainingLoader(_source(split), augment, seed, epoch)
    return _load(split, parts, loader, threads or _threads(world_size))


def evaluation_batches(
    split: Split,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    threads: int | None = None,
) -> Iterator[Batch]:
    """All images once, unchanged, in their stored order; the last batch may be smaller.

    ``batch_size`` is that of one rank; rank r of w yields the images r, r + w, r + 2w, ...
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not allowed: it must be 1 or more")
    own = np.arange(rank, len(split), world_size)
    if isinstance(split, ResidentSplit):
        return split.evaluation_batches(own, batch_size)
    parts = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    return _load(split, parts, _EvaluationLoader(_source(split)), threads or _threads(world_size))


def _source(split: ImageSplit | StreamedSplit) -> ImageSplit:
    return split.source if isinstance(split, StreamedSplit) else split


@dataclass(frozen=True)
class _EvaluationLoader:
    split: ImageSplit

    def __call__(self, indices: np.ndarray) -> Tensor:
        return normalise(self.pixels(indices), self.split.manifest)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (N, C, S, S)."""
        if self.split.manifest.encoding == "raw":
            return self.split.raw(indices)
        size = self.split.manifest.image_size
        return np.stack([evaluation_view(self.decode(index), size).numpy() for index in indices.tolist()])

    def decode(self, index: int) -> Tensor:
        """uint8 (C, H, W) of one stored image, whatever the encoding."""
        manifest = self.split.manifest
        if manifest.encoding == "raw":
            return torch.from_numpy(self.split.raw(np.array([index]))[0])
        try:
            return decode(self.split.encoded(index), manifest.channels)
        except ValueError as error:
            raise ValueError(f"{manifest.name}: {self.split.name} image {index} is corrupt: {error}") from None


@dataclass(frozen=True)
class _TrainingLoader(_EvaluationLoader):
    augment: AugmentConfig
    seed: int
    epoch: int

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        images = self.crops(indices) if self.augment.crop == "resized" else super().pixels(indices)
        return augment_batch(images, indices, self.augment, self.seed, self.epoch)

    def crops(self, indices: np.ndarray) -> np.ndarray:
        size = self.split.manifest.image_size
        draws = resized_crop_draws(indices, self.seed, self.epoch)
        every = zip(indices.tolist(), draws, strict=True)
        return np.stack([training_view(self.decode(index), size, own).numpy() for index, own in every])


def _load(
    split: ImageSplit | StreamedSplit, parts: Iterable[np.ndarray], loader: _EvaluationLoader, threads: int
) -> Iterator[Batch]:
    manifest = split.manifest
    if isinstance(split, ImageSplit) and manifest.encoding == "raw" and manifest.image_size <= SMALL:
        return _load_at_once(split, list(parts), loader)
    return _load_ahead(split, parts, loader, threads)


def _load_at_once(split: ImageSplit, parts: list[np.ndarray], loader: _EvaluationLoader) -> Iterator[Batch]:
    """As they are asked for, several batches of tiny images in one go: their arithmetic takes less than its calls."""
    image_bytes = 4 * split.manifest.channels * split.manifest.image_size**2
    together = max(1, TOGETHER_BYTES // (image_bytes * max(map(len, parts), default=1)))
    for start in range(0, len(parts), together):
        group = parts[start : start + together]
        sizes, indices = [len(part) for part in group], np.concatenate(group)
        yield from zip(loader(indices).split(sizes), split.labels[indices].split(sizes), strict=True)


def _load_ahead(
    split: ImageSplit | StreamedSplit, parts: Iterable[np.ndarray], loader: _EvaluationLoader, threads: int
) -> Iterator[Batch]:
    """Decode in threads, a few batches ahead, and yield in order."""
    waiting: deque[tuple[np.ndarray, Tensor, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for indices in parts:
                images = _buffer(split, len(indices))
                places = [slice(start, start + CHUNK) for start in range(0, len(indices), CHUNK)]
                jobs = [pool.submit(_fill, images[place], indices[place], loader) for place in places]
                waiting.append((indices, images, jobs))
                if len(waiting) > BATCHES_AHEAD:
                    yield _finished(split, *waiting.popleft())
            while waiting:
                yield _finished(split, *waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _buffer(split: ImageSplit | StreamedSplit, count: int) -> Tensor:
    if isinstance(split, StreamedSplit):
        return split.buffer(count)
    return torch.empty(count, split.manifest.channels, split.manifest.image_size, split.manifest.image_size)


def _fill(images: Tensor, indices: np.ndarray, loader: _EvaluationLoader) -> None:
    is_pixels = images.dtype == torch.uint8
    images.copy_(torch.from_numpy(loader.pixels(indices)) if is_pixels else loader(indices))


def _finished(
    split: ImageSplit | StreamedSplit, indices: np.ndarray, images: Tensor, jobs: list[Future[None]]
) -> Batch:
    for job in jobs:
        job.result()
    return split.send(images) if isinstance(split, StreamedSplit) else images, split.labels[indices]


def _threads(world_size: int) -> int:
    """This process's part of the cores; ``LOCAL_WORLD_SIZE`` (torch's name) says how many ranks share the machine."""
    world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return max(1, usable_cores() // max(1, world_size))
