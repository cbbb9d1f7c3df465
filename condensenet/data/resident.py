"""A split on the device that trains: as far as it can be, its images are made there.

The batches are those of a split on disk, to the bit: the same draws, made by numpy at the start of the epoch, and the
same arithmetic. So where the images lie decides nothing but the speed, and a training may be resumed elsewhere. The
device gets what it needs from pinned memory and is asked for nothing back, so that neither side waits for the other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from condensenet.config import AugmentConfig
from condensenet.data.augment import Draws, draw
from condensenet.data.manifest import Manifest
from condensenet.data.prepared import Batch, ImageSplit, pixel_mean_and_std

# N images, H height, W width, C channels
SHARE_OF_FREE_MEMORY = 1 / 4  # of a GPU: what a split may take of it
UPLOAD_BYTES = 2**28
CHUNK_BYTES = 2**26  # of float32 images: so many batches are made at once, to launch a few kernels for all of them


class ResidentSplit:
    """The raw images of ``split`` as uint8 on ``device``; ``train_batches`` and ``evaluation_batches`` take either.

    Raises ``ValueError`` for encoded images: their decoding belongs to the CPU.
    """

    def __init__(self, split: ImageSplit, device: torch.device | str) -> None:
        self.name, self.manifest, self.device = split.name, split.manifest, torch.device(device)
        if split.manifest.encoding != "raw":
            raise ValueError(f"{split.manifest.name}: encoded images cannot be resident on {device}")
        size, channels = split.manifest.image_size, split.manifest.channels
        self.images_NHWC = torch.empty(len(split), size, size, channels, dtype=torch.uint8, device=device)
        step = max(1, UPLOAD_BYTES // image_bytes(split))
        for start in range(0, len(split), step):
            images_NCHW = split.raw(np.arange(start, min(start + step, len(split))))
            self.images_NHWC[start : start + step] = upload(images_NCHW, self.device).permute(0, 2, 3, 1)
        self.labels = upload(split.labels.numpy(), self.device)
        self._normaliser = Normaliser(split.manifest, self.device)

    def __len__(self) -> int:
        return len(self.labels)

    def training_batches(
        self, indices: np.ndarray, batch_size: int, augment: AugmentConfig, seed: int, epoch: int
    ) -> Iterator[Batch]:
        """The images named, changed as ``augment_batch`` does; raises ``ValueError`` for a resized crop."""
        if augment.crop == "resized":
            raise ValueError("crop='resized' is not allowed with resident images: none or pad")
        if not augment.pad and not augment.flip:
            return self._batches(indices, batch_size)
        return self._batches(indices, batch_size, augment.pad, draw(indices, augment, seed, epoch))

    def evaluation_batches(self, indices: np.ndarray, batch_size: int) -> Iterator[Batch]:
        return self._batches(indices, batch_size)

    def _batches(
        self, indices: np.ndarray, batch_size: int, pad: int = 0, draws: Draws | None = None
    ) -> Iterator[Batch]:
        chunk = batch_size * max(1, CHUNK_BYTES // (4 * batch_size * image_bytes(self)))
        choices = [] if draws is None else [draws.rows_N, draws.columns_N, draws.flipped_N]
        plan = upload(np.stack([indices, *choices]).astype(np.int64), self.device)
        for start in range(0, len(indices), chunk):
            index_N, *choice = plan[:, start : start + chunk]
            pixels_NHWC = self.images_NHWC[index_N]
            if choice:
                pixels_NHWC = cut(pixels_NHWC, pad, *choice)
            images_NCHW = self._normaliser(pixels_NHWC.permute(0, 3, 1, 2))
            yield from zip(images_NCHW.split(batch_size), self.labels[index_N].split(batch_size), strict=True)


class StreamedSplit:
    """Images that cannot lie on ``device``: read and decoded here, sent as uint8 and normalised there."""

    def __init__(self, source: ImageSplit, device: torch.device | str) -> None:
        self.source, self.device = source, torch.device(device)
        self.name, self.manifest, self.labels = source.name, source.manifest, source.labels
        self._normaliser = Normaliser(source.manifest, self.device)

    def __len__(self) -> int:
        return len(self.source)

    def buffer(self, count: int) -> Tensor:
        """For the pixels of so many images: uint8 (count, C, S, S), pinned if that speeds ``send``."""
        size, channels = self.manifest.image_size, self.manifest.channels
        return torch.empty(count, channels, size, size, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def send(self, pixels_NCHW: Tensor) -> Tensor:
        return self._normaliser(pixels_NCHW.to(self.device, non_blocking=True))


Split = ImageSplit | ResidentSplit | StreamedSplit


class Normaliser:
    """``condensenet.data.prepared.normalise`` on a device, with the same arithmetic; the result is channels last."""

    def __init__(self, manifest: Manifest, device: torch.device) -> None:
        mean_C, std_C = (upload(values, device) for values in pixel_mean_and_std(manifest))
        self.mean_C11, self.std_C11 = mean_C[:, None, None], std_C[:, None, None]

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        images_NCHW = pixels_NCHW.to(dtype=torch.float32, memory_format=torch.channels_last)
        return images_NCHW.sub_(self.mean_C11).div_(self.std_C11)


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    if device.type == "cuda":  # torch keeps the pinned memory until the copy has ended
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def cut(images_NHWC: Tensor, pad: int, rows_N: Tensor, columns_N: Tensor, flipped_N: Tensor) -> Tensor:
    """Pad by ``pad`` pixels of 0, cut the windows that begin at (rows, columns), mirror where flipped is not 0."""
    count, height, width, _ = images_NHWC.shape
    n_N, y_H, x_W = (torch.arange(length, device=images_NHWC.device) for length in (count, height, width))
    y_NH = rows_N[:, None] + y_H
    x_NW = columns_N[:, None] + torch.where(flipped_N[:, None] != 0, width - 1 - x_W, x_W)
    padded_NHWC = F.pad(images_NHWC, (0, 0, pad, pad, pad, pad)) if pad else images_NHWC
    return padded_NHWC[n_N[:, None, None], y_NH[:, :, None], x_NW[:, None, :]]


def place(
    split: ImageSplit, device: torch.device, *, augment: AugmentConfig | None = None, budget_bytes: int | None = None
) -> Split:
    """``split`` as it serves ``device`` best: as it is for a CPU, which reads the mapped files as fast.

    On a GPU it is resident if its images are raw, ``augment`` needs no resizing and they fit in the budget, a quarter
    of the memory that is free now; else its images are streamed.
    """
    if device.type == "cpu" or len(split) == 0:
        return split
    budget = free_budget_bytes(device) if budget_bytes is None else budget_bytes
    resized = augment is not None and augment.crop == "resized"
    if split.manifest.encoding == "raw" and not resized and len(split) * image_bytes(split) <= budget:
        return ResidentSplit(split, device)
    return StreamedSplit(split, device)


def free_budget_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    free, _ = torch.cuda.mem_get_info(device)
    return int(free * SHARE_OF_FREE_MEMORY)


def image_bytes(split: ImageSplit | ResidentSplit) -> int:
    """Of one raw image, uint8."""
    return split.manifest.channels * split.manifest.image_size**2
