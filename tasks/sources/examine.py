"""What is done with one encoded image: its header is checked, it is decoded once, and made what is to be stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from condensenet.data.decoding import decode, resize_shorter
from condensenet.data.image_files import check_header
from condensenet.data.manifest import Encoding
from condensenet.file_locks import lock
from tasks.params import DataParams

JPEG_QUALITY = 90  # of downscaled images
LARGE_PIXELS = 10_000_000  # 60 MB while it is decoded: 6 bytes a pixel were measured


class OtherSize(Exception):
    """An image does not have the network's input size."""


@dataclass(frozen=True)
class Examined:
    """What to store of an image, its height and width, and how often each pixel value occurs per channel."""

    content: bytes
    size: tuple[int, int]
    histogram_CV: np.ndarray  # int64


def examine(content: bytes, data: DataParams, encoding: Encoding, turn: Path | None = None) -> Examined:
    """Raises ``ValueError`` if the image is corrupt, ``OtherSize`` if it is not as large as raw images must be.

    Processes that prepare images share a file ``turn``, by which only one at a time has a large image in memory.
    """
    pixels = check_header(content)
    with _turn(turn) if turn is not None and pixels > LARGE_PIXELS else nullcontext():
        return _examined(content, data, encoding)


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        lock(file)
        yield


def _examined(content: bytes, data: DataParams, encoding: Encoding) -> Examined:
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


def histogram(image_CHW: Tensor) -> np.ndarray:
    """How often each value occurs per channel: int64 (C, 256)."""
    return torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in image_CHW]).numpy()


def jpeg(image_CHW: Tensor) -> bytes:
    from torchvision.io import encode_jpeg

    return encode_jpeg(image_CHW.contiguous(), quality=JPEG_QUALITY).numpy().tobytes()
