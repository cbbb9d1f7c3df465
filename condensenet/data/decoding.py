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

MAX_AT_ONCE = 2**25  # pixels of a resized image, twice the largest square: a side may be 40 times the other


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
    return resize(image_CHW, *_resized_sides(image_CHW, shorter_side))


def _resized_sides(image_CHW: Tensor, shorter_side: int) -> tuple[int, int]:
    height, width = image_CHW.shape[1:]
    longer_side = shorter_side * max(height, width) // min(height, width)
    return (shorter_side, longer_side) if height <= width else (longer_side, shorter_side)


def evaluation_view(image_CHW: Tensor, size: int, shorter_side: int | None = None) -> Tensor:
    """The centre crop for evaluation, after resizing the shorter side to ``shorter_side`` (default: size * 256 / 224).

    For 224 the same pixels as torchvision's ``Resize(256)`` and ``CenterCrop(224)`` give for a tensor. The crop keeps
    none of the rest in memory, and what the resized image takes at a time is bounded.
    """
    height, width = _resized_sides(image_CHW, shorter_side or round(size * EVALUATION_MARGIN))
    top, left = (round((side - size) / 2) for side in (height, width))  # a half to the even number
    rows, columns = slice(top, top + size), slice(left, left + size)
    if height * width <= MAX_AT_ONCE:
        return resize(image_CHW, height, width)[:, rows, columns].clone()
    return _resized_part(image_CHW, height, width, rows, columns)


def _resized_part(image_CHW: Tensor, height: int, width: int, rows: slice, columns: slice) -> Tensor:
    """``resize(image_CHW, height, width)[:, rows, columns]``, made of strips.

    torch, too, resizes every row first, rounds to uint8 and resizes the columns. No strip is cut off along the side
    that is being resized, since a pixel's position would be rounded differently there.
    """
    needed = _read_rows(image_CHW.shape[1], height, rows)
    strips = image_CHW[:, needed].split(max(1, MAX_AT_ONCE // width), dim=1)
    wide = torch.cat([resize(strip, strip.shape[1], width)[:, :, columns] for strip in strips], dim=1)
    at_once = max(2, min(wide.shape[2], MAX_AT_ONCE // height))  # torch repeats a column's first pixel without AVX2
    parts = []
    for strip in wide.split(at_once, dim=2):
        tall = image_CHW.new_zeros((len(strip), image_CHW.shape[1], at_once))
        tall[:, needed, : strip.shape[2]] = strip
        parts.append(resize(tall, height, at_once)[:, rows, : strip.shape[2]].clone())
    return torch.cat(parts, dim=2)


def _read_rows(rows_in: int, rows_out: int, wanted: slice) -> slice:
    """The rows of an image from which antialiasing makes the ``wanted`` ones of its resized version, and a few more."""
    scale = rows_in / rows_out
    reach = max(scale, 1) + 2
    return slice(max(0, int(wanted.start * scale - reach)), min(rows_in, int(wanted.stop * scale + reach) + 1))


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
