"""Decoding images, and bringing them to the network's input size.

Shapes: A attempts at a resized crop, C channels, H height, W width.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from condensenet.data.augment import resized_crop_box
from condensenet.data.image_files import decode_png, is_png
from condensenet.preprocessing import EVALUATION_MARGIN


def decode(content: np.ndarray | bytes, channels: int) -> Tensor:
    """uint8 (channels, H, W) from the content of a JPEG, PNG, GIF or WebP file whose header is believed.

    Gray, palette, transparent and CMYK images are converted to RGB (3 channels) or gray (1 channel). Raises
    ``ValueError`` if the image is corrupt or incomplete.
    """
    from torchvision.io import ImageReadMode, decode_image  # slow to import

    if len(content) == 0:
        raise ValueError("it is empty")
    if is_png(content):
        return decode_png(content, channels)
    content = np.frombuffer(bytearray(content), dtype=np.uint8) if isinstance(content, bytes) else content
    try:
        image = decode_image(torch.from_numpy(content), mode=ImageReadMode.RGB if channels == 3 else ImageReadMode.GRAY)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(re.sub(r"^\w+, \S+:\d+, ", "", reason)) from None  # without torchvision's source location
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != channels:
        raise ValueError(f"it holds {image.dtype} {tuple(image.shape)}, not 8-bit (channels, height, width)")
    return image


def resize(image_CHW: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resize with antialiasing, from uint8 to uint8."""
    if image_CHW.shape[1:] == (height, width):
        return image_CHW
    return interpolate(image_CHW[None], (height, width), mode="bilinear", antialias=True)[0]


def resize_shorter(image_CHW: Tensor, shorter_side: int) -> Tensor:
    """Resize so that the shorter side has ``shorter_side`` pixels, keeping the aspect ratio.

    The longer side is rounded down, as in torchvision's ``Resize``.
    """
    height, width = image_CHW.shape[1:]
    longer_side = shorter_side * max(height, width) // min(height, width)
    return resize(image_CHW, *((shorter_side, longer_side) if height <= width else (longer_side, shorter_side)))


def evaluation_view(image_CHW: Tensor, size: int, shorter_side: int | None = None) -> Tensor:
    """The centre crop for evaluation, after resizing the shorter side to ``shorter_side`` (default: size * 256 / 224).

    For 224 the same pixels as torchvision's ``Resize(256)`` and ``CenterCrop(224)`` give for a tensor.
    """
    image_CHW = resize_shorter(image_CHW, shorter_side or round(size * EVALUATION_MARGIN))
    top, left = (round((side - size) / 2) for side in image_CHW.shape[1:])  # a half to the even number
    return image_CHW[:, top : top + size, left : left + size]


def training_view(image_CHW: Tensor, size: int, uniforms_A4: np.ndarray) -> Tensor:
    """The random resized crop for training (see ``resized_crop_box``)."""
    rows, columns = image_CHW.shape[1:]
    top, left, height, width = resized_crop_box(rows, columns, uniforms_A4)
    return resize(image_CHW[:, top : top + height, left : left + width], size, size)


def training_view_of_rows(
    read_rows: Callable[[int, int], np.ndarray], rows: int, columns: int, size: int, uniforms_A4: np.ndarray
) -> Tensor:
    """``training_view`` of an image of ``rows`` x ``columns`` pixels of which only the crop's rows are read.

    ``read_rows(top, height)`` gives uint8 (height, columns, C).
    """
    top, left, height, width = resized_crop_box(rows, columns, uniforms_A4)
    part_HWC = read_rows(top, height)[:, left : left + width]
    return resize(torch.from_numpy(part_HWC).permute(2, 0, 1), size, size)
