"""What is done with one encoded image: its header is checked, it is decoded once, and made what is to be stored."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from condensenet.data.decoding import decode, resize_shorter
from condensenet.data.manifest import Encoding
from tasks.params import DataParams

FORMATS = ("JPEG", "PNG", "GIF", "WEBP")
JPEG_QUALITY = 90  # of downscaled images
MAX_RATIO = 40  # of an image's sides: the resize for evaluation would blow up a longer one


class OtherSize(Exception):
    """An image does not have the network's input size."""


@dataclass(frozen=True)
class Examined:
    """What to store of an image, its height and width, and how often each pixel value occurs per channel."""

    content: bytes
    size: tuple[int, int]
    histogram_CV: np.ndarray  # int64


def examine(content: bytes, data: DataParams, encoding: Encoding) -> Examined:
    """Raises ``ValueError`` if the image is corrupt, ``OtherSize`` if it is not as large as raw images must be."""
    check_header(content)
    image = decode(content, data.channels)
    size = data.image_size
    if encoding == "raw" and image.shape[1:] != (size, size):
        raise OtherSize
    if data.shorter_side is not None and min(image.shape[1:]) > data.shorter_side and encoding != "raw":
        image = resize_shorter(image, data.shorter_side)
        content = jpeg(image) if encoding == "encoded" else b""
    planes_CHW = image.contiguous()
    if encoding == "raw":
        content = planes_CHW.numpy().tobytes()
    elif encoding == "pixels":
        content = image.permute(1, 2, 0).contiguous().numpy().tobytes()
    return Examined(content, (image.shape[1], image.shape[2]), histogram(planes_CHW))


def check_header(content: bytes) -> None:
    """Raise ``ValueError`` if the header claims more pixels than Pillow's limit: they would not fit in memory."""
    if not content:
        raise ValueError("it is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                width, height = image.size
                is_animated = image.format == "GIF" and getattr(image, "is_animated", False)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(f"its header is not believed: {error}") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f": {error}"
        raise ValueError(f"it is no whole {', '.join(FORMATS)} file{reason}") from None
    if is_animated:
        raise ValueError("it is animated")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{width}x{height} pixels: one side is more than {MAX_RATIO} times the other")


def histogram(image_CHW: Tensor) -> np.ndarray:
    """How often each value occurs per channel: int64 (C, 256)."""
    return torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in image_CHW]).numpy()


def jpeg(image_CHW: Tensor) -> bytes:
    from torchvision.io import encode_jpeg

    return encode_jpeg(image_CHW.contiguous(), quality=JPEG_QUALITY).numpy().tobytes()
