"""RandAugment: a few operations for each image, drawn at random, all of one magnitude.

Operations and magnitudes are those of torchvision's ``v2.RandAugment``, to the bit. That draws from the global
generator, so there an image gets what its thread happens to draw; here it is a function of (seed, epoch, image).

Source: Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space", 2020.
Shapes: N images, O operations for each, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from math import atan, degrees
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condensenet.data import randomness

BINS = 30  # magnitudes are in 0..BINS
Level = Callable[..., float]  # from the values at the highest magnitude and at 0 (default: 0) to that at the one in use
Operation = Callable[[Any, Tensor, Level], Tensor]  # of torchvision's functions and uint8 (C, H, W)


def randaugment_uniforms(indices: np.ndarray, operations: int, seed: int, epoch: int) -> np.ndarray:
    """The random numbers in [0, 1) for ``randaugment``: (N, O, 2)."""
    purposes = randomness.RANDAUGMENT + np.arange(2 * operations)
    return randomness.uniform(seed, epoch, indices[:, None], purposes).reshape(-1, operations, 2)


def randaugment(image_CHW: Tensor, magnitude: int, uniforms_O2: np.ndarray) -> Tensor:
    """uint8 (C, H, W) after the operations that ``uniforms_O2`` choose, with their signs."""
    names = list(OPERATIONS)
    for which, sign in uniforms_O2.tolist():
        image_CHW = apply(image_CHW, names[int(which * len(names))], magnitude, is_negative=sign < 0.5)
    return image_CHW


def apply(image_CHW: Tensor, name: str, magnitude: int, *, is_negative: bool) -> Tensor:
    """One operation; those without a direction take no notice of ``is_negative``."""
    from torchvision.transforms.v2 import functional  # slow to import

    sign = -1 if is_negative and name in SIGNED else 1

    def level(highest: float, lowest: float = 0.0) -> float:
        return sign * float(torch.linspace(lowest, highest, BINS + 1)[magnitude])

    return OPERATIONS[name](functional, image_CHW, level)


def _affine(
    f: Any, image_CHW: Tensor, translate: tuple[int, int] = (0, 0), shear: tuple[float, float] | None = None
) -> Tensor:
    corner = None if shear is None else [0.0, 0.0]
    moved: Tensor = f.affine(
        image_CHW, angle=0.0, translate=list(translate), scale=1.0, shear=list(shear or (0.0, 0.0)), center=corner
    )
    return moved


def _shear(level: Level) -> float:
    return degrees(atan(level(0.3)))


def _shift(level: Level, side: int) -> int:
    return int(level(150 / 331 * side))


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda f, x, level: x,
    "ShearX": lambda f, x, level: _affine(f, x, shear=(_shear(level), 0.0)),
    "ShearY": lambda f, x, level: _affine(f, x, shear=(0.0, _shear(level))),
    "TranslateX": lambda f, x, level: _affine(f, x, translate=(_shift(level, x.shape[2]), 0)),
    "TranslateY": lambda f, x, level: _affine(f, x, translate=(0, _shift(level, x.shape[1]))),
    "Rotate": lambda f, x, level: f.rotate(x, angle=level(30)),
    "Brightness": lambda f, x, level: f.adjust_brightness(x, 1 + level(0.9)),
    "Color": lambda f, x, level: f.adjust_saturation(x, 1 + level(0.9)),
    "Contrast": lambda f, x, level: f.adjust_contrast(x, 1 + level(0.9)),
    "Sharpness": lambda f, x, level: f.adjust_sharpness(x, 1 + level(0.9)),
    "Posterize": lambda f, x, level: f.posterize(x, bits=round(8 - level(4))),
    "Solarize": lambda f, x, level: f.solarize(x, threshold=255 * level(0, 1)),
    "AutoContrast": lambda f, x, level: f.autocontrast(x),
    "Equalize": lambda f, x, level: f.equalize(x),
}
SHIFTS = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
SIGNED = SHIFTS | {"Brightness", "Color", "Contrast", "Sharpness"}
