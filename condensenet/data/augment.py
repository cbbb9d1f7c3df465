"""Training-time changes of images, on uint8 pixels and before they are normalised, as the authors do.

Everything random comes from ``condensenet.data.randomness``.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from condensenet.config import AugmentConfig
from condensenet.data import randomness

# N images, C channels, H height, W width, A attempts
AREA = (0.08, 1.0)  # of a resized crop, as a share of the image's
RATIO = (3 / 4, 4 / 3)  # of its width to its height
ATTEMPTS = 10


@dataclass(frozen=True)
class Draws:
    """What is drawn for each of N images: where its window begins in the padded image, and whether it is mirrored."""

    rows_N: np.ndarray  # int64, 0..2*pad
    columns_N: np.ndarray
    flipped_N: np.ndarray  # bool


def draw(indices: np.ndarray, augment: AugmentConfig, seed: int, epoch: int) -> Draws:
    """The draws of ``augment`` for the images ``indices``; the resized crop has its own."""
    rows_N, columns_N = (
        randomness.below(2 * augment.pad + 1, seed, epoch, indices, number)
        if augment.pad
        else np.zeros(len(indices), dtype=np.int64)
        for number in (randomness.SHIFT_ROWS, randomness.SHIFT_COLUMNS)
    )
    flipped_N = np.zeros(len(indices), dtype=bool)
    if augment.flip:
        flipped_N = randomness.bits(seed, epoch, indices, randomness.FLIP) >> np.uint64(63) == 1
    return Draws(rows_N, columns_N, flipped_N)


def augment_batch(
    images_NCHW: np.ndarray, indices: np.ndarray, augment: AugmentConfig, seed: int, epoch: int
) -> np.ndarray:
    """Pad and crop back, then flip, the whole batch at once. A resized crop was taken when the image was decoded."""
    draws = draw(indices, augment, seed, epoch)
    if augment.crop == "pad":
        images_NCHW = shift(images_NCHW, augment.pad, draws.rows_N, draws.columns_N)
    return flip(images_NCHW, draws.flipped_N) if augment.flip else images_NCHW


def shift(images_NCHW: np.ndarray, pad: int, rows_N: np.ndarray, columns_N: np.ndarray) -> np.ndarray:
    """Pad by ``pad`` pixels of 0 and cut the windows that begin at (rows, columns), each in 0..2*pad."""
    height, width = images_NCHW.shape[2:]
    padded = np.pad(images_NCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(len(images_NCHW)), :, rows_N, columns_N]


def flip(images_NCHW: np.ndarray, flipped_N: np.ndarray) -> np.ndarray:
    """Mirror the images that ``flipped_N`` (bool) names, left to right."""
    result = images_NCHW.copy()
    result[flipped_N] = images_NCHW[flipped_N, :, :, ::-1]
    return result


def resized_crop_draws(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """What ``resized_crop_box`` needs for each image: (N, attempts, 4) in [0, 1)."""
    draws = randomness.RESIZED_CROP + np.arange(4 * ATTEMPTS)
    return randomness.uniform(seed, epoch, indices[:, None], draws).reshape(-1, ATTEMPTS, 4)


def resized_crop_box(height: int, width: int, draws_A4: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image: 8 to 100% of its area, ratio 3/4 to 4/3.

    The first of ten drawn boxes that fits; else the centre, cut to the nearest allowed ratio. Source: Szegedy et
    al., Going deeper with convolutions (2015), section 6; torchvision's ``RandomResizedCrop`` draws alike.
    """
    for area, ratio, down, right in draws_A4.tolist():
        pixels = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        aspect = exp(log(RATIO[0]) + ratio * (log(RATIO[1]) - log(RATIO[0])))
        w, h = round(sqrt(pixels * aspect)), round(sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
