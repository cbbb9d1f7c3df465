"""Encoded images to pixels, at the size that the network sees."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from condensenet.data.augment import resized_crop_box

EVALUATION_MARGIN = 256 / 224  # the shorter side before the centre crop, over the size of the crop


def decode(content: np.ndarray | bytes, channels: int) -> Tensor:
    """uint8 (channels, H, W) of a JPEG or PNG file: grey, palette, transparent and CMYK images become RGB or grey.

    Raises ``ValueError`` for what is no whole image.
    """
    from torchvision.io import ImageReadMode, decode_image  # takes seconds to import

    if len(content) == 0:
        raise ValueError("it is empty")
    content = np.frombuffer(bytearray(content), dtype=np.uint8) if isinstance(content, bytes) else content
    try:
        image = decode_image(torch.from_numpy(content), mode=ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(re.sub(r"^\w+, \S+:\d+, ", "", reason)) from None  # without the place in torchvision's source
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels:
        raise ValueError(f"it holds {image.dtype} {tuple(image.shape)}, not 8-bit (channels, height, width)")
    return image


def resize(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, uint8 in and out."""
    if image_CHW.shape[1:] == (height, width):
        return image_CHW
    return interpolate(image_CHW[None], (height, width), mode="bilinear", antialias=True)[0]


def resize_shorter(image_CHW: Tensor, shorter_side: int) -> Tensor:
    """Keep the ratio and make the shorter side ``shorter_side`` pixels."""
    height, width = image_CHW.shape[1:]
    scale = shorter_side / min(height, width)
    return resize(image_CHW, max(round(height * scale), shorter_side), max(round(width * scale), shorter_side))


def evaluation_view(image_CHW: Tensor, size: int) -> Tensor:
    """The centre: as it is at ``size`` x ``size``, else resized to a shorter side of 256/224 of it and cropped."""
    if image_CHW.shape[1:] == (size, size):
        return image_CHW
    image_CHW = resize_shorter(image_CHW, round(size * EVALUATION_MARGIN))
    top, left = ((side - size) // 2 for side in image_CHW.shape[1:])
    return image_CHW[:, top : top + size, left : left + size]


def training_view(image_CHW: Tensor, size: int, draws_A4: np.ndarray) -> Tensor:
    """A random resized crop (``resized_crop_box``)."""
    rows, columns = image_CHW.shape[1:]
    top, left, height, width = resized_crop_box(rows, columns, draws_A4)
    return resize(image_CHW[:, top : top + height, left : left + width], size, size)
