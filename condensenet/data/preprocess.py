"""Applying a network's ``Preprocessing`` to image files: the same operations as in the evaluation of training.

Shapes: N images, C channels, S x S pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from condensenet.data.decoding import decode, evaluation_view
from condensenet.data.image_files import MAX_BYTES, check_header, check_sides
from condensenet.data.prepared import normalise
from condensenet.files import read_regular
from condensenet.preprocessing import Preprocessing

Image = str | Path | bytes | Tensor


def load_images(images: Sequence[Image], preprocessing: Preprocessing) -> Tensor:
    """The network's input, float32 (N, C, S, S), from paths, contents of files or uint8 tensors (C, H, W).

    Raises ``OSError`` for a file that cannot be read, ``ValueError`` for one that is no image, both with its name.
    """
    size, shorter_side = preprocessing.image_size, preprocessing.resize_shorter
    views = [evaluation_view(_pixels(image, preprocessing), size, shorter_side) for image in images]
    pixels_NCSS = torch.stack(views)
    return normalise(pixels_NCSS.numpy(), preprocessing)


def _pixels(image: Image, preprocessing: Preprocessing) -> Tensor:
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != preprocessing.channels:
            allowed = f"uint8 ({preprocessing.channels}, height, width)"
            raise ValueError(f"an image of {image.dtype} {tuple(image.shape)} is not allowed: {allowed}")
        check_sides(image.shape[2], image.shape[1])
        return image
    content = image if isinstance(image, bytes) else read_regular(image, MAX_BYTES)
    try:
        check_header(content)
        return decode(content, preprocessing.channels)
    except ValueError as error:
        name = "an image" if isinstance(image, bytes) else image
        raise ValueError(f"{name} cannot be decoded: {error}") from None
