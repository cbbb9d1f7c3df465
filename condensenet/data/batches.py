"""Batches of images. They are functions of (seed, epoch, index), so a rerun or a resumed run sees the same ones.

Shapes: N images, C channels, H height, W width; the network's input is square, S x S.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from condensenet.config import AugmentConfig
from condensenet.data import randomness
from condensenet.data.augment import augment_batch, random_crop_and_flip, resized_crop_uniforms
from condensenet.data.decoding import decode, evaluation_view, training_view, training_view_of_rows
from condensenet.data.gpu_decoding import GpuDecodedSplit, crop_on_device, decode_together
from condensenet.data.prepared import Batch, ImageSplit, normalise
from condensenet.data.randaugment import randaugment, randaugment_uniforms
from condensenet.data.resident import ResidentSplit, Split, StreamedSplit
from condensenet.machine import usable_cores

IMAGES_PER_TASK = 16  # at most, that one thread decodes at a time
IMAGES_PER_GPU_TASK = 64  # the same on a GPU, which decodes them together
TASKS_AHEAD = 3  # for each thread, so that none is idle while a batch is used
PREFETCHED_BATCHES = 2  # at least
SMALL_IMAGE_SIZE = 64  # raw images of up to this many pixels a side are loaded on demand, without threads
GROUP_BYTES = 2**18  # of float32 images: what stays in a core's cache until it is used


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """The number of complete global batches in an epoch; raises ``ValueError`` if there is none."""
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
    size: int | None = None,
) -> Iterator[Batch]:
    """The batches of one epoch from ``start_step`` on, in a random order that depends on (seed, epoch).

    ``batch_size`` is the global batch size; rank r of w yields the r-th of w equal parts of each batch. An incomplete
    last batch is dropped; the next epoch drops other images. Images are decoded in ``threads`` threads (default: the
    cores of this process, divided among the ranks). Resized crops have ``size`` x ``size`` pixels (default: the
    network's input size). A resident or streamed split gives the same batches, with the images on its device. Raises
    ``ValueError`` when called, not when first iterated.
    """
    if world_size < 1 or not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} is not allowed: it must be in 0..{world_size - 1}")
    if batch_size % world_size != 0:
        raise ValueError(f"batch_size={batch_size} is not divisible by world_size={world_size}")
    steps = steps_per_epoch(split, batch_size)
    if not 0 <= start_step <= steps:
        raise ValueError(f"start_step={start_step} is not allowed: an epoch has {steps} steps")
    rank_batch_size = batch_size // world_size
    order = randomness.permutation(len(split), seed, epoch)[: steps * batch_size]
    batches = order.reshape(steps, world_size, rank_batch_size)[start_step:, rank]
    if isinstance(split, ResidentSplit):
        return split.training_batches(batches.reshape(-1), rank_batch_size, augment, seed, epoch)
    kind = _GpuLoader if isinstance(split, GpuDecodedSplit) else _TrainingLoader
    loader = kind(_source(split), size or split.manifest.image_size, augment, seed, epoch)
    return _load(split, batches, loader, threads or _threads_per_rank(world_size))


def evaluation_batches(
    split: Split,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    threads: int | None = None,
) -> Iterator[Batch]:
    """All images once, without augmentation, in their stored order; the last batch may be smaller.

    ``batch_size`` is per rank; rank r of w yields the images r, r + w, r + 2w, ...
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is not allowed: it must be 1 or more")
    own = np.arange(rank, len(split), world_size)
    if isinstance(split, ResidentSplit):
        return split.evaluation_batches(own, batch_size)
    batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
    loader = _EvaluationLoader(_source(split), split.manifest.image_size)
    return _load(split, batches, loader, threads or _threads_per_rank(world_size))


def _source(split: ImageSplit | StreamedSplit) -> ImageSplit:
    return split.source if isinstance(split, StreamedSplit) else split


@dataclass(frozen=True)
class _EvaluationLoader:
    """Loads the images of ``indices`` (N,): normalised float32 or, by ``pixels``, uint8, both (N, C, S, S)."""

    split: ImageSplit
    size: int  # S

    images_per_task: ClassVar[int] = IMAGES_PER_TASK

    def __call__(self, indices: np.ndarray) -> Tensor:
        return normalise(self.pixels(indices), self.split.manifest)

    def pixels(self, indices: np.ndarray) -> np.ndarray:
        manifest = self.split.manifest
        if manifest.encoding == "raw":
            return self.split.raw(indices)
        images = np.empty((len(indices), manifest.channels, self.size, self.size), dtype=np.uint8)
        self.put_views(images, indices)
        return images

    def load_into(self, images_NCHW: Tensor, indices: np.ndarray) -> None:
        """Put the images into ``images_NCHW``: pixels if it is uint8, otherwise normalised."""
        if images_NCHW.dtype == torch.uint8:
            self.fill(images_NCHW.numpy(), indices)
        else:
            images_NCHW.copy_(self(indices))

    def fill(self, images_NCHW: np.ndarray, indices: np.ndarray) -> None:
        """Put into ``images_NCHW`` what ``pixels`` gives, without a copy in between where that is possible."""
        if self.split.manifest.encoding == "raw":
            images_NCHW[:] = self.pixels(indices)
        else:
            self.put_views(images_NCHW, indices)

    def put_views(self, images_NCHW: np.ndarray, indices: np.ndarray) -> None:
        manifest = self.split.manifest
        for position, index in enumerate(indices.tolist()):
            image = self.decode(index)
            images_NCHW[position] = image if manifest.input_sized else evaluation_view(image, self.size)

    def decode(self, index: int) -> Tensor:
        """One stored image in full size, whatever its encoding: uint8 (C, H, W)."""
        manifest = self.split.manifest
        if manifest.encoding == "raw":
            return torch.from_numpy(self.split.raw(np.array([index]))[0])
        if manifest.encoding == "pixels":
            return torch.from_numpy(self.split.pixels(index)).permute(2, 0, 1)
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
        if self.augment.crop == "resized":
            images = np.empty((len(indices), self.split.manifest.channels, self.size, self.size), dtype=np.uint8)
            self.put_views(images, indices)
        else:
            images = augment_batch(super().pixels(indices), indices, self.augment, self.seed, self.epoch)
        self.randaugment(images, indices)
        return images

    def fill(self, images_NCHW: np.ndarray, indices: np.ndarray) -> None:
        if self.augment.crop == "resized":
            self.put_views(images_NCHW, indices)
            self.randaugment(images_NCHW, indices)
        else:
            images_NCHW[:] = self.pixels(indices)

    def put_views(self, images_NCHW: np.ndarray, indices: np.ndarray) -> None:
        if self.augment.crop != "resized":
            super().put_views(images_NCHW, indices)
            return
        uniforms_NA4 = resized_crop_uniforms(indices, self.seed, self.epoch)
        flipped_N = random_crop_and_flip(indices, self.augment, self.seed, self.epoch).flipped_N
        for position, index in enumerate(indices.tolist()):
            image = self.crop(index, uniforms_NA4[position])
            images_NCHW[position] = image.flip(2) if flipped_N[position] else image

    def randaugment(self, images_NCHW: np.ndarray, indices: np.ndarray) -> None:
        augment = self.augment
        if augment.randaugment == 0:
            return
        uniforms_NO2 = randaugment_uniforms(indices, augment.randaugment, self.seed, self.epoch)
        for image_CHW, uniforms_O2 in zip(torch.from_numpy(images_NCHW), uniforms_NO2, strict=True):
            image_CHW.copy_(randaugment(image_CHW, augment.randaugment_magnitude, uniforms_O2))

    def crop(self, index: int, uniforms_A4: np.ndarray) -> Tensor:
        if self.split.manifest.encoding == "pixels":
            rows, columns = self.split.sizes[index].tolist()
            return training_view_of_rows(partial(self.split.pixels, index), rows, columns, self.size, uniforms_A4)
        return training_view(self.decode(index), self.size, uniforms_A4)


@dataclass(frozen=True)
class _GpuLoader(_TrainingLoader):
    """Decodes on the device of the memory that it loads into, and on the CPU what that device cannot."""

    images_per_task: ClassVar[int] = IMAGES_PER_GPU_TASK

    def load_into(self, images_NCHW: Tensor, indices: np.ndarray) -> None:
        uniforms_NA4 = resized_crop_uniforms(indices, self.seed, self.epoch)
        flipped_N = random_crop_and_flip(indices, self.augment, self.seed, self.epoch).flipped_N
        contents = [self.split.encoded(index) for index in indices.tolist()]
        images = decode_together(contents, self.split.manifest.channels, images_NCHW.device)
        for position, image in enumerate(images):
            if image is None:
                image = self.decode(int(indices[position])).to(images_NCHW.device)
            view = crop_on_device(image, self.size, uniforms_NA4[position])
            images_NCHW[position] = view.flip(2) if flipped_N[position] else view


def _load(
    split: ImageSplit | StreamedSplit, batches: Iterable[np.ndarray], loader: _EvaluationLoader, threads: int
) -> Iterator[Batch]:
    manifest = split.manifest
    if isinstance(split, ImageSplit) and manifest.encoding == "raw" and manifest.image_size <= SMALL_IMAGE_SIZE:
        return _load_on_demand(split, list(batches), loader)
    return _prefetch(split, batches, loader, threads)


def _load_on_demand(split: ImageSplit, batches: list[np.ndarray], loader: _EvaluationLoader) -> Iterator[Batch]:
    """Load several batches of tiny images in one call: for them the overhead of a call exceeds the arithmetic."""
    image_bytes = 4 * split.manifest.channels * loader.size**2
    group_size = max(1, GROUP_BYTES // (image_bytes * max(map(len, batches), default=1)))
    for start in range(0, len(batches), group_size):
        group = batches[start : start + group_size]
        sizes, indices = [len(batch) for batch in group], np.concatenate(group)
        yield from zip(loader(indices).split(sizes), split.labels[indices].split(sizes), strict=True)


def _prefetch(
    split: ImageSplit | StreamedSplit, batches: Iterable[np.ndarray], loader: _EvaluationLoader, threads: int
) -> Iterator[Batch]:
    """Decode in threads, a few batches ahead, and yield the batches in order.

    Small batches are cut into small tasks, and more of them are begun ahead, so that all threads have work.
    """
    pending: deque[tuple[np.ndarray, Tensor, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="decode") as pool:
        try:
            for indices in batches:
                images = _buffer(split, len(indices), loader.size)
                step = min(loader.images_per_task, -(-len(indices) // threads))
                chunks = [slice(start, start + step) for start in range(0, len(indices), step)]
                tasks = [pool.submit(loader.load_into, images[chunk], indices[chunk]) for chunk in chunks]
                pending.append((indices, images, tasks))
                if len(pending) > max(PREFETCHED_BATCHES, TASKS_AHEAD * threads // len(chunks)):
                    yield _finished_batch(split, *pending.popleft())
            while pending:
                yield _finished_batch(split, *pending.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _buffer(split: ImageSplit | StreamedSplit, count: int, size: int) -> Tensor:
    if isinstance(split, StreamedSplit):
        return split.buffer(count, size)
    return torch.empty(count, split.manifest.channels, size, size)


def _finished_batch(
    split: ImageSplit | StreamedSplit, indices: np.ndarray, images: Tensor, tasks: list[Future[None]]
) -> Batch:
    for task in tasks:
        task.result()
    return split.send(images) if isinstance(split, StreamedSplit) else images, split.labels[indices]


def _threads_per_rank(world_size: int) -> int:
    """This rank's share of the cores. torch's ``LOCAL_WORLD_SIZE`` tells how many ranks share the machine."""
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    return max(1, usable_cores() // max(1, local_world_size))
