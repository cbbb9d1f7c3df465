"""Training-time augmentation, on uint8 pixels and before normalisation, as the authors do it.

All random numbers come from ``condensenet.data.randomness``. ``resident`` does the same on a GPU, and ``decoding`` cuts
resized crops out of encoded images.

Shapes: N images, C channels, H height, W width, A attempts at a resized crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt

import numpy as np

from condensenet.config import AugmentConfig
from condensenet.data import randomness

AREA_RANGE = (0.08, 1.0)  # of a resized crop, as a share of the image's area
ASPECT_RATIO_RANGE = (3 / 4, 4 / 3)  # width / height of a resized crop
ATTEMPTS = 10
SIZE_STEP = 32  # pixels between the crop sizes of progressive resizing


@dataclass(frozen=True)
class CropAndFlip:
    """The random crop and flip of N images: where each crop begins in the padded image, and whether it is flipped."""

    top_N: np.ndarray  # int64, 0..2*pad
    left_N: np.ndarray
    flipped_N: np.ndarray  # bool


def random_crop_and_flip(indices: np.ndarray, augment: AugmentConfig, seed: int, epoch: int) -> CropAndFlip:
    """The random crops and flips of ``augment`` for the images ``indices`` (N,)."""
    top_N, left_N = (
        randomness.below(2 * augment.pad + 1, seed, epoch, indices, purpose)
        if augment.pad
        else np.zeros(len(indices), dtype=np.int64)
        for purpose in (randomness.CROP_TOP, randomness.CROP_LEFT)
    )
    flipped_N = np.zeros(len(indices), dtype=bool)
    if augment.flip:
        flipped_N = randomness.bits(seed, epoch, indices, randomness.FLIP) >> np.uint64(63) == 1
    return CropAndFlip(top_N, left_N, flipped_N)


def augment_batch(
    images_NCHW: np.ndarray, indices: np.ndarray, augment: AugmentConfig, seed: int, epoch: int
) -> np.ndarray:
    """Crop from the padded images, then flip. (Resized crops were taken when the images were decoded.)"""
    choice = random_crop_and_flip(indices, augment, seed, epoch)
    if augment.crop == "pad":
        images_NCHW = crop_padded(images_NCHW, augment.pad, choice.top_N, choice.left_N)
    return flip(images_NCHW, choice.flipped_N) if augment.flip else images_NCHW


def crop_padded(images_NCHW: np.ndarray, pad: int, top_N: np.ndarray, left_N: np.ndarray) -> np.ndarray:
    """Pad by ``pad`` zero pixels, then crop to the original size at (top, left), each in 0..2*pad."""
    height, width = images_NCHW.shape[2:]
    padded = np.pad(images_NCHW, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(len(images_NCHW)), :, top_N, left_N]


def flip(images_NCHW: np.ndarray, flipped_N: np.ndarray) -> np.ndarray:
    """Mirror the images selected by ``flipped_N`` (bool) from left to right."""
    result = images_NCHW.copy()
    result[flipped_N] = images_NCHW[flipped_N, :, :, ::-1]
    return result


def crop_size(augment: AugmentConfig, image_size: int, epoch: int, epochs: int) -> int:
    """The height and width in pixels of the training images of ``epoch``, counted from 0.

    ``image_size`` unless ``augment`` says otherwise. With ``first_crop_size`` it grows in steps of 32, and each size
    has an equal share of the epochs; with fewer epochs than sizes some have none, but never the last. Source: Tan and
    Le, "EfficientNetV2", 2021, section 4. Raises ``ValueError`` if the first size is larger than the last one.
    """
    last = augment.crop_size or image_size
    augment.check_crop_sizes(last)
    sizes = [*range(augment.first_crop_size or last, last, SIZE_STEP), last]
    return sizes[-1 - (epochs - 1 - epoch) * len(sizes) // epochs]


def resized_crop_uniforms(indices: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The random numbers in [0, 1) for ``resized_crop_box``, per image: (N, A, 4)."""
    purposes = randomness.RESIZED_CROP + np.arange(4 * ATTEMPTS)
    return randomness.uniform(seed, epoch, indices[:, None], purposes).reshape(-1, ATTEMPTS, 4)


def resized_crop_box(height: int, width: int, uniforms_A4: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part of an image: 8 to 100% of its area, aspect ratio 3/4 to 4/3.

    It is the first of ten random boxes that fits, or else the largest centred box of an allowed aspect ratio. Source:
    Szegedy et al., Going deeper with convolutions (2015), section 6; like torchvision's ``RandomResizedCrop``.
    """
    low, high = (log(ratio) for ratio in ASPECT_RATIO_RANGE)
    for area, ratio, down, right in uniforms_A4.tolist():
        pixels = height * width * (AREA_RANGE[0] + area * (AREA_RANGE[1] - AREA_RANGE[0]))
        aspect = exp(low + ratio * (high - low))
        w, h = round(sqrt(pixels * aspect)), round(sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    w = min(width, round(height * ASPECT_RATIO_RANGE[1]))
    h = min(height, round(width / ASPECT_RATIO_RANGE[0]))
    return (height - h) // 2, (width - w) // 2, h, w
